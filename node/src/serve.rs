//! Puts a node together, and runs it until it is told to stop.

use kvmesh_client::channel::Incoming;
use kvmesh_process::{Environment, server};
use tokio_util::sync::CancellationToken;

use crate::Settings;

/// Why a node ended.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The region's name cannot be.
    #[error("the settings cannot be")]
    Settings(#[from] kvmesh_directory::words::WordError),
    /// The gRPC server failed.
    #[error(transparent)]
    Server(#[from] server::ServeError),
}

/// Runs a node on the connections of `incoming` until `stop`.
///
/// # Errors
/// When it cannot start, or its server fails.
pub async fn serve(
    _settings: Settings,
    _environment: Environment,
    _incoming: Incoming,
    _stop: CancellationToken,
) -> Result<(), ServeError> {
    todo!()
}
