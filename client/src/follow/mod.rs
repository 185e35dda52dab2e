//! Followers of feeds: they keep a view up to date and say how old it is.
//!
//! Each follower tails one feed over a list of addresses until it is told to stop. What a
//! frame means is decided apart from IO, in [`region_tail`] and [`mesh_tail`]; the loop that
//! connects, reads and tries again is [`session`].
//!
//! Not here: what the views are used for.

mod changes;
mod compare;
mod mesh_scope;
mod mesh_tail;
mod mesh_view;
mod region;
mod region_tail;
mod region_view;
mod session;
mod shared_mesh;

pub use changes::{Change, ChangedStep, Told};
pub use compare::digest;
pub use mesh_scope::{MeshEvent, MeshScopeFollower};
pub use mesh_view::MeshViewFollower;
pub use region::RegionFollower;
pub use region_view::SharedRegionView;
pub use shared_mesh::{Link, SharedMeshView};

use std::{sync::Arc, time::Duration};

use kvmesh_directory::RegionId;

use crate::{channel::Channels, convert::WireError};

/// A stream that says nothing for so long is given up; feeds send a heartbeat every 500 ms.
pub const SILENCE_MAX: Duration = Duration::from_secs(3);

/// Whom a follower asks, and over what.
#[derive(Clone)]
pub struct Source {
    /// Warm channels.
    pub channels: Channels,
    /// `host:port` of those that serve the feed; each is as good as the others.
    pub addresses: Vec<String>,
    /// The `instance` label of metrics.
    pub instance: Arc<str>,
}

/// Why a follower gave a stream up. It goes on with the next address.
#[derive(Debug, thiserror::Error)]
enum FeedError {
    #[error("address {0:?} is not host:port: correct the settings")]
    Address(String),
    #[error("the feed was refused or broke: {0}")]
    Status(Box<tonic::Status>),
    #[error("the feed said nothing for {SILENCE_MAX:?}")]
    Silent,
    #[error("the feed ended")]
    Ended,
    #[error("the feed's frame cannot be read: {0}")]
    Wire(#[from] WireError),
    #[error("the feed is of region {got}, expected {want}: correct the addresses")]
    Region { got: RegionId, want: RegionId },
    #[error("the feed skipped steps or is of another log: a snapshot is needed")]
    Gap,
    #[error("the view of region {0} is not what the region-sync has: a snapshot is needed")]
    Differs(RegionId),
    #[error("a {0} frame came where none may be")]
    Unexpected(&'static str),
    #[error("nobody takes the events any more")]
    Closed,
}

impl From<tonic::Status> for FeedError {
    fn from(status: tonic::Status) -> Self {
        Self::Status(Box::new(status))
    }
}

#[cfg(test)]
mod follow_test;
