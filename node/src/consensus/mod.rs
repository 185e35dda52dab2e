//! The region's Raft group as this node takes part in it.
//!
//! Only this module knows openraft. It is the only writer of [`SharedDirectory`].
//!
//! Where to start reading: [`Consensus`], then `attend` and `desk` (the two ends of a node's
//! stream to the leader), `batcher`, and `lease` for why a node may serve.

mod admission;
mod appending;
mod attend;
mod attend_words;
mod attendance;
mod batcher;
mod blocking;
mod convert;
mod desk;
mod ended;
mod error;
mod flights;
mod group;
mod incarnation;
mod init;
mod leadership;
mod lease;
mod liveness;
mod log_disk;
mod log_disk_owner;
mod log_disk_sled;
mod log_parts;
mod log_store;
mod logged;
mod network;
mod raft;
mod reconcile;
mod reserve;
mod rpc;
mod runtime;
mod settings;
mod snapshot_codec;
mod snapshot_data;
mod snapshot_files;
mod snapshot_intake;
mod snapshot_policy;
mod snapshot_store;
mod standing;
mod start;
mod state_machine;
mod storage;
#[doc(hidden)]
pub mod trial;

#[cfg(test)]
mod group_test;
#[cfg(test)]
mod membership_test;
#[cfg(test)]
mod snapshot_test;
#[cfg(test)]
mod storage_test;
#[cfg(test)]
mod testing;

use std::{sync::Arc, time::Duration};

use futures::future;
use kvmesh_directory::{
    ChangeOutcome, Command, FeedPosition, Incarnation, Member, NodeId, Outcome, RegionId,
    command::BlockChange, limits::ENTRY_CHANGES_MAX,
};
use kvmesh_process::Environment;
use tokio::{
    sync::{Semaphore, mpsc, oneshot},
    time::{self, Instant},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::{
    admission::Admission, batcher::Committed, desk::Desk, ended::Ending, flights::Submission,
    group::Group, incarnation::Begun, init::FirstVoter, lease::Lease, rpc::ConsensusService,
    snapshot_intake::Intake,
};
use crate::directory::SharedDirectory;

pub use ended::Ended;
pub use error::{ProposeError, StartError};
pub(crate) use reserve::reserve_missing;
pub use settings::{Settings, SnapshotSettings, Storage};
pub use snapshot_store::MemoryStorage;

/// How long a proposal may take that has no deadline of its own.
const PROPOSAL_MAX: Duration = Duration::from_secs(10);
/// Changes of this node that wait for the leader.
const WAITING_CHANGES_MAX: usize = 65_536;

struct Inner {
    settings: Settings,
    directory: SharedDirectory,
    group: Group,
    desk: Arc<Desk>,
    lease: Arc<Lease>,
    begun: Arc<Begun>,
    admission: Arc<Admission>,
    intake: Arc<Intake>,
    ending: Arc<Ending>,
    submissions: mpsc::Sender<Submission>,
    room: Arc<Semaphore>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

/// This node's part in the region's Raft group. Cheap to clone; clones share it.
#[derive(Clone)]
pub struct Consensus {
    inner: Arc<Inner>,
}

impl Consensus {
    /// Opens the store, rebuilds the directory and takes part in the group. Everything ends
    /// with `stop`, on `tasks`; when Raft fails it cancels `stop` by itself.
    ///
    /// # Errors
    /// When the store is damaged or belongs to another node.
    pub async fn start(
        settings: Settings,
        environment: Environment,
        directory: SharedDirectory,
        tasks: &TaskTracker,
        stop: CancellationToken,
    ) -> Result<Self, StartError> {
        let inner = start::start(settings, environment, directory, tasks, stop).await?;
        Ok(Self {
            inner: Arc::new(inner),
        })
    }

    /// The `Consensus` service, to be added to the node's routes.
    #[must_use]
    pub fn routes(&self) -> kvmesh_process::server::Routes {
        rpc::routes(ConsensusService {
            group: self.inner.group.clone(),
            voter: self.voter(),
            intake: Arc::clone(&self.inner.intake),
            ending: Arc::clone(&self.inner.ending),
            desk: Arc::clone(&self.inner.desk),
            directory: self.inner.directory.clone(),
            tasks: self.inner.tasks.clone(),
            stop: self.inner.stop.clone(),
        })
    }

    /// Forms the region, once. Goes on where an earlier call stopped halfway.
    ///
    /// # Errors
    /// [`ProposeError::Refused`] when the region exists; otherwise it is safe to repeat.
    pub async fn init_region(
        &self,
        region: RegionId,
        members: Vec<Member>,
        deadline: Instant,
    ) -> Result<FeedPosition, ProposeError> {
        self.voter().init_region(region, members, deadline).await
    }

    fn voter(&self) -> FirstVoter {
        let inner = &self.inner;
        FirstVoter {
            group: inner.group.clone(),
            directory: inner.directory.clone(),
            admission: Arc::clone(&inner.admission),
            region: inner.settings.region.clone(),
        }
    }

    /// Why this node's part in the group is over, when it is: it is to stop.
    #[must_use]
    pub fn ended(&self) -> Option<Ended> {
        self.inner.ending.why()
    }

    /// This node's part is over before it has begun.
    pub(crate) fn give_up(&self, why: Ended) {
        self.inner.ending.end(why);
    }

    /// From now on it asks nobody for a vote, since it is to end: whoever no longer hears its
    /// leader, because its own server has closed, would only unseat it. It votes and leads on.
    pub(crate) fn stand_no_more(&self) {
        self.inner.group.raft.runtime_config().elect(false);
    }

    /// Commits a command on whichever node leads, and waits until this node has applied it.
    /// A command may be committed twice when its leader is lost on the way.
    ///
    /// # Errors
    /// [`ProposeError::Refused`] when the directory refused it; see the others' promises.
    pub async fn propose(
        &self,
        command: Command,
        deadline: Instant,
    ) -> Result<(FeedPosition, Outcome), ProposeError> {
        let (index, outcome) = self.inner.group.propose(command, deadline).await?;
        if let Some(refusal) = outcome.refused {
            return Err(refusal.into());
        }
        let directory = &self.inner.directory;
        applied_here(directory, index, deadline).await?;
        let position = position_at(directory, index).ok_or(ProposeError::NotInitialised)?;
        Ok((position, outcome))
    }

    /// Commits block changes through the leader's batcher and waits until this node has
    /// applied them: its directory then shows them. Returns the log index of the last one.
    ///
    /// # Errors
    /// See the promises of [`ProposeError`].
    pub async fn submit(
        &self,
        changes: Vec<BlockChange>,
        deadline: Instant,
    ) -> Result<(u64, Vec<ChangeOutcome>), ProposeError> {
        let directory = &self.inner.directory;
        if directory.with(|state| state.region().is_none()) {
            return Err(ProposeError::NotInitialised);
        }
        let parts = changes.chunks(ENTRY_CHANGES_MAX);
        let answers = parts.map(|part| self.queue(part.to_vec()));
        let answers = answers.collect::<Result<Vec<_>, _>>()?;
        let answered = time::timeout_at(deadline, future::join_all(answers));
        let answered = answered.await.map_err(|_| ProposeError::OutOfTime)?;
        let (mut last, mut outcomes) = (0, Vec::with_capacity(changes.len()));
        for answer in answered {
            let (index, part) = answer.unwrap_or(Err(ProposeError::Stopped))?;
            last = last.max(index);
            outcomes.extend(part);
        }
        applied_here(directory, last, deadline).await?;
        Ok((last, outcomes))
    }

    fn queue(
        &self,
        changes: Vec<BlockChange>,
    ) -> Result<oneshot::Receiver<Committed>, ProposeError> {
        let permits = u32::try_from(changes.len()).unwrap_or(u32::MAX);
        let room = Arc::clone(&self.inner.room).try_acquire_many_owned(permits);
        let room = room.map_err(|_| ProposeError::Overloaded)?;
        let (reply, answer) = oneshot::channel();
        let submission = Submission {
            changes,
            reply,
            _room: room,
        };
        use mpsc::error::TrySendError;
        match self.inner.submissions.try_send(submission) {
            Ok(()) => Ok(answer),
            Err(TrySendError::Full(_)) => Err(ProposeError::Overloaded),
            Err(TrySendError::Closed(_)) => Err(ProposeError::Stopped),
        }
    }

    /// Whether this node has heard from a leader with a quorum within the serve lease.
    #[must_use]
    pub fn lease_valid(&self) -> bool {
        self.inner.lease.valid(Instant::now())
    }

    /// As [`Self::lease_valid`], waiting for the leader until `by`.
    pub async fn lease_valid_by(&self, by: Instant) -> bool {
        self.inner.lease.valid_by(by).await
    }

    /// The node that leads, as far as this one knows.
    #[must_use]
    pub fn leader(&self) -> Option<NodeId> {
        self.inner.group.leader().map(|leader| leader.node)
    }

    /// Where the leader serves; none while none is known.
    #[must_use]
    pub fn leader_address(&self) -> Option<String> {
        self.inner.group.leader().map(|leader| leader.address)
    }

    /// Whether this node leads.
    #[must_use]
    pub fn leads(&self) -> bool {
        self.inner.desk.leadership.since().is_some()
    }

    /// This start's incarnation, once it is committed and while this node is not given up.
    #[must_use]
    pub fn incarnation(&self) -> Option<Incarnation> {
        self.inner.begun.incarnation()
    }

    /// On the leader: waits until every live node has applied an index, or the serve lease of
    /// those that did not has run out. Whoever is not the leader forwards to
    /// [`Self::leader_address`] instead.
    ///
    /// # Errors
    /// [`ProposeError::NotLeader`], or [`ProposeError::OutOfTime`].
    pub async fn applied_by_all(&self, index: u64, deadline: Instant) -> Result<(), ProposeError> {
        let serve_lease = self.inner.settings.serve_lease;
        let desk = &self.inner.desk;
        desk.applied_by_all(index, serve_lease, deadline).await
    }
}

/// Waits until this node has applied an index.
async fn applied_here(
    directory: &SharedDirectory,
    index: u64,
    deadline: Instant,
) -> Result<(), ProposeError> {
    let mut applied = directory.applied();
    let reached = applied.wait_for(|applied| *applied >= index);
    match time::timeout_at(deadline, reached).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(_)) => Err(ProposeError::Stopped),
        Err(_) => Err(ProposeError::OutOfTime),
    }
}

/// The feed position at an index that this node has applied.
fn position_at(directory: &SharedDirectory, index: u64) -> Option<FeedPosition> {
    let position = directory.with(|state| state.position())?;
    Some(FeedPosition { index, ..position })
}
