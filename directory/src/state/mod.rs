//! A region's directory: what exists, who holds it, what was deleted.

use crate::{
    command::{Command, Event, Outcome},
    limits::FEATURE_LEVEL,
    namespace::Namespace,
    topology::Topology,
    words::{
        BlockHash, BlockName, Checksum, Copy, FeedPosition, Hlc, Incarnation, LogIncarnation,
        NamespaceId, NodeId, Part, RegionId,
    },
};

/// One block that has at least one copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Stamped at the first put.
    pub put_hlc: Hlc,
    /// Over the pieces.
    pub checksum: Checksum,
    /// Size.
    pub bytes: u32,
    /// Position in the chain.
    pub depth: u32,
    /// Copies that should exist: fewer after evictions, not after losses.
    pub wanted: u32,
    /// Copies that exist, ascending by node; never empty.
    pub holders: Vec<Copy>,
}

/// A member as the log knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NodeRecord {
    /// Which node.
    pub node: NodeId,
    /// Its current start; 0: none yet.
    pub incarnation: Incarnation,
    /// Of the current start.
    pub nonce: u64,
    /// Not given up.
    pub alive: bool,
}

/// Below it, what a follower holds may have been deleted without a trace.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TombstoneFloor {
    /// Log index of the newest dropped tombstone.
    pub index: u64,
    /// Clock of the newest dropped tombstone.
    pub hlc: Hlc,
}

/// Counts over the directory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    /// Blocks with at least one copy.
    pub blocks: u64,
    /// Copies of all blocks.
    pub copies: u64,
    /// Bytes of one copy of each block.
    pub bytes: u64,
    /// Blocks with fewer copies than wanted.
    pub under_replicated: u64,
    /// Deleted names that are remembered.
    pub tombstones: u64,
    /// Namespaces.
    pub namespaces: u64,
}

/// Everything but blocks and tombstones; the first part of a snapshot.
#[derive(Debug, Clone, PartialEq)]
pub struct Head {
    /// Last log index applied.
    pub applied_index: u64,
    /// Random number of the log; 0 before initialisation.
    pub log_incarnation: LogIncarnation,
    /// Format of commands that all members understand.
    pub feature_level: u32,
    /// Members.
    pub topology: Topology,
    /// Ascending by node.
    pub nodes: Vec<NodeRecord>,
    /// Ascending by id.
    pub namespaces: Vec<Namespace>,
    /// See [`TombstoneFloor`].
    pub floor: TombstoneFloor,
    /// Where this region stands in others, ascending by region.
    pub remote_positions: Vec<FeedPosition>,
    /// Newest clock that the log has shown.
    pub hlc_max: Hlc,
}

/// A deleted name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tombstone {
    /// Blocks put at or before it are deleted.
    pub hlc: Hlc,
    /// Log index that made it.
    pub index: u64,
}

/// The directory. Cloning freezes it: shards are shared until one side writes.
#[derive(Debug, Clone)]
pub struct DirectoryState {}

impl DirectoryState {
    /// Before the first command.
    #[must_use]
    pub fn empty() -> Self {
        let _ = FEATURE_LEVEL;
        Self {}
    }

    /// Applies the command at a log index. Total and deterministic: no clock, no randomness, no IO.
    pub fn apply(&mut self, _index: u64, _command: &Command) -> (Outcome, Vec<Event>) {
        todo!()
    }

    /// Notes a log entry without a command.
    pub fn advance(&mut self, _index: u64) {
        todo!()
    }

    /// Last log index applied.
    #[must_use]
    pub fn applied_index(&self) -> u64 {
        todo!()
    }

    /// Where this state stands in its region's feed; none before the region is initialised.
    #[must_use]
    pub fn position(&self) -> Option<FeedPosition> {
        todo!()
    }

    /// The region; none before it is initialised.
    #[must_use]
    pub fn region(&self) -> Option<&RegionId> {
        todo!()
    }

    /// Members at the current epoch.
    #[must_use]
    pub fn topology(&self) -> &Topology {
        todo!()
    }

    /// A member's incarnation and whether it lives.
    #[must_use]
    pub fn node(&self, _node: NodeId) -> Option<&NodeRecord> {
        todo!()
    }

    /// All members' records, ascending by node.
    pub fn nodes(&self) -> impl Iterator<Item = &NodeRecord> {
        std::iter::empty()
    }

    /// A namespace by id.
    #[must_use]
    pub fn namespace(&self, _id: NamespaceId) -> Option<&Namespace> {
        todo!()
    }

    /// A namespace by alias.
    #[must_use]
    pub fn namespace_named(&self, _name: &str) -> Option<&Namespace> {
        todo!()
    }

    /// All namespaces, ascending by id.
    pub fn namespaces(&self) -> impl Iterator<Item = &Namespace> {
        std::iter::empty()
    }

    /// A block that is present and visible.
    #[must_use]
    pub fn entry(&self, _name: &BlockName) -> Option<Entry> {
        todo!()
    }

    /// The one rule of liveness: `put_hlc > max(generation, tombstone)`, in a known namespace.
    #[must_use]
    pub fn visible(&self, _name: &BlockName, _put_hlc: Hlc) -> bool {
        todo!()
    }

    /// Length of the run of `hashes` from its start that is present in all of `parts`.
    #[must_use]
    pub fn run(&self, _namespace: NamespaceId, _hashes: &[BlockHash], _parts: &[Part]) -> usize {
        todo!()
    }

    /// Names with fewer copies than wanted, in order, from `after` on (exclusive).
    pub fn under_replicated(&self, _after: Option<&BlockName>) -> impl Iterator<Item = BlockName> {
        std::iter::empty()
    }

    /// All blocks in key order.
    pub fn entries(&self) -> impl Iterator<Item = (BlockName, Entry)> {
        std::iter::empty()
    }

    /// All tombstones in key order.
    pub fn tombstones(&self) -> impl Iterator<Item = (BlockName, Tombstone)> {
        std::iter::empty()
    }

    /// The tombstone of a name.
    #[must_use]
    pub fn tombstone(&self, _name: &BlockName) -> Option<Tombstone> {
        todo!()
    }

    /// See [`TombstoneFloor`].
    #[must_use]
    pub fn floor(&self) -> TombstoneFloor {
        todo!()
    }

    /// Where this region stands in another one's feed.
    #[must_use]
    pub fn remote_position(&self, _region: &RegionId) -> Option<&FeedPosition> {
        todo!()
    }

    /// Newest clock that the log has shown.
    #[must_use]
    pub fn hlc_max(&self) -> Hlc {
        todo!()
    }

    /// Counts, kept up to date by `apply`.
    #[must_use]
    pub fn stats(&self) -> Stats {
        todo!()
    }

    /// The first part of a snapshot; [`Self::entries`] and [`Self::tombstones`] are the rest.
    #[must_use]
    pub fn head(&self) -> Head {
        todo!()
    }

    /// The state that a snapshot describes; `entries` and `tombstones` in any order.
    #[must_use]
    pub fn restore(
        _head: Head,
        _entries: impl IntoIterator<Item = (BlockName, Entry)>,
        _tombstones: impl IntoIterator<Item = (BlockName, Tombstone)>,
    ) -> Self {
        todo!()
    }
}
