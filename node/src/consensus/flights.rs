//! Block changes of this node that the leader has not answered yet.

use std::collections::BTreeMap;

use kvmesh_directory::{command::BlockChange, limits::ENTRY_CHANGES_MAX};
use tokio::{
    sync::{OwnedSemaphorePermit, mpsc, oneshot},
    time::Instant,
};

use super::{attend_words::Notice, batcher::Committed, error::ProposeError};

/// Changes that one caller waits for.
pub(super) struct Submission {
    /// At most [`ENTRY_CHANGES_MAX`].
    pub(super) changes: Vec<BlockChange>,
    pub(super) reply: oneshot::Sender<Committed>,
    /// Bounds what waits on this node.
    pub(super) _room: OwnedSemaphorePermit,
}

struct Part {
    changes: usize,
    reply: oneshot::Sender<Committed>,
    _room: OwnedSemaphorePermit,
}

/// Changes of several callers, sent in one report.
struct Flight {
    sent: Instant,
    /// An earlier leader may have committed it.
    again: bool,
    changes: Vec<BlockChange>,
    parts: Vec<Part>,
}

/// See the module. The order of submissions is kept.
#[derive(Default)]
pub(super) struct Flights {
    open: BTreeMap<u64, Flight>,
    last_sequence: u64,
    held: Option<Submission>,
}

impl Flights {
    pub(super) fn len(&self) -> usize {
        self.open.len()
    }

    /// Whether a submission waits that did not fit the last flight.
    pub(super) fn holds(&self) -> bool {
        self.held.is_some()
    }

    /// Makes a flight of a submission and of those that wait behind it; returns its number
    /// and its changes. None when there is nothing to send.
    pub(super) fn take_off(
        &mut self,
        now: Instant,
        first: Option<Submission>,
        waiting: &mut mpsc::Receiver<Submission>,
    ) -> Option<(u64, Vec<BlockChange>)> {
        debug_assert!(first.is_none() || self.held.is_none());
        let mut next = first.or_else(|| self.held.take());
        let (mut changes, mut parts) = (Vec::new(), Vec::new());
        while let Some(submission) = next.or_else(|| waiting.try_recv().ok()) {
            if changes.len() + submission.changes.len() > ENTRY_CHANGES_MAX {
                self.held = Some(submission);
                break;
            }
            parts.push(Part {
                changes: submission.changes.len(),
                reply: submission.reply,
                _room: submission._room,
            });
            changes.extend(submission.changes);
            next = None;
        }
        if parts.is_empty() {
            return None;
        }
        self.last_sequence += 1;
        let flight = Flight {
            sent: now,
            again: false,
            changes: changes.clone(),
            parts,
        };
        self.open.insert(self.last_sequence, flight);
        Some((self.last_sequence, changes))
    }

    /// All that is open, to be sent to another leader; what nobody waits for any more is dropped.
    pub(super) fn again(&mut self, now: Instant) -> Vec<(u64, Vec<BlockChange>)> {
        self.open
            .retain(|_, flight| flight.parts.iter().any(|part| !part.reply.is_closed()));
        let again = self.open.iter_mut().map(|(sequence, flight)| {
            flight.sent = now;
            flight.again = true;
            (*sequence, flight.changes.clone())
        });
        again.collect()
    }

    /// Hands the leader's answer to whoever waits; returns when the flight was sent.
    pub(super) fn land(&mut self, notice: Notice) -> Option<Instant> {
        let flight = self.open.remove(&notice.sequence)?;
        let taken = notice.outcomes.len() == flight.changes.len();
        let mut outcomes = notice.outcomes.into_iter();
        for part in flight.parts {
            let mine = outcomes.by_ref().take(part.changes).collect();
            let committed = match taken {
                true => Ok((notice.index, mine)),
                false if flight.again => Err(ProposeError::NoLeader),
                false => Err(ProposeError::Overloaded),
            };
            // Whoever asked may be gone.
            let _ = part.reply.send(committed);
        }
        Some(flight.sent)
    }
}

#[cfg(test)]
#[path = "flights_test.rs"]
mod tests;
