//! Logs by `tracing`, metrics by a Prometheus endpoint.

use std::net::SocketAddr;

/// Why telemetry could not start.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {}

/// Logs to standard error: text on a terminal, JSON otherwise. `filter` is an `EnvFilter` directive.
///
/// # Errors
/// When the filter cannot be read.
pub fn logs(_filter: &str) -> Result<(), TelemetryError> {
    todo!()
}

/// Installs the process's metrics recorder and serves `/metrics` on `listen`; returns the address taken.
///
/// # Errors
/// When the address cannot be bound.
pub async fn metrics(_listen: SocketAddr) -> Result<SocketAddr, TelemetryError> {
    todo!()
}
