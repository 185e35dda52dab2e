//! Starts Raft and the tasks around it.

use std::sync::Arc;

use kvmesh_process::Environment;
use metrics::counter;
use tokio::{
    sync::{Semaphore, mpsc},
    time::Instant,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{Instrument, warn};

use super::{
    Inner, Settings, StartError, WAITING_CHANGES_MAX,
    attend::Attend,
    attendance::Attendance,
    batcher::{self, Batcher},
    desk::Desk,
    ended::{Ended, Ending},
    group::Group,
    incarnation::Begun,
    leadership::Leadership,
    lease::Lease,
    liveness::Liveness,
    raft::Raft,
    reconcile::Reconciler,
    snapshot_intake::Intake,
    standing::{self, Standing},
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
    let ending = Arc::new(Ending::new(stop.clone()));
    let removed = {
        let (ending, directory) = (Arc::clone(&ending), directory.clone());
        move || ending.end(standing::gone(&directory, node))
    };
    let opened = storage::open(
        &settings,
        channels.clone(),
        directory.clone(),
        Arc::new(removed),
        &environment.instance,
    );
    let opened = opened.await?;
    let reserve = opened.reserve.run(stop.clone());
    tasks.spawn(reserve.in_current_span());
    let policy = opened.policy.run(stop.clone());
    tasks.spawn(policy.in_current_span());
    let refused = counter!(
        "kvmesh_node_raft_snapshots_refused_total",
        "instance" => environment.instance.to_string()
    );
    let intake = Arc::new(Intake::new(opened.snapshots, refused));
    let admission = opened.admission;
    let group = Group {
        raft: opened.raft,
        node,
        directory: directory.clone(),
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
        begun: Arc::new(Begun::new(
            directory.clone(),
            node,
            admission.store(),
            Arc::clone(&ending),
        )),
        admission,
        intake,
        ending,
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
    tasks.spawn(
        leadership
            .run(raft.clone(), applied.clone(), stop.clone())
            .in_current_span(),
    );
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
        ending: Arc::clone(&inner.ending),
        admission: Arc::clone(&inner.admission),
        applied: applied.clone(),
        submissions,
        report_interval: inner.settings.report_interval,
        heard: Instant::now(),
        tasks: tasks.clone(),
        stop: stop.clone(),
    };
    tasks.spawn(attend.run().in_current_span());
    let begun = Arc::clone(&inner.begun);
    tasks.spawn(
        begun
            .run(inner.group.clone(), applied, stop.clone())
            .in_current_span(),
    );
    let liveness = Liveness {
        group: inner.group.clone(),
        desk: Arc::clone(&inner.desk),
        environment,
        interval: inner.settings.report_interval,
        suspect_after: inner.settings.suspect_after,
        dead_after: inner.settings.dead_after,
        begin_within: inner.settings.begin_within,
    };
    tasks.spawn(liveness.run(stop.clone()).in_current_span());
    let reconciler = Reconciler {
        group: inner.group.clone(),
        desk: Arc::clone(&inner.desk),
        interval: inner.settings.report_interval,
    };
    tasks.spawn(reconciler.run(stop.clone()).in_current_span());
    let standing = Standing {
        group: inner.group.clone(),
        directory: inner.directory.clone(),
        admission: Arc::clone(&inner.admission),
        ending: Arc::clone(&inner.ending),
    };
    tasks.spawn(
        standing
            .run(inner.directory.applied(), stop.clone())
            .in_current_span(),
    );
    let ending = Arc::clone(&inner.ending);
    tasks.spawn(guard(raft.clone(), ending, stop.clone()).in_current_span());
}

/// Ends Raft with the node, and the node with Raft: a member that cannot go on must not serve.
async fn guard(raft: Raft, ending: Arc<Ending>, stop: CancellationToken) {
    let mut metrics = raft.metrics();
    tokio::select! {
        () = stop.cancelled() => {}
        failed = metrics.wait_for(|metrics| metrics.running_state.is_err()) => {
            if let Ok(failed) = failed {
                let why = failed.running_state.as_ref().err();
                ending.end(Ended::Raft(why.map(ToString::to_string).unwrap_or_default()));
            }
        }
    }
    stop.cancel();
    if let Err(error) = raft.shutdown().await {
        warn!(%error, "raft did not shut down cleanly");
    }
}
