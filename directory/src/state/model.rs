//! What the directory says about blocks, nodes and deletions; what a snapshot is made of.

use crate::{
    namespace::Namespace,
    topology::Topology,
    words::{Checksum, Copy, FeedPosition, Hlc, Incarnation, LogIncarnation, NodeId},
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
    /// Random number of its Raft store; 0: not known.
    pub store: u64,
    /// The highest feature level that the program of its current start knows; 0: not known.
    pub level: u32,
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
    /// In the order of slots, by which rows name their holders; none: the slot is free.
    pub nodes: Vec<Option<NodeRecord>>,
    /// The highest incarnation of any node that is a member no more: the next ones begin above.
    pub incarnations_gone: Incarnation,
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
