//! A region's directory: what exists, who holds it, what was deleted.
//!
//! Invariants: every block has a holder, every holder is alive and current, and every
//! block is visible (`put_hlc > max(generation, tombstone)`) in a known namespace.
//! Shapes and reasons are in `docs/decisions/0001-directory-shape.md`.

mod apply;
mod blocks;
mod chunks;
mod model;
mod namespaces;
mod nodes;
mod read;
mod row;
mod shards;
mod snapshot;
mod table;
mod tombstones;

#[cfg(test)]
mod apply_test;
#[cfg(test)]
mod members_test;
#[cfg(test)]
mod objects_test;
#[cfg(test)]
mod property_test;
#[cfg(test)]
mod random;
#[cfg(test)]
mod shards_test;
#[cfg(test)]
mod testing;

use std::{collections::BTreeMap, sync::Arc};

pub use model::{Entry, Head, NodeRecord, Stats, Tombstone, TombstoneFloor};
pub use snapshot::Restore;

use crate::{
    state::{blocks::BlockTable, namespaces::Namespaces, nodes::Nodes, tombstones::Tombstones},
    topology::Topology,
    words::{FeedPosition, Hlc, Incarnation, LogIncarnation, RegionId},
};

/// The directory. Cloning freezes it: shards are shared until one side writes.
#[derive(Debug, Clone)]
pub struct DirectoryState {
    applied_index: u64,
    log_incarnation: LogIncarnation,
    feature_level: u32,
    topology: Arc<Topology>,
    nodes: Arc<Nodes>,
    incarnations_gone: Incarnation,
    namespaces: Namespaces,
    blocks: BlockTable,
    tombstones: Tombstones,
    remote_positions: BTreeMap<RegionId, FeedPosition>,
    hlc_max: Hlc,
}

impl DirectoryState {
    /// Before the first command.
    #[must_use]
    pub fn empty() -> Self {
        Self {
            applied_index: 0,
            log_incarnation: LogIncarnation(0),
            feature_level: 0,
            topology: Arc::new(Topology::empty()),
            nodes: Arc::default(),
            incarnations_gone: Incarnation(0),
            namespaces: Namespaces::default(),
            blocks: BlockTable::new(),
            tombstones: Tombstones::new(TombstoneFloor::default()),
            remote_positions: BTreeMap::new(),
            hlc_max: Hlc(0),
        }
    }

    /// Notes a log entry without a command.
    pub fn advance(&mut self, index: u64) {
        self.applied_index = self.applied_index.max(index);
    }

    fn see(&mut self, hlc: Hlc) {
        self.hlc_max = self.hlc_max.max(hlc);
    }
}
