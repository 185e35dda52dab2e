//! Leases: blocks of the gateways' region that stay until they are read.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, sleep};

use super::{CallError, ChainQuery, LookupAnswer, Opened, opened::VIEW_BEHIND_WAIT};

/// A lease on blocks of one namespace. It ends when it is released or its time is over.
///
/// Dropping it does neither: release it, or let it run out.
#[derive(Clone)]
pub struct Lease {
    opened: Opened,
    name: Bytes,
    until: Option<Instant>,
}

/// What a lookup found, and what of it is held.
#[derive(Clone)]
pub struct Held {
    /// [`ChainMatch::leased_blocks`](super::ChainMatch::leased_blocks) says how much of each
    /// chain is held.
    pub answer: LookupAnswer,
    /// None: nothing is.
    pub lease: Option<Lease>,
}

/// What gateways answer about a lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseAnswer {
    /// Blocks that it covers, over all parts; of a release: that it covered.
    pub blocks: u32,
    /// For how long, from when the nodes granted it.
    pub hold: Duration,
    /// Some of its nodes do not have it any more, or did not answer: look the chain up again.
    pub partial: bool,
}

/// Which lease, and what about it.
#[derive(Debug, Clone)]
pub(crate) enum Wish {
    Renew(Bytes, Duration),
    Release(Bytes),
}

impl Opened {
    /// As [`Opened::lookup`]; what the gateways' region has of each chain without a hole is
    /// kept from being evicted for `hold` (at most 5 minutes).
    ///
    /// # Errors
    /// When the gateways refuse, cannot be reached, or do not answer in time. What was leased
    /// by an answer that was lost ends by itself.
    pub async fn lookup_held(
        &self,
        queries: &[ChainQuery],
        hold: Duration,
        deadline: Duration,
    ) -> Result<Held, CallError> {
        self.check_queries(queries)?;
        let deadline = Instant::now() + deadline;
        let shared = self.shared();
        loop {
            let begun = Instant::now();
            let answer = shared.ask("lookup", deadline, |rpc, left| {
                let (id, at_least) = (self.namespace().id, shared.at_least());
                async move { rpc.lookup_held(id, queries, &at_least, hold, left).await }
            });
            let (answer, lease) = answer.await?;
            let again = answer.view_behind && !self.is_once();
            if again && Instant::now() + VIEW_BEHIND_WAIT < deadline {
                sleep(VIEW_BEHIND_WAIT).await;
                continue;
            }
            let lease = lease.map(|(name, hold)| Lease {
                opened: self.clone(),
                name,
                until: Some(begun + hold),
            });
            return Ok(Held { answer, lease });
        }
    }

    /// A lease by the name that a gateway gave it, for instance to another process.
    #[must_use]
    pub fn lease(&self, name: Bytes) -> Lease {
        Lease {
            opened: self.clone(),
            name,
            until: None,
        }
    }
}

impl Lease {
    /// Its name, good at every gateway of the region. Whoever knows it may end the lease.
    #[must_use]
    pub fn name(&self) -> &Bytes {
        &self.name
    }

    /// Until when the blocks stay at least, as far as this process knows.
    #[must_use]
    pub fn until(&self) -> Option<Instant> {
        self.until
    }

    /// Holds the blocks for `hold` from now on.
    ///
    /// # Errors
    /// When the lease has ended (the problem is [`crate::Problem::UnknownLease`]), or the
    /// gateways refuse, cannot be reached, or do not answer in time.
    pub async fn renew(
        &mut self,
        hold: Duration,
        deadline: Duration,
    ) -> Result<LeaseAnswer, CallError> {
        let begun = Instant::now();
        let renewed = self.tell(Wish::Renew(self.name.clone(), hold), deadline);
        let renewed = renewed.await?;
        self.until = Some(begun + renewed.hold);
        Ok(renewed)
    }

    /// Lets the blocks go. That the lease has ended already is no error.
    ///
    /// # Errors
    /// When the gateways refuse, cannot be reached, or do not answer in time: the lease ends
    /// by itself then.
    pub async fn release(self, deadline: Duration) -> Result<LeaseAnswer, CallError> {
        self.tell(Wish::Release(self.name.clone()), deadline).await
    }

    async fn tell(&self, wish: Wish, deadline: Duration) -> Result<LeaseAnswer, CallError> {
        let deadline = Instant::now() + deadline;
        let (shared, id) = (self.opened.shared(), self.opened.namespace().id);
        let told = shared.ask("lease", deadline, |rpc, left| rpc.lease(id, &wish, left));
        told.await
    }
}
