//! The region's directory as this node has applied it, and the tail of the log for followers.
//!
//! Written by `consensus` only, one entry at a time; read by everybody.

use std::{
    collections::VecDeque,
    mem,
    sync::{Arc, PoisonError, RwLock},
};

use kvmesh_directory::{Command, DirectoryState, Event, Outcome};
use tokio::sync::watch;

/// Applied entries that are kept for followers; one that lags further takes a snapshot.
pub const TAIL_ENTRIES_MAX: usize = 65_536;
/// Events of kept entries, about 100 bytes each; an entry's changes make at most a few.
pub const TAIL_EVENTS_MAX: usize = 524_288;

/// One applied log entry.
#[derive(Debug)]
pub struct Step {
    /// Its log index.
    pub index: u64,
    /// None: an entry of Raft's own.
    pub command: Option<Arc<Command>>,
    /// What came of it.
    pub events: Vec<Event>,
}

#[derive(Debug)]
struct Inner {
    state: DirectoryState,
    tail: VecDeque<Arc<Step>>,
    tail_events: usize,
}

impl Inner {
    fn push(&mut self, step: Step) {
        self.tail_events += step.events.len();
        self.tail.push_back(Arc::new(step));
        while self.tail.len() > TAIL_ENTRIES_MAX
            || self.tail_events > TAIL_EVENTS_MAX && self.tail.len() > 1
        {
            let dropped = self.tail.pop_front();
            self.tail_events -= dropped.map_or(0, |step| step.events.len());
        }
    }
}

/// The applied directory. Cheap to clone; clones share it.
#[derive(Debug, Clone)]
pub struct SharedDirectory {
    inner: Arc<RwLock<Inner>>,
    applied: watch::Sender<u64>,
}

impl Default for SharedDirectory {
    fn default() -> Self {
        Self::new(DirectoryState::empty())
    }
}

impl SharedDirectory {
    /// From a state.
    #[must_use]
    pub fn new(state: DirectoryState) -> Self {
        let applied = watch::Sender::new(state.applied_index());
        let inner = Inner {
            state,
            tail: VecDeque::new(),
            tail_events: 0,
        };
        Self {
            inner: Arc::new(RwLock::new(inner)),
            applied,
        }
    }

    /// Reads the state under a short lock. Do not call back into the directory from `read`.
    pub fn with<T>(&self, read: impl FnOnce(&DirectoryState) -> T) -> T {
        read(
            &self
                .inner
                .read()
                .unwrap_or_else(PoisonError::into_inner)
                .state,
        )
    }

    /// The state as it is now; shares its shards with the live one.
    #[must_use]
    pub fn freeze(&self) -> DirectoryState {
        self.with(Clone::clone)
    }

    /// Applies the entry at an index. For `consensus` only.
    pub fn apply(&self, index: u64, command: Option<Arc<Command>>) -> Outcome {
        let mut inner = self.inner.write().unwrap_or_else(PoisonError::into_inner);
        let (outcome, events) = match &command {
            Some(command) => inner.state.apply(index, command),
            None => {
                inner.state.advance(index);
                (Outcome::default(), Vec::new())
            }
        };
        inner.push(Step {
            index,
            command,
            events,
        });
        drop(inner);
        self.applied.send_replace(index);
        outcome
    }

    /// Replaces the state by a snapshot's. Followers of the tail then need a snapshot, too.
    /// Returns what was replaced: letting it go may take long.
    pub fn install(&self, state: DirectoryState) -> DirectoryState {
        let index = state.applied_index();
        let mut inner = self.inner.write().unwrap_or_else(PoisonError::into_inner);
        let replaced = mem::replace(&mut inner.state, state);
        let tail = mem::take(&mut inner.tail);
        inner.tail_events = 0;
        drop(inner);
        drop(tail);
        self.applied.send_replace(index);
        replaced
    }

    /// Up to `steps_max` steps after an index; none when the tail does not reach back so far.
    #[must_use]
    pub fn steps_after(&self, index: u64, steps_max: usize) -> Option<Vec<Arc<Step>>> {
        let inner = self.inner.read().unwrap_or_else(PoisonError::into_inner);
        if index >= inner.state.applied_index() {
            return Some(Vec::new());
        }
        let first = inner.tail.front()?.index;
        let skip = usize::try_from((index + 1).checked_sub(first)?).ok()?;
        Some(
            inner
                .tail
                .iter()
                .skip(skip)
                .take(steps_max)
                .cloned()
                .collect(),
        )
    }

    /// The last applied index, and its changes.
    #[must_use]
    pub fn applied(&self) -> watch::Receiver<u64> {
        self.applied.subscribe()
    }
}

#[cfg(test)]
#[path = "directory_test.rs"]
mod tests;
