//! The front door of a region: stateless, any number behind a load balancer.

pub mod settings;
pub mod templates;

use kvmesh_client::channel::Incoming;
use kvmesh_process::{
    Environment,
    settings::{Check, Impossible},
};
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;

pub use settings::Settings;

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
    settings: Settings,
    environment: Environment,
    incoming: Incoming,
    stop: CancellationToken,
) -> Result<(), ServeError> {
    settings.check()?;
    let _ = &environment;
    let grace = settings.shutdown_grace();
    kvmesh_process::server::serve(Routes::default(), incoming, stop, grace).await?;
    Ok(())
}
