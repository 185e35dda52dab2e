//! Puts a region-sync together, and runs it until it is told to stop.

use std::{collections::BTreeMap, sync::Arc};

use kvmesh_client::{
    channel::Incoming,
    follow::{RegionFollower, Source},
};
use kvmesh_directory::{PeerState, RegionId};
use kvmesh_process::{
    Environment, server,
    settings::{Check, Impossible, Live, possible},
    tls::{Expected, Role},
};
use tokio::{
    sync::Semaphore,
    time::{Instant, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::service::Routes;
use tracing::{Instrument, warn};

use crate::{
    Settings,
    home::Home,
    link::Probing,
    mesh::{Link, Mesh},
    meters::Meters,
    peer::Peer,
    push::{CALLS_AT_ONCE, Push, Pushing},
    rpc::{self, bring::Gateways, home::Nodes, probe::Prober},
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
    start(&live, &environment, (&own, &peers), &mesh, &tasks, &stop);
    let instance = Arc::clone(&environment.instance);
    let feed = rpc::service(mesh, instance, tasks.clone(), stop.clone());
    let served = server::serve(
        Routes::new(feed),
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
    let link = |(region, peer): (&RegionId, &crate::PeerSettings)| {
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

/// Starts the tasks: one follows the own region, three care for each peer.
fn start(
    live: &Live<Settings>,
    environment: &Environment,
    (own, peers): (&RegionId, &[RegionId]),
    mesh: &Arc<Mesh>,
    tasks: &TaskTracker,
    stop: &CancellationToken,
) {
    let settings = live.now();
    let channels = &environment.channels;
    let to = |role, region: &RegionId| channels.expecting(Expected::of(role, region));
    let source = |addresses: &[String], region: &RegionId| Source {
        channels: to(Role::Node, region),
        addresses: addresses.to_vec(),
        instance: Arc::clone(&environment.instance),
    };
    let (follower, view) = RegionFollower::new(source(&settings.nodes, own), own.clone());
    tasks.spawn(follower.run(stop.child_token()).in_current_span());
    let nodes = Nodes::new(to(Role::Node, own), &settings.nodes, live.clone());
    let home = Home::new(view, nodes);
    let gateways = Gateways::new(to(Role::Gateway, own), &settings.gateways);
    let calls = Arc::new(Semaphore::new(CALLS_AT_ONCE));
    for (region, peer) in peers.iter().zip(&settings.peers) {
        let meters = Meters::new(Arc::clone(&environment.instance), region.clone());
        let between = (own, region);
        let queue_max = settings.push_queue_max;
        let push = Push::new(between, home.clone(), meters.clone(), queue_max);
        let push = Arc::new(push);
        let pushing = Pushing {
            push: Arc::clone(&push),
            source: source(&peer.nodes, region),
            gateways: gateways.clone(),
            mesh: Arc::clone(mesh),
            settings: live.clone(),
            calls: Arc::clone(&calls),
            bandwidth_bits: peer.bandwidth_bits,
        };
        tasks.spawn(pushing.run(stop.child_token()).in_current_span());
        let following = Peer {
            own: own.clone(),
            region: region.clone(),
            source: source(&peer.nodes, region),
            home: home.clone(),
            mesh: Arc::clone(mesh),
            meters: meters.clone(),
            push,
        };
        tasks.spawn(following.run(stop.child_token()).in_current_span());
        let probing = Probing {
            region: region.clone(),
            gateways: peer.gateways.clone(),
            prober: Prober {
                channels: to(Role::Gateway, region),
                timeout: settings.probe_timeout(),
            },
            settings: live.clone(),
            mesh: Arc::clone(mesh),
            meters,
        };
        tasks.spawn(probing.run(stop.child_token()).in_current_span());
    }
}
