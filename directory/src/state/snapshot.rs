//! The directory as a snapshot, and back.

use std::sync::Arc;

use crate::{
    limits::REPLICAS_MAX,
    state::{
        DirectoryState,
        blocks::BlockTable,
        model::{Entry, Head, Tombstone},
        namespaces::Namespaces,
        nodes::Nodes,
        row::{Holders, Row},
        tombstones::Tombstones,
    },
    words::BlockName,
};

impl DirectoryState {
    /// The first part of a snapshot; [`Self::entries`] and [`Self::tombstones`] are the rest.
    #[must_use]
    pub fn head(&self) -> Head {
        Head {
            applied_index: self.applied_index,
            log_incarnation: self.log_incarnation,
            feature_level: self.feature_level,
            topology: self.topology.as_ref().clone(),
            nodes: self.nodes.slots().to_vec(),
            incarnations_gone: self.incarnations_gone,
            namespaces: self.namespaces().cloned().collect(),
            floor: self.floor(),
            remote_positions: self.remote_positions.values().cloned().collect(),
            hlc_max: self.hlc_max,
        }
    }

    /// Lets blocks up to a name go from a frozen state that is read once, in key order: what the
    /// live one has replaced since is then freed bit by bit, and what it replaces from now on
    /// need not be copied. Only [`Self::entries_after`], from that name on, and
    /// [`Self::tombstones_after`] are as they were.
    pub fn let_go(&mut self, up_to: &BlockName) {
        self.blocks.let_go(up_to);
    }

    /// The state that a snapshot describes; `entries` and `tombstones` in any order.
    /// What no state could hold (a copy that is not current, a block without copies) is left out.
    #[must_use]
    pub fn restore(
        head: Head,
        entries: impl IntoIterator<Item = (BlockName, Entry)>,
        tombstones: impl IntoIterator<Item = (BlockName, Tombstone)>,
    ) -> Self {
        let mut restored = Restore::new(head);
        for (name, tombstone) in tombstones {
            restored.tombstone(name, tombstone);
        }
        for (name, entry) in entries {
            restored.entry(name, &entry);
        }
        restored.finish()
    }

    fn begin_restore(head: Head) -> Self {
        let mut topology = head.topology;
        topology.members.sort_by_key(|member| member.node);
        let mut namespaces = Namespaces::default();
        for namespace in head.namespaces {
            namespaces.insert(namespace);
        }
        let positions = head.remote_positions.into_iter();
        Self {
            applied_index: head.applied_index,
            log_incarnation: head.log_incarnation,
            feature_level: head.feature_level,
            topology: Arc::new(topology),
            nodes: Arc::new(Nodes::from_slots(head.nodes)),
            incarnations_gone: head.incarnations_gone,
            namespaces,
            blocks: BlockTable::new(),
            tombstones: Tombstones::new(head.floor),
            remote_positions: positions
                .map(|position| (position.region.clone(), position))
                .collect(),
            hlc_max: head.hlc_max,
        }
    }

    fn restore_entry(&mut self, name: BlockName, entry: &Entry) {
        let mut holders = Holders::none(entry.wanted.clamp(1, REPLICAS_MAX) as u8);
        for copy in &entry.holders {
            if let Some(slot) = self.current(copy) {
                holders.set(slot, copy.copy);
            }
        }
        if holders.len() > 0 {
            let row = Row {
                put_hlc: entry.put_hlc,
                checksum: entry.checksum,
                bytes: entry.bytes,
                depth: entry.depth,
                holders,
            };
            self.blocks.put(name, row);
        }
    }
}

/// A state that is put together from a snapshot's parts as they arrive, in any order: what
/// is not whole yet is never seen. See [`DirectoryState::restore`].
#[derive(Debug)]
pub struct Restore(DirectoryState);

impl Restore {
    /// From the first part.
    #[must_use]
    pub fn new(head: Head) -> Self {
        Self(DirectoryState::begin_restore(head))
    }

    /// Takes a block.
    pub fn entry(&mut self, name: BlockName, entry: &Entry) {
        self.0.restore_entry(name, entry);
    }

    /// Takes a tombstone.
    pub fn tombstone(&mut self, name: BlockName, tombstone: Tombstone) {
        self.0.tombstones.restore(name, tombstone);
    }

    /// The state, when nothing is left to come.
    #[must_use]
    pub fn finish(self) -> DirectoryState {
        self.0
    }
}

/// Equal in every way that can be seen; how shards are cut does not matter.
impl PartialEq for DirectoryState {
    fn eq(&self, other: &Self) -> bool {
        self.head() == other.head()
            && self.stats() == other.stats()
            && self.entries().eq(other.entries())
            && self.tombstones().eq(other.tombstones())
    }
}
