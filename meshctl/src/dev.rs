//! `meshctl dev`: a whole mesh in this process, for trying and for tests.
//!
//! Every process of it meets the others over loopback TCP, as real ones would; between
//! regions stands a link that delays.

use std::path::PathBuf;

use anyhow::Context;
use kvmesh_process::{shutdown, telemetry};

use crate::{
    args::{DevArgs, Global},
    exit, logs,
};

pub mod demo;
pub mod link;
pub mod mesh;
mod ports;
mod pump;
mod report;
pub mod rtt;
mod severed;
mod start;

/// Runs a mesh until it is told to end, or the tour over one.
///
/// # Errors
/// When the mesh cannot be set up, or a promise of the tour broke.
pub async fn run(global: &Global, args: DevArgs) -> anyhow::Result<()> {
    let log = log_file(&args)?;
    // A file has room for what happened; a terminal only for what went wrong.
    let filter = match (&log, global.log.as_str()) {
        (Some(_), "warn") => telemetry::LOG_FILTER,
        (_, filter) => filter,
    };
    logs::start(filter, log.as_deref())?;
    let stop = shutdown::on_signal();
    let metrics = telemetry::metrics(args.metrics_listen)
        .await
        .map_err(|error| exit::set_up(error.to_string()))?;
    let mut settings = mesh::Settings::from(&args.mesh);
    settings.first_port = args.first_port;
    settings.data_dir = args.data_dir.clone();
    let mesh = mesh::Mesh::start(settings)
        .await
        .map_err(|error| exit::set_up(format!("the mesh cannot be set up: {error:#}")))?;
    let done = if args.demo {
        let log = log.unwrap_or_default();
        demo::run(global, mesh, &log, &stop).await
    } else {
        let said = report::say(global, &mesh, metrics);
        if said.is_ok() {
            stop.cancelled().await;
        }
        mesh.stop().await;
        said
    };
    done.context("meshctl dev")
}

/// The tour logs into a file, so that its table stands alone.
fn log_file(args: &DevArgs) -> anyhow::Result<Option<PathBuf>> {
    if args.log_file.is_some() || !args.demo {
        return Ok(args.log_file.clone());
    }
    let (_, path) = tempfile::Builder::new()
        .prefix("kvmesh-demo-")
        .suffix(".log")
        .tempfile()
        .and_then(|file| file.keep().map_err(|error| error.error))
        .map_err(|error| exit::set_up(format!("no log file can be made: {error}")))?;
    Ok(Some(path))
}
