//! gRPC servers as every process runs them.
//!
//! Invariants: at most [`CONNECTIONS_MAX`] connections; once [`serve`] has returned, every
//! connection that it accepted is closed, also those with streams that never end.

mod cache;
mod calls;
mod connection;
mod meters;
mod started;

use std::{
    io,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, UNIX_EPOCH},
};

use futures::{StreamExt, stream};
use http::{HeaderValue, header::DATE};
use kvmesh_client::channel::{
    BoxedIo, CONNECTION_WINDOW_BYTES, FRAME_BYTES_MAX, Incoming, KEEPALIVE_INTERVAL,
    KEEPALIVE_TIMEOUT, STREAM_WINDOW_BYTES,
};
use tokio::{net::TcpListener, sync::Semaphore};
use tokio_util::sync::CancellationToken;
use tonic::{body::Body, service::Routes, transport::Server};
use tonic_health::ServingStatus;
use tower::util::MapResponseLayer;
use tracing::{debug, warn};

use crate::{Environment, WallClock, access::AccessLayer};
pub use cache::{CacheService, ReplicationService};
use calls::CallsLayer;
use connection::Connection;
use meters::Connections;

/// Connections of one server; one more is closed at once, so that its caller tries elsewhere.
pub const CONNECTIONS_MAX: usize = 4_096;
/// Calls in flight on one connection; further ones wait at the client.
pub const CALLS_PER_CONNECTION_MAX: u32 = 1_024;
/// End of the year 9999, after which no date can be written.
const DATE_MAX_MS: u64 = 253_402_300_799_000;
/// Pause after a failed accept: most often the process is out of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Why a server ended.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The transport failed.
    #[error("the gRPC server failed")]
    Transport(#[from] tonic::transport::Error),
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
            tokio::time::sleep(ACCEPT_PAUSE).await;
            Err(error)
        }
    }
}

/// Serves `routes`, with health (`grpc.health.v1`) and reflection, until `stop`; then lets
/// calls in flight end, at most `grace` long, and closes what is left. Answers carry the
/// date of the environment's clock. Calls run in its span, and those that are traced in one of their own.
///
/// # Errors
/// When the transport fails.
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
    let routes = routes
        .add_service(health_service)
        .add_service(reflection)
        .prepare();

    started::started(&environment);
    let connections = Connections::new(&environment.instance);
    let clock = Arc::clone(&environment.clock);
    let over = CancellationToken::new();
    let _close_at_return = over.clone().drop_guard();
    let server = Server::builder()
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_frame_size(FRAME_BYTES_MAX)
        .max_concurrent_streams(CALLS_PER_CONNECTION_MAX)
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .layer(MapResponseLayer::new(move |answer| {
            dated(answer, clock.as_ref())
        }))
        .layer(CallsLayer::new(&environment))
        .layer(AccessLayer::new(environment.guests.clone()))
        .add_routes(routes)
        .serve_with_incoming_shutdown(
            bounded(incoming, CONNECTIONS_MAX, connections, over),
            stop.clone().cancelled_owned(),
        );
    let grace_over = async {
        stop.cancelled().await;
        health
            .set_service_status("", ServingStatus::NotServing)
            .await;
        tokio::time::sleep(grace).await;
    };
    tokio::select! {
        ended = server => Ok(ended?),
        () = grace_over => {
            debug!("grace period over: closing the connections that are left");
            Ok(())
        }
    }
}

/// Else hyper reads the machine's clock by itself, and a simulation sends other bytes each time.
fn dated(mut answer: http::Response<Body>, clock: &dyn WallClock) -> http::Response<Body> {
    let now = UNIX_EPOCH + Duration::from_millis(clock.millis().min(DATE_MAX_MS));
    if let Ok(date) = HeaderValue::try_from(httpdate::fmt_http_date(now)) {
        answer.headers_mut().insert(DATE, date);
    }
    answer
}

/// Drops connections over the bound; ends those under it once `over` is cancelled.
fn bounded(
    incoming: Incoming,
    connections_max: usize,
    meters: Connections,
    over: CancellationToken,
) -> Incoming {
    let room = Arc::new(Semaphore::new(connections_max));
    Box::pin(incoming.filter_map(move |accepted| {
        let admitted = match accepted {
            Err(error) => Some(Err(error)),
            Ok(io) => match Arc::clone(&room).try_acquire_owned() {
                Ok(permit) => {
                    let (link, remote) = (io.link().cloned(), io.remote());
                    let counted = (permit, meters.open());
                    let connection = Connection::new(io, counted, over.clone());
                    Some(Ok(BoxedIo::new(connection)
                        .with_link(link)
                        .with_remote(remote)))
                }
                Err(_) => {
                    meters.refused();
                    warn!(connections_max, "too many connections: closed one");
                    None
                }
            },
        };
        std::future::ready(admitted)
    }))
}

#[cfg(test)]
mod server_test;
