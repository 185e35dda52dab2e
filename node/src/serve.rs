//! Puts a node together, and runs it until it is told to stop.

use std::sync::Arc;

use kvmesh_client::{channel::Incoming, local::socket::Listener};
use kvmesh_directory::{NodeId, RegionId, words::WordError};
use kvmesh_process::{
    Environment, server,
    settings::Live,
    tls::{Expected, Role},
};
use tokio::time::{Duration, timeout};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{Instrument, info, warn};

use crate::{
    Settings, applied, budget,
    consensus::{self, Consensus, Ended, MemoryStorage, SnapshotSettings, StartError, Storage},
    directory::SharedDirectory,
    lifting, local, moving,
    node::{Node, Parts},
    reclaim, repair, reports, rpc,
    store::{
        MemoryTier, Store,
        arena::Arena,
        disk::{self, DiskSettings, OpenError, Reclaimer},
        gpu::{self, DeviceError, GpuTier},
    },
    upkeep,
};

/// How long a device may take to be found and made ready.
const DEVICE_WAIT: Duration = Duration::from_secs(60);

/// Why a node ended.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The region's name cannot be.
    #[error("the settings cannot be")]
    Settings(#[from] WordError),
    /// Consensus could not start.
    #[error("the node cannot take part in its region's consensus")]
    Consensus(#[from] StartError),
    /// The memory for blocks cannot be mapped.
    #[error("the node cannot map memory for memory_bytes")]
    Memory(#[source] std::io::Error),
    /// The disk for blocks cannot be used.
    #[error("the node cannot use its disk_dir")]
    Disk(#[from] OpenError),
    /// There is no device for blocks.
    #[error("the node cannot use a device for gpu_bytes")]
    Gpu(#[from] DeviceError),
    /// Clients on this host could not connect.
    #[error("the node cannot listen at its local_socket {path}")]
    Local {
        /// The setting.
        path: String,
        /// What is in the way.
        source: std::io::Error,
    },
    /// The gRPC server failed.
    #[error(transparent)]
    Server(#[from] server::ServeError),
    /// Its part in the region is over.
    #[error("the node cannot go on")]
    Ended(#[source] Ended),
}

/// Runs a node on the connections of `incoming` until `stop`. Without a `raft_dir` its log
/// is kept in memory, and lost with it.
///
/// # Errors
/// When it cannot start, or its server fails.
pub async fn serve(
    settings: impl Into<Live<Settings>>,
    environment: Environment,
    incoming: Incoming,
    stop: CancellationToken,
) -> Result<(), ServeError> {
    let settings = settings.into();
    let raft_dir = settings.now().raft_dir.clone();
    let storage = match raft_dir.as_os_str().is_empty() {
        true => Storage::Memory(MemoryStorage::default()),
        false => Storage::Directory(raft_dir),
    };
    serve_with(settings, environment, storage, incoming, stop).await
}

/// As [`serve`], over a log that the caller gives: one in memory can outlive the node.
///
/// # Errors
/// When it cannot start, or its server fails.
pub async fn serve_with(
    settings: impl Into<Live<Settings>>,
    environment: Environment,
    storage: Storage,
    incoming: Incoming,
    stop: CancellationToken,
) -> Result<(), ServeError> {
    let settings = settings.into();
    let local = listen_here(&settings.now())?;
    let grace = Settings::millis(settings.now().shutdown_grace_ms);
    let tasks = TaskTracker::new();
    // Consensus and workers outlive the streams, so that what is in flight can be committed.
    let work = CancellationToken::new();
    let streams = work.child_token();
    let own = environment.clone();
    let ended = match start(settings, environment, storage, &tasks, (&streams, &work)).await {
        Ok((node, reclaimer)) => {
            let routes = rpc::routes(&node);
            spawn_workers(&node, &work, reclaimer);
            if let Some(listener) = local {
                let serving = local::run(Arc::clone(&node), listener, node.stop.clone());
                tasks.spawn(serving.in_current_span());
            }
            let stop = stop.child_token();
            let draining = drain(Arc::clone(&node), stop.clone(), work.clone());
            tasks.spawn(draining.in_current_span());
            let served = server::serve(routes, own, incoming, stop, grace).await;
            match node.consensus.ended() {
                None => served.map_err(ServeError::from),
                Some(left @ Ended::Left(_)) => {
                    info!("{left}");
                    Ok(())
                }
                Some(why) => Err(ServeError::Ended(why)),
            }
        }
        Err(error) => Err(error),
    };
    work.cancel();
    tasks.close();
    if timeout(grace, tasks.wait()).await.is_err() {
        warn!(left = tasks.len(), "grace period over");
    }
    ended
}

/// Where clients on this host connect, if they may.
fn listen_here(settings: &Settings) -> Result<Option<Listener>, ServeError> {
    let path = &settings.local_socket;
    if path.as_os_str().is_empty() {
        return Ok(None);
    }
    let listening = Listener::bind(path).map_err(|source| ServeError::Local {
        path: path.display().to_string(),
        source,
    });
    listening.map(Some)
}

/// Once told to stop: ends the streams, lets puts in flight be committed, then ends the work.
async fn drain(node: Arc<Node>, stop: CancellationToken, work: CancellationToken) {
    tokio::select! {
        () = stop.cancelled() => {}
        () = work.cancelled() => {
            // Consensus has ended by itself: what is served without it would be stale.
            node.stop.cancel();
            stop.cancel();
            return;
        }
    }
    node.stop.cancel();
    node.consensus.stand_no_more();
    let patience = Settings::millis(node.settings.now().shutdown_grace_ms / 2);
    if timeout(patience, node.settled()).await.is_err() {
        warn!("puts in flight are given up");
    }
    work.cancel();
}

async fn start(
    settings: Live<Settings>,
    environment: Environment,
    storage: Storage,
    tasks: &TaskTracker,
    (streams, work): (&CancellationToken, &CancellationToken),
) -> Result<(Arc<Node>, Option<Reclaimer>), ServeError> {
    let first = settings.now();
    let region: RegionId = first.region.parse()?;
    // A node calls nodes of its own region, and nobody else.
    let own = Expected::of(Role::Node, &region);
    let environment = Environment {
        channels: environment.channels.expecting(own),
        ..environment
    };
    let (store, reclaimer) = store(&first, &environment, tasks, work).await?;
    let directory = SharedDirectory::default();
    let consensus = Consensus::start(
        consensus_settings(&first, region.clone(), storage),
        environment.clone(),
        directory.clone(),
        tasks,
        work.clone(),
    )
    .await?;
    let node = Node::new(Parts {
        settings,
        region,
        environment,
        directory,
        consensus,
        store,
        tasks: tasks.clone(),
        stop: streams.clone(),
    });
    Ok((Arc::new(node), reclaimer))
}

/// The store, over a disk where the settings name one; what is there is read back first.
async fn store(
    settings: &Settings,
    environment: &Environment,
    tasks: &TaskTracker,
    work: &CancellationToken,
) -> Result<(Store, Option<Reclaimer>), ServeError> {
    let memory_bytes = budget::memory_bytes(settings);
    let memory = Arc::new(MemoryTier::default());
    let arena =
        Arena::for_budget(memory_bytes, settings.memory_huge_pages).map_err(ServeError::Memory)?;
    let ahead = settings.memory_ahead_bytes.min(memory_bytes);
    if ahead > 0 {
        let ahead = usize::try_from(ahead).unwrap_or(usize::MAX);
        let touching = arena.clone().touch_ahead(ahead, work.clone());
        tasks.spawn(touching.in_current_span());
    }
    let gpu = gpu(settings).await?;
    let whole = |store: Store| {
        let store = store.with_arena(arena);
        match gpu {
            Some(gpu) => store.with_gpu(gpu),
            None => store,
        }
    };
    if settings.disk_dir.as_os_str().is_empty() {
        return Ok((whole(Store::new(memory, memory_bytes)), None));
    }
    let opened = disk::open(&DiskSettings {
        dir: settings.disk_dir.clone(),
        disk_bytes: settings.disk_bytes,
        stop_percent: settings.disk_stop_writes,
        memory_bytes,
        node: NodeId(settings.node),
        region: settings.region.clone(),
    })
    .await?;
    tasks.spawn(opened.writer.run(work.clone()).in_current_span());
    let now = environment.clock.millis();
    let store = Store::over_disk(memory, memory_bytes, opened.tier, &opened.found, now);
    Ok((whole(store), Some(opened.reclaimer)))
}

/// The memory of a device, where the settings wish for some.
async fn gpu(settings: &Settings) -> Result<Option<GpuTier>, ServeError> {
    if settings.gpu_bytes == 0 {
        return Ok(None);
    }
    // Who has no device for a first look has none for the node.
    let found = timeout(DEVICE_WAIT, tokio::task::spawn_blocking(gpu::first)).await;
    let late = |_| std::io::Error::from(std::io::ErrorKind::TimedOut);
    let found = found.map_err(late).map_err(DeviceError::from)?;
    let device = found
        .map_err(std::io::Error::other)
        .map_err(DeviceError::from)??;
    info!(
        device = device.name(),
        bytes = settings.gpu_bytes,
        "blocks have room on a device"
    );
    Ok(Some(GpuTier::new(device, settings.gpu_bytes)))
}

fn spawn_workers(node: &Arc<Node>, work: &CancellationToken, reclaimer: Option<Reclaimer>) {
    let stop = || work.clone();
    if node.store.has_gpu() {
        node.tasks
            .spawn(lifting::run(Arc::clone(node), stop()).in_current_span());
    }
    if node.store.has_disk() {
        let (node, stop) = (Arc::clone(node), stop());
        let tasks = node.tasks.clone();
        tasks.spawn(async move { node.store.run_ahead(stop).await }.in_current_span());
    }
    if let Some(reclaimer) = reclaimer {
        node.tasks
            .spawn(reclaim::run(Arc::clone(node), reclaimer, stop()).in_current_span());
    }
    node.tasks
        .spawn(applied::run(Arc::clone(node), stop()).in_current_span());
    node.tasks
        .spawn(reports::run(Arc::clone(node), stop()).in_current_span());
    node.tasks
        .spawn(repair::run(Arc::clone(node), stop()).in_current_span());
    node.tasks
        .spawn(moving::run(Arc::clone(node), stop()).in_current_span());
    node.tasks
        .spawn(rpc::join::run(Arc::clone(node), stop()).in_current_span());
    node.tasks
        .spawn(budget::run(Arc::clone(node), stop()).in_current_span());
    node.tasks
        .spawn(upkeep::run(Arc::clone(node), stop()).in_current_span());
}

fn consensus_settings(
    settings: &Settings,
    region: RegionId,
    storage: Storage,
) -> consensus::Settings {
    let node = NodeId(settings.node);
    let members = match settings.members.is_empty() {
        false => settings.members(),
        // It joins, or waits until an operator makes it a member; the others are learnt from
        // the log.
        true => vec![settings.own_member()],
    };
    consensus::Settings {
        snapshots: SnapshotSettings {
            log_bytes_max: settings.raft_log_bytes_max,
            entries_max: settings.raft_log_entries_max,
            ..SnapshotSettings::default()
        },
        heartbeat: Settings::millis(settings.raft_heartbeat_ms),
        election_min: Settings::millis(settings.election_min_ms),
        election_max: Settings::millis(settings.election_max_ms),
        report_interval: Settings::millis(settings.report_ms),
        suspect_after: Settings::millis(settings.suspect_after_ms),
        dead_after: Settings::millis(settings.dead_after_ms),
        begin_within: Settings::millis(settings.begin_within_ms),
        serve_lease: Settings::millis(settings.serve_lease_ms),
        reserve_bytes: settings.raft_reserve,
        ..consensus::Settings::new(region, node, members, storage)
    }
}
