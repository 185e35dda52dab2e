//! The pure heart of kvmesh: what words mean, where blocks belong (ring), where they
//! are (state), and what others see of it (views).
//!
//! Nothing here is async, does IO, or reads a clock: the same input gives the same
//! output on every replica.

pub mod command;
pub mod hlc;
pub mod limits;
pub mod mutation;
pub mod namespace;
pub mod ring;
pub mod state;
pub mod topology;
pub mod view;
pub mod words;

pub use command::{ChangeKind, ChangeOutcome, Command, Event, Outcome};
pub use namespace::{Description, Namespace, Policy};
pub use ring::Ring;
pub use state::DirectoryState;
pub use topology::{Member, Topology};
pub use view::MeshView;
pub use words::{
    BlockHash, BlockKey, BlockName, Checksum, Copy, CopyNumber, FeedPosition, Hlc, Incarnation,
    LogIncarnation, NamespaceId, NodeId, Part, RegionId, RingEpoch, RunningChecksum, Tag,
};
