//! The leader's one batcher: block changes of all nodes become few log entries.
//!
//! openraft appends and syncs once per proposal, so an entry carries many changes: while two
//! proposals are on their way, what arrives waits and goes with the next one. Order is kept.

use std::sync::Arc;

use kvmesh_directory::{ChangeOutcome, Command, command::BlockChange, limits::ENTRY_CHANGES_MAX};
use kvmesh_process::Environment;
use metrics::{counter, histogram};
use tokio::{
    sync::{
        OwnedSemaphorePermit, Semaphore,
        mpsc::{self, error::TrySendError},
        oneshot,
    },
    time,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{PROPOSAL_MAX, error::ProposeError, logged::Logged, raft::Raft};

/// Changes that wait at the leader, of all nodes together.
const WAITING_CHANGES_MAX: usize = 65_536;
/// Proposals on their way: one is synced while the next one is built.
const PROPOSALS_MAX: usize = 2;

/// The entry that carried some changes, and what became of each.
pub(super) type Committed = Result<(u64, Vec<ChangeOutcome>), ProposeError>;

/// Changes of one report.
pub(super) struct Batch {
    changes: Vec<BlockChange>,
    reply: oneshot::Sender<Committed>,
    _room: OwnedSemaphorePermit,
}

/// Takes changes; [`run`] commits them.
#[derive(Debug)]
pub(super) struct Batcher {
    queue: mpsc::Sender<Batch>,
    room: Arc<Semaphore>,
}

impl Batcher {
    /// The batcher, and what [`run`] reads from.
    pub(super) fn new() -> (Self, mpsc::Receiver<Batch>) {
        let (queue, waiting) = mpsc::channel(WAITING_CHANGES_MAX);
        let room = Arc::new(Semaphore::new(WAITING_CHANGES_MAX));
        (Self { queue, room }, waiting)
    }

    /// Queues changes, at most [`ENTRY_CHANGES_MAX`].
    ///
    /// # Errors
    /// [`ProposeError::Overloaded`] when too many wait, [`ProposeError::Stopped`] at shutdown.
    pub(super) fn submit(
        &self,
        changes: Vec<BlockChange>,
    ) -> Result<oneshot::Receiver<Committed>, ProposeError> {
        debug_assert!(changes.len() <= ENTRY_CHANGES_MAX);
        let permits = u32::try_from(changes.len()).unwrap_or(u32::MAX);
        let room = Arc::clone(&self.room).try_acquire_many_owned(permits);
        let room = room.map_err(|_| ProposeError::Overloaded)?;
        let (reply, answer) = oneshot::channel();
        let batch = Batch {
            changes,
            reply,
            _room: room,
        };
        self.queue.try_send(batch).map_err(|error| match error {
            TrySendError::Full(_) => ProposeError::Overloaded,
            TrySendError::Closed(_) => ProposeError::Stopped,
        })?;
        Ok(answer)
    }
}

/// Commits what is queued until `stop`. On a node that does not lead everything is refused.
pub(super) async fn run(
    raft: Raft,
    environment: Environment,
    mut waiting: mpsc::Receiver<Batch>,
    tasks: TaskTracker,
    stop: CancellationToken,
) {
    let slots = Arc::new(Semaphore::new(PROPOSALS_MAX));
    let mut held = None;
    loop {
        let slot = tokio::select! {
            () = stop.cancelled() => return,
            slot = Arc::clone(&slots).acquire_owned() => slot,
        };
        let Ok(slot) = slot else { return };
        let first = match held.take() {
            Some(batch) => batch,
            None => tokio::select! {
                () = stop.cancelled() => return,
                batch = waiting.recv() => match batch {
                    Some(batch) => batch,
                    None => return,
                },
            },
        };
        let (changes, asked, left) = gather(first, &mut waiting);
        held = left;
        let instance = environment.instance.to_string();
        counter!("kvmesh_node_raft_batches_total", "instance" => instance.clone()).increment(1);
        histogram!("kvmesh_node_raft_batch_changes", "instance" => instance)
            .record(changes.len() as f64);
        // Queued at Raft here, in order; only the waiting is left to the task.
        let Ok(answer) = raft
            .client_write_ff(Logged::new(Command::Blocks(changes)))
            .await
        else {
            return;
        };
        tasks.spawn(async move {
            let committed = match time::timeout(PROPOSAL_MAX, answer).await {
                Ok(Ok(Ok(done))) => Ok((done.log_id.index, done.data)),
                Ok(Ok(Err(_))) => Err(ProposeError::NotLeader),
                Ok(Err(_)) => Err(ProposeError::Stopped),
                Err(_) => Err(ProposeError::OutOfTime),
            };
            drop(slot);
            answer_all(asked, committed);
        });
    }
}

/// Who waits for so many changes of an entry.
struct Asked {
    changes: usize,
    reply: oneshot::Sender<Committed>,
    _room: OwnedSemaphorePermit,
}

/// The changes of as many batches as fit an entry, who waits for them, and the batch that did
/// not fit any more.
fn gather(
    first: Batch,
    waiting: &mut mpsc::Receiver<Batch>,
) -> (Vec<BlockChange>, Vec<Asked>, Option<Batch>) {
    let (mut changes, mut asked) = (Vec::new(), Vec::new());
    let mut next = Some(first);
    while let Some(batch) = next {
        if changes.len() + batch.changes.len() > ENTRY_CHANGES_MAX {
            return (changes, asked, Some(batch));
        }
        asked.push(Asked {
            changes: batch.changes.len(),
            reply: batch.reply,
            _room: batch._room,
        });
        changes.extend(batch.changes);
        next = match changes.len() < ENTRY_CHANGES_MAX {
            true => waiting.try_recv().ok(),
            false => None,
        };
    }
    (changes, asked, None)
}

fn answer_all(
    asked: Vec<Asked>,
    committed: Result<(u64, kvmesh_directory::Outcome), ProposeError>,
) {
    let (index, mut outcomes) = match committed {
        Ok((index, outcome)) => match outcome.refused {
            None => (Ok(index), outcome.changes.into_iter()),
            Some(refusal) => (Err(refusal.into()), Vec::new().into_iter()),
        },
        Err(error) => (Err(error), Vec::new().into_iter()),
    };
    for one in asked {
        let mine: Vec<ChangeOutcome> = outcomes.by_ref().take(one.changes).collect();
        // Whoever asked may be gone.
        let _ = one.reply.send(index.clone().map(|index| (index, mine)));
    }
}

#[cfg(test)]
#[path = "batcher_test.rs"]
mod tests;
