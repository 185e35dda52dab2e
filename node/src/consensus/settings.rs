//! What consensus needs to know to start.

use std::{path::PathBuf, time::Duration};

use kvmesh_directory::{Member, NodeId, RegionId};

use super::snapshot_store::MemoryStorage;

/// Where the log, the vote and the snapshots are kept.
#[derive(Debug, Clone)]
pub enum Storage {
    /// In a directory; survives a power cut.
    Directory(PathBuf),
    /// In memory: for tests and `meshctl dev`. A clone given to a later start continues the log.
    Memory(MemoryStorage),
}

/// A snapshot is made when the log since the last one is as large as that one is, and
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SnapshotSettings {
    /// not before it has so many bytes;
    pub log_bytes_min: u64,
    /// but when it has so many bytes,
    pub log_bytes_max: u64,
    /// or so many entries.
    pub entries_max: u64,
}

impl Default for SnapshotSettings {
    fn default() -> Self {
        Self {
            log_bytes_min: 64 << 20,
            log_bytes_max: 512 << 20,
            entries_max: 500_000,
        }
    }
}

/// Settings of the region's Raft group.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The region's name.
    pub region: RegionId,
    /// This node.
    pub node: NodeId,
    /// All nodes that the settings list, this one too; where their addresses come from.
    pub members: Vec<Member>,
    /// Where the log is kept.
    pub storage: Storage,
    /// Between heartbeats of the leader.
    pub heartbeat: Duration,
    /// Silence after which a voter stands for election, at least.
    pub election_min: Duration,
    /// Silence after which a voter stands for election, at most.
    pub election_max: Duration,
    /// Between reports of a node to the leader when nothing changes.
    pub report_interval: Duration,
    /// Silence after which the leader suspects a node.
    pub suspect_after: Duration,
    /// Silence after which the leader declares a node dead.
    pub dead_after: Duration,
    /// How long blocks wait for a member that has never begun, until the leader forgets it.
    pub begin_within: Duration,
    /// How long a node may serve after it heard from a leader with a quorum.
    pub serve_lease: Duration,
    /// When a snapshot is made.
    pub snapshots: SnapshotSettings,
    /// Log entries that are kept below a snapshot, for followers that lag a little.
    pub kept_entries: u64,
    /// Bytes of a directory's file system that are kept for the log and the snapshots.
    pub reserve_bytes: u64,
}

impl Settings {
    /// The defaults, for one node of a region.
    #[must_use]
    pub fn new(region: RegionId, node: NodeId, members: Vec<Member>, storage: Storage) -> Self {
        Self {
            region,
            node,
            members,
            storage,
            heartbeat: Duration::from_millis(200),
            election_min: Duration::from_millis(1_000),
            election_max: Duration::from_millis(2_000),
            report_interval: Duration::from_millis(200),
            suspect_after: Duration::from_secs(2),
            dead_after: Duration::from_secs(10),
            begin_within: Duration::from_secs(600),
            serve_lease: Duration::from_secs(5),
            snapshots: SnapshotSettings::default(),
            kept_entries: 5_000,
            reserve_bytes: 0,
        }
    }
}
