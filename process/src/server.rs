//! gRPC servers as every process runs them.
//!
//! Invariants: at most [`CONNECTIONS_MAX`] connections; once [`serve`] has returned, every
//! connection that it accepted is closed, also those with streams that never end.

mod cache;
mod call;
mod calls;
mod connection;
mod meters;
mod routes;
mod started;

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use futures::{StreamExt, stream};
use http::Request;
use kvmesh_client::channel::{BoxedIo, Incoming, KEEPALIVE_INTERVAL, KEEPALIVE_TIMEOUT};
use tokio::{
    net::TcpListener,
    sync::Semaphore,
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::body::Body;
use tonic_health::ServingStatus;
use tracing::{Instrument, debug, warn};

use crate::{
    Environment,
    access::{self, Guests},
};
pub use cache::{CacheService, ReplicationService};
use calls::{Call, Calls};
use connection::Shared;
use meters::Connections;
use routes::Answering;
pub use routes::Routes;

/// Connections of one server; one more is closed at once, so that its caller tries elsewhere.
pub const CONNECTIONS_MAX: usize = 4_096;
/// Calls in flight on one connection; further ones wait at the client.
pub const CALLS_PER_CONNECTION_MAX: u32 = 1_024;
/// How long a connection may take to say what every one begins with.
const PREFACE_MAX: Duration = KEEPALIVE_INTERVAL.saturating_add(KEEPALIVE_TIMEOUT);
/// How long what is closed at the end may take to notice it.
const CLOSE_MAX: Duration = Duration::from_secs(1);
/// Pause after a failed accept: most often the process is out of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Why a server ended.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The services cannot be described to clients.
    #[error("the descriptors of the services cannot be read: rebuild this program")]
    Reflection(#[from] tonic_reflection::server::Error),
}

/// Listens on an address; port 0 takes a free one. Returns the address taken.
///
/// # Errors
/// When the address cannot be bound.
pub async fn listen(address: SocketAddr) -> io::Result<(SocketAddr, Incoming)> {
    let listener = TcpListener::bind(address).await?;
    let taken = listener.local_addr()?;
    let incoming = stream::unfold(listener, |listener| async {
        Some((accept(&listener).await, listener))
    });
    Ok((taken, Box::pin(incoming)))
}

async fn accept(listener: &TcpListener) -> io::Result<BoxedIo> {
    match listener.accept().await {
        Ok((stream, remote)) => {
            stream.set_nodelay(true)?;
            Ok(BoxedIo::tcp(stream).with_remote(remote))
        }
        Err(error) => {
            warn!(%error, "a connection could not be accepted");
            sleep(ACCEPT_PAUSE).await;
            Err(error)
        }
    }
}

/// Serves `routes`, with health (`grpc.health.v1`) and reflection, until `stop` or the end of
/// `incoming`; then lets calls in flight end, at most `grace` long, and closes what is left. Calls
/// run in the environment's span, and those that are traced in one of their own.
///
/// # Errors
/// When the services cannot be described.
pub async fn serve(
    routes: Routes,
    environment: Environment,
    incoming: Incoming,
    stop: CancellationToken,
    grace: Duration,
) -> Result<(), ServeError> {
    let (health, health_service) = tonic_health::server::health_reporter();
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(kvmesh_proto::FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()?;
    let routes = routes.add_service(health_service).add_service(reflection);

    started::started(&environment);
    let over = CancellationToken::new();
    let _close_at_return = over.clone().drop_guard();
    let shared = Arc::new(Shared {
        answers: Answers {
            routes,
            guests: environment.guests.clone(),
            calls: Calls::new(&environment),
        },
        tasks: TaskTracker::new(),
        leave: stop.child_token(),
        over,
    });
    let connections = Connections::new(&environment.instance);
    let accepting = accept_all(incoming, CONNECTIONS_MAX, &connections, |io, counted| {
        let serving = connection::serve(io, Arc::clone(&shared));
        let counting = async move {
            serving.await;
            drop(counted);
        };
        let in_span = counting.instrument(environment.span.clone());
        shared.tasks.spawn(in_span);
    });
    stop.run_until_cancelled(accepting).await;

    shared.leave.cancel();
    shared.tasks.close();
    health
        .set_service_status("", ServingStatus::NotServing)
        .await;
    if timeout(grace, shared.tasks.wait()).await.is_err() {
        debug!("grace period over: closing the connections that are left");
        shared.over.cancel();
        if timeout(CLOSE_MAX, shared.tasks.wait()).await.is_err() {
            warn!(left = shared.tasks.len(), "calls do not end");
        }
    }
    Ok(())
}

/// What a server answers with.
struct Answers {
    routes: Routes,
    guests: Guests,
    calls: Calls,
}

impl Answers {
    /// Begins a call, which is refused here if its caller may not make it.
    fn begin(&self, request: Request<Body>) -> (Call, Answering) {
        let call = self.calls.begin(&request);
        let answering = call.in_span(|| match access::refusal(&request, &self.guests) {
            None => self.routes.answer(request),
            Some(refused) => Box::pin(async { Ok(refused.into_http()) }),
        });
        (call, answering)
    }
}

/// What counts a connection while it lives.
type Counted = (tokio::sync::OwnedSemaphorePermit, meters::Open);

/// Accepts until there is nothing more to accept; closes what is over the bound.
async fn accept_all(
    mut incoming: Incoming,
    connections_max: usize,
    meters: &Connections,
    mut admit: impl FnMut(BoxedIo, Counted),
) {
    let room = Arc::new(Semaphore::new(connections_max));
    while let Some(accepted) = incoming.next().await {
        // Who accepts has said already why one could not be.
        let Ok(io) = accepted else { continue };
        match Arc::clone(&room).try_acquire_owned() {
            Ok(permit) => admit(io, (permit, meters.open())),
            Err(_) => {
                meters.refused();
                warn!(connections_max, "too many connections: closed one");
            }
        }
    }
}

#[cfg(test)]
mod connection_test;
#[cfg(test)]
mod server_test;
