//! The region's Raft group as this node takes part in it.
//!
//! Only this module knows openraft. It is the only writer of [`SharedDirectory`].

mod error;
mod settings;
mod snapshot_store;

use kvmesh_directory::{
    ChangeOutcome, Command, FeedPosition, Incarnation, Member, NodeId, Outcome, RegionId,
    command::BlockChange,
};
use kvmesh_process::Environment;
use tokio::time::Instant;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::directory::SharedDirectory;

pub use error::{ProposeError, StartError};
pub use settings::{Settings, Storage};
pub use snapshot_store::MemoryStorage;

/// This node's part in the region's Raft group. Cheap to clone; clones share it.
#[derive(Clone)]
pub struct Consensus {}

impl Consensus {
    /// Opens the store, rebuilds the directory and takes part in the group. Everything ends
    /// with `stop`, on `tasks`.
    ///
    /// # Errors
    /// When the store is damaged or belongs to another node.
    pub async fn start(
        _settings: Settings,
        _environment: Environment,
        _directory: SharedDirectory,
        _tasks: &TaskTracker,
        _stop: CancellationToken,
    ) -> Result<Self, StartError> {
        todo!()
    }

    /// The `Consensus` service, to be added to the node's routes.
    #[must_use]
    pub fn routes(&self) -> tonic::service::Routes {
        todo!()
    }

    /// Forms the region, once. Goes on where an earlier call stopped halfway.
    ///
    /// # Errors
    /// [`ProposeError::Refused`] when the region exists; otherwise it is safe to repeat.
    pub async fn init_region(
        &self,
        _region: RegionId,
        _members: Vec<Member>,
        _deadline: Instant,
    ) -> Result<FeedPosition, ProposeError> {
        todo!()
    }

    /// Commits a command on whichever node leads, and waits until this node has applied it.
    /// A command may be committed twice when its leader is lost on the way.
    ///
    /// # Errors
    /// [`ProposeError::Refused`] when the directory refused it; see the others' promises.
    pub async fn propose(
        &self,
        _command: Command,
        _deadline: Instant,
    ) -> Result<(FeedPosition, Outcome), ProposeError> {
        todo!()
    }

    /// Commits block changes through the leader's batcher and waits until this node has
    /// applied them: its directory then shows them. Returns the log index of the last one.
    ///
    /// # Errors
    /// See the promises of [`ProposeError`].
    pub async fn submit(
        &self,
        _changes: Vec<BlockChange>,
        _deadline: Instant,
    ) -> Result<(u64, Vec<ChangeOutcome>), ProposeError> {
        todo!()
    }

    /// Whether this node has heard from a leader with a quorum within the serve lease.
    #[must_use]
    pub fn lease_valid(&self) -> bool {
        todo!()
    }

    /// The node that leads, as far as this one knows.
    #[must_use]
    pub fn leader(&self) -> Option<NodeId> {
        todo!()
    }

    /// Where the leader serves; none while none is known.
    #[must_use]
    pub fn leader_address(&self) -> Option<String> {
        todo!()
    }

    /// Whether this node leads.
    #[must_use]
    pub fn leads(&self) -> bool {
        todo!()
    }

    /// This start's incarnation, once it is committed and while this node is not given up.
    #[must_use]
    pub fn incarnation(&self) -> Option<Incarnation> {
        todo!()
    }

    /// On the leader: waits until every live node has applied an index, or the serve lease of
    /// those that did not has run out. Whoever is not the leader forwards to
    /// [`Self::leader_address`] instead.
    ///
    /// # Errors
    /// [`ProposeError::NotLeader`], or [`ProposeError::OutOfTime`].
    pub async fn applied_by_all(
        &self,
        _index: u64,
        _deadline: Instant,
    ) -> Result<(), ProposeError> {
        todo!()
    }
}
