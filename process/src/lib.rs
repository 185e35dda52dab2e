//! What every process of kvmesh starts with: settings, telemetry, health, servers, shutdown.

pub mod access;
pub mod environment;
pub mod program;
mod reload;
pub mod server;
pub mod settings;
pub mod shutdown;
pub mod telemetry;
pub mod tls;

pub use environment::{Environment, SystemClock, WallClock};
