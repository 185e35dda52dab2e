//! Puts a region-sync together, and runs it until it is told to stop.

use std::{collections::BTreeMap, sync::Arc};

use kvmesh_client::{
    channel::Incoming,
    follow::{RegionFollower, Source},
};
use kvmesh_directory::{PeerState, RegionId};
use kvmesh_process::{
    Environment,
    server::{self, Routes},
    settings::{Check, Impossible, Live, possible},
    tls::{Expected, Role},
};
use tokio::{
    sync::{Semaphore, mpsc},
    time::{Instant, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{Instrument, warn};

use crate::{
    PeerSettings, Settings,
    compare::{
        Comparing,
        order::{Desk, Order},
    },
    home::Home,
    link::Probing,
    mesh::{Link, Mesh},
    meters::Meters,
    peer::Peer,
    push::{CALLS_AT_ONCE, Push, Pushing},
    rpc::{self, bring::Gateways, compare::PeerNodes, home::Nodes, probe::Prober},
};

/// Why a region-sync ended.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// A setting cannot be.
    #[error("the settings cannot be")]
    Settings(#[from] Impossible),
    /// Its server failed.
    #[error(transparent)]
    Server(#[from] server::ServeError),
}

/// Runs a region-sync until `stop`.
///
/// # Errors
/// When a setting is impossible, or its server fails.
pub async fn serve(
    settings: impl Into<Live<Settings>>,
    environment: Environment,
    incoming: Incoming,
    stop: CancellationToken,
) -> Result<(), ServeError> {
    let live = settings.into();
    let settings = live.now();
    settings.check()?;
    let own = possible::region("region", &settings.region)?;
    let peers = peers(&settings)?;
    let mesh = Arc::new(Mesh::new(links(&settings, &peers)));

    let (tasks, stop) = (TaskTracker::new(), stop.child_token());
    let _stop_at_return = stop.clone().drop_guard();
    let desk = start(&live, &environment, (&own, &peers), &mesh, &tasks, &stop);
    let instance = Arc::clone(&environment.instance);
    let sync = rpc::sync::service(own, Arc::clone(&mesh), desk);
    let feed = rpc::service(mesh, instance, tasks.clone(), stop.clone());
    let served = server::serve(
        Routes::new(feed).add_service(sync),
        environment.clone(),
        incoming,
        stop.clone(),
        settings.shutdown_grace(),
    )
    .await;

    stop.cancel();
    tasks.close();
    if timeout(settings.shutdown_grace(), tasks.wait())
        .await
        .is_err()
    {
        warn!(left = tasks.len(), "grace period over");
    }
    Ok(served?)
}

fn peers(settings: &Settings) -> Result<Vec<RegionId>, Impossible> {
    let peers = settings.peers.iter();
    peers
        .map(|peer| possible::region("peers.region", &peer.region))
        .collect()
}

fn links(settings: &Settings, peers: &[RegionId]) -> BTreeMap<RegionId, Link> {
    let now = Instant::now();
    let link = |(region, peer): (&RegionId, &PeerSettings)| {
        let link = Link {
            state: PeerState::CatchingUp,
            rtt: None,
            bandwidth: peer.bandwidth_bits as f64 / 8.0,
            trips: None,
            dollars_per_gb: peer.dollars_per_gb,
            gateways: peer.gateways.clone(),
            heard: now,
            heard_at: None,
        };
        (region.clone(), link)
    };
    peers.iter().zip(&settings.peers).map(link).collect()
}

/// Starts the tasks: one follows the own region, four care for each peer. Operators give their
/// orders at the desk.
fn start(
    live: &Live<Settings>,
    environment: &Environment,
    (own, peers): (&RegionId, &[RegionId]),
    mesh: &Arc<Mesh>,
    tasks: &TaskTracker,
    stop: &CancellationToken,
) -> Desk {
    let settings = live.now();
    let channels = &environment.channels;
    let to = |role, region: &RegionId| channels.expecting(Expected::of(role, region));
    let source = Source {
        channels: to(Role::Node, own),
        addresses: settings.nodes.clone(),
        instance: Arc::clone(&environment.instance),
    };
    let (follower, view) = RegionFollower::new(source, own.clone());
    tasks.spawn(follower.run(stop.child_token()).in_current_span());
    let nodes = Nodes::new(to(Role::Node, own), &settings.nodes, live.clone());
    let starting = Starting {
        live,
        environment,
        own,
        mesh,
        tasks,
        stop,
        home: Home::new(view, nodes),
        gateways: Gateways::new(to(Role::Gateway, own), &settings.gateways),
        calls: Arc::new(Semaphore::new(CALLS_AT_ONCE)),
    };
    let mut desk = Desk::default();
    for (region, peer) in peers.iter().zip(&settings.peers) {
        starting.peer(region, peer, desk.open(region));
    }
    desk
}

/// What the tasks of all peers share.
struct Starting<'a> {
    live: &'a Live<Settings>,
    environment: &'a Environment,
    own: &'a RegionId,
    mesh: &'a Arc<Mesh>,
    tasks: &'a TaskTracker,
    stop: &'a CancellationToken,
    home: Home,
    gateways: Gateways,
    calls: Arc<Semaphore>,
}

impl Starting<'_> {
    /// Follows one peer, brings what it pushes, compares, and probes.
    fn peer(&self, region: &RegionId, peer: &PeerSettings, orders: mpsc::Receiver<Order>) {
        let settings = self.live.now();
        let instance = &self.environment.instance;
        let meters = Meters::new(Arc::clone(instance), region.clone());
        let to = |role| {
            let channels = &self.environment.channels;
            channels.expecting(Expected::of(role, region))
        };
        let source = || Source {
            channels: to(Role::Node),
            addresses: peer.nodes.clone(),
            instance: Arc::clone(instance),
        };
        let (between, queue_max) = ((self.own, region), settings.push_queue_max);
        let push = Push::new(between, self.home.clone(), meters.clone(), queue_max);
        let push = Arc::new(push);
        let pushing = Pushing {
            push: Arc::clone(&push),
            source: source(),
            gateways: self.gateways.clone(),
            mesh: Arc::clone(self.mesh),
            settings: self.live.clone(),
            calls: Arc::clone(&self.calls),
        };
        self.spawn(pushing.run(self.stop.child_token()));
        let following = Peer {
            own: self.own.clone(),
            region: region.clone(),
            source: source(),
            home: self.home.clone(),
            mesh: Arc::clone(self.mesh),
            meters: meters.clone(),
            push: Arc::clone(&push),
        };
        let (restarts, restarted) = mpsc::channel(1);
        self.spawn(following.run(restarted, self.stop.child_token()));
        let comparing = Comparing {
            nodes: PeerNodes {
                own: self.own.clone(),
                region: region.clone(),
                source: source(),
            },
            mesh: Arc::clone(self.mesh),
            home: self.home.clone(),
            push,
            meters: meters.clone(),
            settings: self.live.clone(),
            orders,
            restarts,
            told: false,
            objects: None,
        };
        self.spawn(comparing.run(self.stop.child_token()));
        let probing = Probing {
            region: region.clone(),
            gateways: peer.gateways.clone(),
            prober: Prober {
                channels: to(Role::Gateway),
                timeout: settings.probe_timeout(),
            },
            settings: self.live.clone(),
            mesh: Arc::clone(self.mesh),
            meters,
        };
        self.spawn(probing.run(self.stop.child_token()));
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(task.in_current_span());
    }
}
