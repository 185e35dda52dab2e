//! The pure heart of kvmesh: what words mean, where blocks belong (ring), where they
//! are (state), what others see of it (views), and what fetching costs (cost).
//!
//! Nothing here is async, does IO, or reads a clock: the same input gives the same
//! output on every replica.

pub mod command;
pub mod cost;
pub mod hlc;
pub mod limits;
pub mod mutation;
pub mod namespace;
pub mod peer;
pub mod residency;
pub mod ring;
pub mod state;
pub mod topology;
pub mod view;
pub mod words;

pub use command::{ChangeKind, ChangeOutcome, Command, Event, Outcome};
pub use namespace::{Description, Namespace, Policy};
pub use peer::PeerState;
pub use ring::Ring;
pub use state::DirectoryState;
pub use topology::{Member, Topology};
pub use view::MeshView;
pub use words::{
    BlockHash, BlockKey, BlockName, Checksum, Copy, CopyNumber, FeedPosition, Hlc, Incarnation,
    LogIncarnation, NamespaceId, NodeId, Part, RegionId, RingEpoch, RunningChecksum, Tag,
};
