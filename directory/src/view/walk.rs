//! A walk through what another region may see of a directory, piece by piece.

use super::projection::{Gate, mesh_namespaces, mesh_tombstones};
use crate::{
    namespace::Namespace,
    state::{DirectoryState, Tombstone},
    words::{BlockName, RegionId},
};

/// What a frozen directory tells a follower, in key order. What was walked past is let go.
#[derive(Debug)]
pub struct MeshWalk {
    frozen: DirectoryState,
    follower: RegionId,
    after: Option<BlockName>,
}

impl MeshWalk {
    /// From the beginning.
    #[must_use]
    pub fn new(frozen: DirectoryState, follower: RegionId) -> Self {
        Self {
            frozen,
            follower,
            after: None,
        }
    }

    /// Namespaces that the follower may know of, ascending by id.
    pub fn namespaces(&self) -> impl Iterator<Item = &Namespace> {
        mesh_namespaces(&self.frozen, &self.follower)
    }

    /// Deleted names that it may know of, in key order.
    pub fn tombstones(&self) -> impl Iterator<Item = (BlockName, Tombstone)> {
        mesh_tombstones(&self.frozen, &self.follower)
    }

    /// Looks at the next `look_at` blocks, and gives those that the follower may know of, with
    /// their sizes; none at the end.
    pub fn step(&mut self, look_at: usize) -> Option<Vec<(BlockName, u32)>> {
        let next = self.frozen.sizes_after(self.after).take(look_at);
        let mut gate = Gate::new(&self.frozen, &self.follower);
        let mut last = None;
        let seen: Vec<(BlockName, u32)> = next
            .inspect(|(name, _)| last = Some(*name))
            .filter(|(name, _)| gate.admits(name.namespace))
            .collect();
        let last = last?;
        self.frozen.let_go(&last);
        self.after = Some(last);
        Some(seen)
    }
}
