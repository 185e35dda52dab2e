//! Follows the other regions and tells the gateways of its own what is where.
//!
//! What others did for good (namespaces, deletes, raises) is committed at home together with
//! the position that it came from; which blocks they have is kept in memory, and is a hint.

mod settings;

use kvmesh_client::channel::Incoming;
use kvmesh_process::{Environment, server::ServeError};
use tokio_util::sync::CancellationToken;

pub use settings::{PeerSettings, Settings};

/// Runs a region-sync until `stop`.
///
/// # Errors
/// When its server fails.
pub async fn serve(
    _settings: Settings,
    _environment: Environment,
    _incoming: Incoming,
    _stop: CancellationToken,
) -> Result<(), ServeError> {
    todo!()
}
