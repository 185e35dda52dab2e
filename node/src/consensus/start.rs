//! Starts Raft and the tasks around it.

use std::sync::Arc;

use kvmesh_process::Environment;
use tokio::sync::{Semaphore, mpsc};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{error, warn};

use super::{
    Inner, Settings, StartError, WAITING_CHANGES_MAX,
    attend::Attend,
    attendance::Attendance,
    batcher::{self, Batcher},
    desk::Desk,
    group::Group,
    incarnation::Begun,
    leadership::Leadership,
    lease::Lease,
    liveness::Liveness,
    raft::Raft,
    storage,
};
use crate::directory::SharedDirectory;

pub(super) async fn start(
    settings: Settings,
    environment: Environment,
    directory: SharedDirectory,
    tasks: &TaskTracker,
    stop: CancellationToken,
) -> Result<Inner, StartError> {
    let node = settings.node;
    if !settings.members.iter().any(|member| member.node == node) {
        return Err(StartError::NotListed(node));
    }
    let channels = environment.channels.apart();
    let raft = storage::open(&settings, channels.clone(), directory.clone()).await?;
    let group = Group {
        raft,
        node,
        channels,
    };
    let (batcher, waiting) = Batcher::new();
    let leadership = Arc::new(Leadership::new(settings.serve_lease));
    let desk = Arc::new(Desk {
        directory: directory.clone(),
        leadership: Arc::clone(&leadership),
        attendance: Attendance::default(),
        batcher,
    });
    let (submissions, submitted) = mpsc::channel(WAITING_CHANGES_MAX);
    let inner = Inner {
        lease: Arc::new(Lease::new(settings.serve_lease)),
        begun: Arc::new(Begun::new(directory.clone(), node)),
        settings,
        directory,
        group,
        desk,
        submissions,
        room: Arc::new(Semaphore::new(WAITING_CHANGES_MAX)),
        tasks: tasks.clone(),
        stop,
    };
    spawn(&inner, environment, submitted, waiting);
    Ok(inner)
}

fn spawn(
    inner: &Inner,
    environment: Environment,
    submissions: mpsc::Receiver<super::Submission>,
    waiting: mpsc::Receiver<batcher::Batch>,
) {
    let (tasks, stop) = (&inner.tasks, &inner.stop);
    let (raft, applied) = (&inner.group.raft, inner.directory.applied());
    let leadership = Arc::clone(&inner.desk.leadership);
    tasks.spawn(leadership.run(raft.clone(), applied.clone(), stop.clone()));
    tasks.spawn(batcher::run(
        raft.clone(),
        environment.clone(),
        waiting,
        tasks.clone(),
        stop.clone(),
    ));
    let attend = Attend {
        group: inner.group.clone(),
        desk: Arc::clone(&inner.desk),
        lease: Arc::clone(&inner.lease),
        begun: Arc::clone(&inner.begun),
        applied: applied.clone(),
        submissions,
        report_interval: inner.settings.report_interval,
        tasks: tasks.clone(),
        stop: stop.clone(),
    };
    tasks.spawn(attend.run());
    let begun = Arc::clone(&inner.begun);
    tasks.spawn(begun.run(inner.group.clone(), applied, stop.clone()));
    let liveness = Liveness {
        group: inner.group.clone(),
        desk: Arc::clone(&inner.desk),
        environment,
        interval: inner.settings.report_interval,
        suspect_after: inner.settings.suspect_after,
        dead_after: inner.settings.dead_after,
    };
    tasks.spawn(liveness.run(stop.clone()));
    tasks.spawn(guard(raft.clone(), stop.clone()));
}

/// Ends Raft with the node, and the node with Raft: a member that cannot go on must not serve.
async fn guard(raft: Raft, stop: CancellationToken) {
    let mut metrics = raft.metrics();
    tokio::select! {
        () = stop.cancelled() => {}
        failed = metrics.wait_for(|metrics| metrics.running_state.is_err()) => {
            if let Ok(failed) = failed {
                error!(state = ?failed.running_state, "raft has failed: the node stops");
            }
        }
    }
    stop.cancel();
    if let Err(error) = raft.shutdown().await {
        warn!(%error, "raft did not shut down cleanly");
    }
}
