//! `meshctl dev`: a whole mesh in this process, for trying and for tests.
//!
//! Every process of it meets the others over loopback TCP, as real ones would; between
//! regions stands a link that delays.

use std::path::PathBuf;

use kvmesh_process::{shutdown, telemetry};

use crate::{
    args::{self, DevArgs, DevVerb, Global},
    exit, logs,
};

mod change;
mod control;
pub mod demo;
pub mod link;
pub mod mesh;
mod ports;
mod pump;
mod report;
pub mod rtt;
pub mod secured;
mod severed;
mod shape;
mod start;

/// Runs a mesh until it is told to end, or the tour over one.
///
/// # Errors
/// When the mesh cannot be set up, or a promise of the tour broke.
pub async fn run(global: &Global, flags: DevArgs) -> anyhow::Result<()> {
    if let Some(DevVerb::Link(link)) = &flags.verb {
        logs::start(&global.log, None)?;
        return change::run(global, link).await;
    }
    let log = log_file(&flags)?;
    // A file has room for what happened; a terminal only for what went wrong.
    let filter = match (&log, global.log.as_str()) {
        (Some(_), args::LOG) => telemetry::LOG_FILTER,
        (_, filter) => filter,
    };
    logs::start(filter, log.as_deref())?;
    let stop = shutdown::on_signal();
    let metrics = telemetry::metrics(flags.metrics_listen)
        .await
        .map_err(|error| exit::set_up(error.to_string()))?;
    let mut settings = mesh::Settings::from(&flags.mesh);
    settings.first_port = flags.first_port;
    settings.data_dir = flags.data_dir.clone();
    let mesh = mesh::Mesh::start(settings)
        .await
        .map_err(|error| exit::set_up(format!("the mesh cannot be set up: {error:#}")))?;
    if flags.demo {
        let log = log.unwrap_or_default();
        demo::run(global, mesh, &log, &stop).await
    } else {
        let control = control::Control::bind(flags.control.as_deref())?;
        let said = report::say(global, &mesh, metrics, &control.path);
        if said.is_ok() {
            tokio::select! {
                () = stop.cancelled() => {}
                () = control.serve(mesh.links()) => {}
            }
        }
        mesh.stop().await;
        said
    }
}

/// The tour logs into a file, so that its table stands alone.
fn log_file(flags: &DevArgs) -> anyhow::Result<Option<PathBuf>> {
    if flags.log_file.is_some() || !flags.demo {
        return Ok(flags.log_file.clone());
    }
    logs::file("kvmesh-demo-").map(Some)
}
