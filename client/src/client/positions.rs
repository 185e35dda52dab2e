//! What the client has written, as feed positions: later reads ask for views that show it.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use kvmesh_directory::{FeedPosition, RegionId, limits::REGIONS_MAX};

/// The newest position of each region that the client was answered.
#[derive(Debug, Default)]
pub(super) struct Positions {
    newest: Mutex<BTreeMap<RegionId, FeedPosition>>,
}

impl Positions {
    /// Notes a position. One of another log takes the place of what was known: the log was
    /// restored, and the old position cannot be reached any more.
    pub(super) fn note(&self, position: &FeedPosition) {
        let mut newest = self.lock();
        let known = newest.get(&position.region);
        if known.is_some_and(|known| known.covers(position)) {
            return;
        }
        if known.is_some() || newest.len() < REGIONS_MAX {
            newest.insert(position.region.clone(), position.clone());
        }
    }

    /// Ascending by region.
    pub(super) fn all(&self) -> Vec<FeedPosition> {
        self.lock().values().cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<RegionId, FeedPosition>> {
        self.newest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
