//! Starts a gateway and ends it.

use std::sync::Arc;

use kvmesh_client::{
    channel::Incoming,
    follow::{MeshViewFollower, RegionFollower, Source},
};
use kvmesh_directory::RegionId;
use kvmesh_process::{
    Environment,
    access::Guests,
    settings::{Check, Impossible, Live},
    tls::{Expected, Role},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::Instrument;

use crate::{
    Settings, budget, context::Gateway, fill, fill::Fills, measure, rpc, tell, views::Views, warm,
};

/// Why a gateway ended.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The settings cannot be.
    #[error(transparent)]
    Settings(#[from] Impossible),
    /// The gRPC server failed.
    #[error(transparent)]
    Server(#[from] kvmesh_process::server::ServeError),
}

/// Serves as a gateway until `stop`.
///
/// # Errors
/// When the settings are impossible or the server fails.
pub async fn serve(
    settings: impl Into<Live<Settings>>,
    environment: Environment,
    incoming: Incoming,
    stop: CancellationToken,
) -> Result<(), ServeError> {
    let live = settings.into();
    let settings = live.now();
    settings.check()?;
    let region = settings.region_id()?;
    let grace = settings.shutdown_grace();
    let (tasks, span) = (TaskTracker::new(), environment.span.clone());
    // Feeds and fills go on while calls in flight end.
    let over = CancellationToken::new();
    let _over_at_return = over.clone().drop_guard();
    let now = live.clone();
    let serves = move |region: &RegionId| now.now().serves_clients_of(region);
    let environment = environment.with_guests(Guests::of(serves));
    let source = |addresses: &[String], role| Source {
        channels: environment.channels.expecting(Expected::of(role, &region)),
        addresses: addresses.to_vec(),
        instance: Arc::clone(&environment.instance),
    };
    let (follower, local) =
        RegionFollower::new(source(&settings.nodes, Role::Node), region.clone());
    tasks.spawn(follower.run(over.clone()).instrument(span.clone()));
    let (follower, mesh) = MeshViewFollower::new(source(&settings.region_syncs, Role::RegionSync));
    tasks.spawn(follower.run(over.clone()).instrument(span.clone()));
    let views = Views::new(region.clone(), local, mesh, live.clone());
    let (fills, queue) = Fills::new(settings.fill_queue_bytes);
    let own = environment.clone();
    let gateway = Arc::new(Gateway::new(
        live,
        region,
        environment,
        views,
        fills,
        tasks.clone(),
        stop.clone(),
    ));
    tasks.spawn(fill::run(Arc::clone(&gateway), queue, over.clone()).instrument(span.clone()));
    tasks.spawn(budget::run(Arc::clone(&gateway), over.clone()).instrument(span.clone()));
    tasks.spawn(tell::run(Arc::clone(&gateway), over.clone()).instrument(span.clone()));
    tasks.spawn(measure::run(Arc::clone(&gateway), over.clone()).instrument(span.clone()));
    tasks.spawn(warm::run(Arc::clone(&gateway), over.clone()).instrument(span));
    let routes = rpc::routes(&gateway);
    let served = kvmesh_process::server::serve(routes, own, incoming, stop, grace).await;
    over.cancel();
    tasks.close();
    if tokio::time::timeout(grace, tasks.wait()).await.is_err() {
        tracing::warn!(left = tasks.len(), "grace period over");
    }
    Ok(served?)
}
