//! What this node knows about its own leading: since when, how fresh its quorum is, and what
//! every node must have applied before it may serve.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use openraft::ServerState;
use tokio::{
    sync::watch,
    time::{self, Instant, MissedTickBehavior},
};
use tokio_util::sync::CancellationToken;

use super::{
    lease,
    raft::{Metrics, Raft},
};

/// Samples of the applied index that a leader keeps: enough to look back by the slack.
const SAMPLES: u32 = 16;

#[derive(Debug)]
struct Lead {
    term: u64,
    since: Instant,
    /// The only voter needs nobody's acknowledgement.
    sole: bool,
    acknowledged: Option<Instant>,
    /// Covers all that was committed before this node led; none: not known yet.
    floor: Option<u64>,
    /// Applied index by time, ascending.
    applied: VecDeque<(Instant, u64)>,
}

impl Lead {
    fn may_serve(&self, now: Instant, applied: u64, slack: Duration) -> bool {
        let fresh = self.acknowledged.is_some_and(|at| now < at + slack);
        let Some(first) = self.floor else {
            return false;
        };
        let old = self.applied.iter().rev().find(|(at, _)| *at + slack <= now);
        let floor = first.max(old.map_or(0, |(_, index)| *index));
        (self.sole || fresh) && applied >= floor
    }

    fn sample(&mut self, now: Instant, applied: u64, slack: Duration) {
        let due = self
            .applied
            .back()
            .is_none_or(|(at, _)| now >= *at + slack / (SAMPLES / 2));
        if due {
            self.applied.push_back((now, applied));
        }
        while self.applied.len() > SAMPLES as usize {
            self.applied.pop_front();
        }
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Leadership {
    slack: Duration,
    lead: Mutex<Option<Lead>>,
    leads: watch::Sender<bool>,
}

impl Leadership {
    /// Not leading.
    pub(super) fn new(serve_lease: Duration) -> Self {
        Self {
            slack: lease::slack(serve_lease),
            lead: Mutex::new(None),
            leads: watch::Sender::new(false),
        }
    }

    fn lead(&self) -> MutexGuard<'_, Option<Lead>> {
        self.lead.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Since when this node leads.
    pub(super) fn since(&self) -> Option<Instant> {
        self.lead().as_ref().map(|lead| lead.since)
    }

    /// Whether this node leads, and its changes.
    pub(super) fn leads(&self) -> watch::Receiver<bool> {
        self.leads.subscribe()
    }

    /// Whether a node that has applied so far may serve.
    pub(super) fn may_serve(&self, now: Instant, applied: u64) -> bool {
        let lead = self.lead();
        lead.as_ref()
            .is_some_and(|lead| lead.may_serve(now, applied, self.slack))
    }

    /// Follows Raft until `stop`.
    pub(super) async fn run(
        self: Arc<Self>,
        raft: Raft,
        applied: watch::Receiver<u64>,
        stop: CancellationToken,
    ) {
        let mut metrics = raft.metrics();
        let mut tick = time::interval(self.slack / SAMPLES);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                changed = metrics.changed() => if changed.is_err() { return },
                _ = tick.tick() => {}
            }
            let now = Instant::now();
            let applied = *applied.borrow();
            let term_without_floor = self.observe(now, &metrics.borrow_and_update(), applied);
            if let Some(term) = term_without_floor
                && !self.find_floor(&raft, term).await
            {
                // Asking changes Raft's metrics: members that refuse at once would be asked
                // without a pause.
                stop.run_until_cancelled(tick.tick()).await;
            }
        }
    }

    /// Takes over what Raft says; returns the term when it is led without a floor.
    fn observe(&self, now: Instant, metrics: &Metrics, applied: u64) -> Option<u64> {
        let leads = metrics.state == ServerState::Leader && metrics.running_state.is_ok();
        let mut slot = self.lead();
        if !leads {
            *slot = None;
        } else if slot
            .as_ref()
            .is_none_or(|lead| lead.term != metrics.current_term)
        {
            *slot = Some(Lead {
                term: metrics.current_term,
                since: now,
                sole: false,
                acknowledged: None,
                floor: None,
                applied: VecDeque::new(),
            });
        }
        if let Some(lead) = slot.as_mut() {
            let acknowledged = metrics
                .millis_since_quorum_ack
                .and_then(|millis| now.checked_sub(Duration::from_millis(millis)));
            lead.acknowledged = lead.acknowledged.max(acknowledged);
            lead.sole = metrics.membership_config.voter_ids().count() == 1;
            lead.sample(now, applied, self.slack);
        }
        let without = slot.as_ref().filter(|lead| lead.floor.is_none());
        let term = without.map(|lead| lead.term);
        drop(slot);
        self.leads.send_if_modified(|was| {
            let changed = *was != leads;
            *was = leads;
            changed
        });
        term
    }

    /// Asks Raft up to where a reader must have applied; it then has a quorum's confirmation.
    /// False: it has none.
    async fn find_floor(&self, raft: &Raft, term: u64) -> bool {
        let asked = time::timeout(self.slack, raft.get_read_log_id()).await;
        let Ok(Ok((Some(id), _))) = asked else {
            return false;
        };
        if let Some(lead) = self.lead().as_mut()
            && lead.term == term
        {
            lead.floor = Some(id.index);
        }
        true
    }
}

#[cfg(test)]
#[path = "leadership_test.rs"]
mod tests;
