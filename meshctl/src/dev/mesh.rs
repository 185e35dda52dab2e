//! A whole mesh in this process: regions of nodes, a gateway and a region-sync each.
//!
//! A mesh that was started is ready: every gateway's views show its own region and every
//! other one.

use std::{path::PathBuf, sync::Arc, time::Duration};

use anyhow::Context;
use kvmesh_client::channel::{Channels, TcpConnect};
use kvmesh_directory::RegionId;
use tempfile::TempDir;
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{info, warn};

use super::{link::Links, secured::Secured, start};
use crate::{
    args::MeshArgs,
    exit,
    rpc::{CallError, Peer},
};

/// A mesh that is not ready by then has failed.
const READY_WITHIN: Duration = Duration::from_secs(30);
/// How often a mesh that is not ready is asked.
const READY_POLL: Duration = Duration::from_millis(10);
/// A mesh that is told to end ends by then.
const STOP_WITHIN: Duration = Duration::from_secs(10);
/// Of one call while the mesh starts.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);

/// Shape of a dev mesh.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Regions, in the order of [`super::rtt::REGIONS`].
    pub regions: usize,
    /// Nodes of each region; all vote.
    pub nodes: usize,
    /// Multiplies the round trips between regions.
    pub link_scale: f64,
    /// Memory for blocks of all nodes together.
    pub memory_bytes: u64,
    /// Raft logs and snapshots, and the ports taken, are kept here; none: in memory.
    pub data_dir: Option<PathBuf>,
    /// Port of the first gateway, followed by the others'; 0: free ones.
    pub first_port: u16,
    /// How long a lost region answers before it is asked again; none: as region-syncs have it.
    pub return_after: Option<Duration>,
    /// Gateways read blocks where nodes keep them, as they may on a node's host.
    pub gateways_map: bool,
}

impl From<&MeshArgs> for Settings {
    fn from(args: &MeshArgs) -> Self {
        Self {
            regions: usize::from(args.regions),
            nodes: usize::from(args.nodes),
            link_scale: args.link_scale,
            memory_bytes: args.memory.0,
            data_dir: None,
            first_port: 0,
            return_after: None,
            gateways_map: false,
        }
    }
}

/// A running mesh.
pub struct Mesh {
    pub(super) regions: Vec<Region>,
    links: Links,
    running: Running,
    /// As an operator of it.
    channels: Channels,
    secured: Option<Secured>,
    started_in: Duration,
    /// Its nodes' sockets; gone when the mesh is.
    _sockets: TempDir,
}

/// One region of a mesh.
#[derive(Debug, Clone)]
pub struct Region {
    /// Its name.
    pub id: RegionId,
    /// `host:port` of its gateway.
    pub gateway: String,
    /// `host:port` of its region-sync.
    pub region_sync: String,
    /// Folder of its nodes' sockets for clients on this host.
    pub local: PathBuf,
    /// Its nodes, ascending by number.
    pub nodes: Vec<Node>,
}

/// One node of a region.
#[derive(Debug, Clone)]
pub struct Node {
    /// Its number.
    pub node: u64,
    /// `host:port`.
    pub address: String,
    pub(super) life: Life,
}

/// How one process of the mesh ends.
#[derive(Debug, Clone)]
pub(super) struct Life {
    /// Finishes what it does.
    pub(super) stop: CancellationToken,
    /// Its connections are reset.
    pub(super) killed: CancellationToken,
    /// It has ended.
    pub(super) ended: CancellationToken,
}

/// What all processes of the mesh share.
#[derive(Clone)]
pub(super) struct Running {
    pub(super) tasks: TaskTracker,
    pub(super) stop: CancellationToken,
    /// The first process that failed, and why.
    pub(super) failed: watch::Sender<Option<String>>,
}

impl Mesh {
    /// Binds all listeners, starts all processes, initialises the regions, and waits until
    /// the mesh is ready.
    ///
    /// # Errors
    /// When a process cannot start, or the mesh is not ready in time; nothing is left running.
    pub async fn start(settings: Settings) -> anyhow::Result<Self> {
        let channels = Channels::new(Arc::new(TcpConnect));
        Self::start_as(settings, channels, None).await
    }

    /// As [`Self::start`], with mutual TLS on all links of all processes.
    ///
    /// # Errors
    /// As [`Self::start`], or when certificates cannot be made.
    pub async fn start_secured(settings: Settings) -> anyhow::Result<Self> {
        let secured = Secured::new(&start::regions(&settings)?, settings.nodes)?;
        let channels = secured.operator()?.channels(None)?;
        Self::start_as(settings, channels, Some(secured)).await
    }

    async fn start_as(
        settings: Settings,
        channels: Channels,
        secured: Option<Secured>,
    ) -> anyhow::Result<Self> {
        let began = Instant::now();
        let running = Running {
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
            failed: watch::Sender::new(None),
        };
        let sockets = TempDir::with_prefix("kvmesh-").context("a folder for sockets")?;
        let starting = start::processes(&settings, &running, sockets.path(), secured.as_ref());
        let (regions, links) = starting.await?;
        let mut mesh = Self {
            regions,
            links,
            running,
            channels,
            secured,
            started_in: Duration::ZERO,
            _sockets: sockets,
        };
        let mut failed = mesh.running.failed.subscribe();
        let readiness = tokio::select! {
            readiness = timeout(READY_WITHIN, mesh.get_ready()) => {
                readiness.unwrap_or_else(|_| Err(anyhow::anyhow!("it was not ready in {READY_WITHIN:?}")))
            }
            Ok(why) = failed.wait_for(Option::is_some) => {
                Err(anyhow::anyhow!(why.clone().unwrap_or_default()))
            }
        };
        if let Err(error) = readiness {
            mesh.stop().await;
            return Err(error);
        }
        mesh.started_in = began.elapsed();
        info!(took = ?mesh.started_in, "the mesh is ready");
        Ok(mesh)
    }

    /// Its regions, in the order in which they were named.
    #[must_use]
    pub fn regions(&self) -> &[Region] {
        &self.regions
    }

    /// The links between its regions.
    #[must_use]
    pub fn links(&self) -> &Links {
        &self.links
    }

    /// Its certificates, if it has any.
    #[must_use]
    pub fn secured(&self) -> Option<&Secured> {
        self.secured.as_ref()
    }

    /// From the first listener to readiness.
    #[must_use]
    pub fn started_in(&self) -> Duration {
        self.started_in
    }

    /// The gateway of a region, as a client in that region reaches it.
    ///
    /// # Errors
    /// Never for a running mesh: its addresses are possible.
    pub fn gateway(&self, region: usize, call_timeout: Duration) -> anyhow::Result<Peer> {
        self.peer(&self.regions[region].gateway, call_timeout)
    }

    fn peer(&self, address: &str, call_timeout: Duration) -> anyhow::Result<Peer> {
        let peer = Peer::new(&self.channels, address, call_timeout);
        peer.map_err(|error| exit::set_up(error.to_string()))
    }

    /// Resets a node's connections, stops it, and waits until it has ended.
    pub async fn kill_node(&self, region: usize, node: usize) {
        let life = &self.regions[region].nodes[node].life;
        life.killed.cancel();
        life.stop.cancel();
        if timeout(STOP_WITHIN, life.ended.cancelled()).await.is_err() {
            warn!("a killed node has not ended in {STOP_WITHIN:?}");
        }
    }

    /// Ends all processes, and waits for them.
    pub async fn stop(self) {
        self.running.stop.cancel();
        self.running.tasks.close();
        if timeout(STOP_WITHIN, self.running.tasks.wait())
            .await
            .is_err()
        {
            let left = self.running.tasks.len();
            warn!(left, "some tasks of the mesh have not ended");
        }
    }

    async fn get_ready(&self) -> anyhow::Result<()> {
        let initialised = self.regions.iter().map(|region| self.initialise(region));
        futures::future::try_join_all(initialised).await?;
        let ready = self.regions.iter().map(|region| self.wait_for(region));
        futures::future::try_join_all(ready).await?;
        Ok(())
    }

    /// Until a region's gateway sees its nodes alive and every other region.
    async fn wait_for(&self, region: &Region) -> anyhow::Result<()> {
        let gateway = self.peer(&region.gateway, CALL_TIMEOUT)?;
        loop {
            match self.sees_all(&gateway).await {
                Ok(true) => return Ok(()),
                Ok(false) => {}
                Err(error) if is_passing(&error) => {}
                Err(error) => return Err(error).context("waiting for the gateways"),
            }
            sleep(READY_POLL).await;
        }
    }

    async fn sees_all(&self, gateway: &Peer) -> Result<bool, CallError> {
        let shown = gateway.show().await?;
        let alive = shown.nodes.iter().filter(|node| node.state == "alive");
        if !shown.initialised || alive.count() < self.regions[0].nodes.len() {
            return Ok(false);
        }
        let seen = gateway.regions().await?;
        let seen = seen
            .iter()
            .filter(|region| region.position.is_some())
            .filter(|region| region.local || region.reachable && region.rtt_ms > 0.0);
        Ok(seen.count() == self.regions.len())
    }

    /// Commits a region's members by its first node, as `meshctl region init` does.
    async fn initialise(&self, region: &Region) -> anyhow::Result<()> {
        let node = self.peer(&region.nodes[0].address, CALL_TIMEOUT)?;
        loop {
            match node.init_region().await {
                Ok(_) => return Ok(()),
                // Kept from an earlier run of the same data directory.
                Err(CallError::Refused { code, .. }) if code == "AlreadyExists" => return Ok(()),
                Err(error) if is_passing(&error) => sleep(READY_POLL).await,
                Err(error) => return Err(error).context("initialising a region"),
            }
        }
    }
}

/// Whether a starting process may answer so.
fn is_passing(error: &CallError) -> bool {
    match error {
        CallError::Unreachable { .. } | CallError::OutOfTime { .. } => true,
        CallError::Refused { code, .. } => {
            ["Unavailable", "FailedPrecondition"].contains(&code.as_str())
        }
        CallError::Broken { .. } => false,
    }
}
