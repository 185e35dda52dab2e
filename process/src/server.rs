//! gRPC servers as every process runs them.

use std::{io, net::SocketAddr, time::Duration};

use kvmesh_client::channel::Incoming;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;

/// Why a server ended.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The transport failed.
    #[error("the gRPC server failed")]
    Transport(#[from] tonic::transport::Error),
}

/// Listens on an address; port 0 takes a free one. Returns the address taken.
///
/// # Errors
/// When the address cannot be bound.
pub async fn listen(_address: SocketAddr) -> io::Result<(SocketAddr, Incoming)> {
    todo!()
}

/// Serves `routes`, with health (`grpc.health.v1`) and reflection, until `stop`; then lets
/// calls in flight end, at most `grace` long.
///
/// # Errors
/// When the transport fails.
pub async fn serve(
    _routes: Routes,
    _incoming: Incoming,
    _stop: CancellationToken,
    _grace: Duration,
) -> Result<(), ServeError> {
    todo!()
}
