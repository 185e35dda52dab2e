//! What openraft's type parameters are here.

use kvmesh_directory::Outcome;

use super::{logged::Logged, runtime::SeedableRuntime, snapshot_data::SnapshotData};

openraft::declare_raft_types!(
    /// The region's log: commands in, outcomes out.
    pub(super) TypeConfig:
        D = Logged,
        R = Outcome,
        NodeId = u64,
        Node = Peer,
        Entry = openraft::Entry<TypeConfig>,
        SnapshotData = SnapshotData,
        AsyncRuntime = SeedableRuntime,
);

/// Where a member of the group serves.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Peer {
    /// `host:port`.
    pub(super) address: String,
}

pub(super) type Raft = openraft::Raft<TypeConfig>;
pub(super) type Entry = openraft::Entry<TypeConfig>;
pub(super) type LogId = openraft::LogId<u64>;
pub(super) type Vote = openraft::Vote<u64>;
pub(super) type Membership = openraft::Membership<u64, Peer>;
pub(super) type StoredMembership = openraft::StoredMembership<u64, Peer>;
pub(super) type SnapshotMeta = openraft::SnapshotMeta<u64, Peer>;
pub(super) type Snapshot = openraft::Snapshot<TypeConfig>;
pub(super) type StorageError = openraft::StorageError<u64>;
pub(super) type Metrics = openraft::RaftMetrics<u64, Peer>;
