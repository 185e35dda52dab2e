//! How long a node may serve after it heard from its leader.
//!
//! A delete is acknowledged once every live node has applied it, or `serve_lease` (S) after
//! that for those that did not. So whoever may not have applied an entry S after its
//! commitment must not serve. The leader grants a lease only while
//! - its quorum's last acknowledgement is younger than S/4 (nobody else has led, and committed,
//!   for longer than that), and
//! - the node has applied what the leader had applied S/4 ago, and all that was committed
//!   before the leader came to lead.
//!
//! The node counts from when it sent the report that is answered, for 3/4 S less a margin for
//! clocks that run at different speeds. Together that stays below S.

use std::time::Duration;

use tokio::{
    sync::watch,
    time::{Instant, timeout_at},
};

/// How old the leader's knowledge may be when it grants a lease.
pub(super) fn slack(serve_lease: Duration) -> Duration {
    serve_lease / 4
}

/// A node's lease.
#[derive(Debug)]
pub(super) struct Lease {
    until: watch::Sender<Option<Instant>>,
    length: Duration,
}

impl Lease {
    /// None yet.
    pub(super) fn new(serve_lease: Duration) -> Self {
        Self {
            until: watch::Sender::new(None),
            length: serve_lease - slack(serve_lease) - serve_lease / 20,
        }
    }

    /// The leader granted it in answer to a report.
    pub(super) fn granted(&self, sent: Instant) {
        let granted = Some(sent + self.length);
        self.until
            .send_modify(|until| *until = (*until).max(granted));
    }

    /// Whether the node may serve.
    pub(super) fn valid(&self, now: Instant) -> bool {
        self.until.borrow().is_some_and(|until| now < until)
    }

    /// As [`Lease::valid`], waiting for the leader's next grant until `by`.
    pub(super) async fn valid_by(&self, by: Instant) -> bool {
        let mut grants = self.until.subscribe();
        let holds = |until: &Option<Instant>| until.is_some_and(|until| Instant::now() < until);
        timeout_at(by, grants.wait_for(holds)).await.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_lease_counts_from_the_report_and_ends_before_serve_lease() {
        let serve_lease = Duration::from_secs(5);
        let lease = Lease::new(serve_lease);
        let sent = Instant::now();
        assert!(!lease.valid(sent));
        lease.granted(sent);
        assert!(lease.valid(sent + Duration::from_secs(3)));
        assert!(!lease.valid(sent + serve_lease - slack(serve_lease)));
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_for_a_lease_gets_the_next_grant_or_its_time_is_up() {
        let lease = Lease::new(Duration::from_secs(5));
        let by = Instant::now() + Duration::from_secs(1);
        let grant = async {
            tokio::task::yield_now().await;
            lease.granted(Instant::now());
        };
        assert!(futures::join!(lease.valid_by(by), grant).0);
        let silent = Lease::new(Duration::from_secs(5));
        assert!(!silent.valid_by(by).await);
        assert!(Instant::now() >= by);
    }
}
