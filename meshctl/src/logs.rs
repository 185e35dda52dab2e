//! Where `meshctl` writes its log: standard error, or a file of its own.

use std::{
    fs::File,
    io::{self, IsTerminal},
    path::{Path, PathBuf},
    sync::Mutex,
};

use anyhow::Context;
use tracing_subscriber::EnvFilter;

use crate::exit;

/// Logs to a file, or to standard error when there is none. `filter` is an `EnvFilter`
/// directive, such as `info` or `kvmesh_gateway=debug,warn`.
///
/// # Errors
/// When the filter cannot be read or the file cannot be made.
pub fn start(filter: &str, file: Option<&Path>) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(filter)
        .map_err(|error| exit::set_up(format!("--log {filter:?} is no filter: {error}")))?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter);
    let started = match file {
        None => builder
            .with_ansi(io::stderr().is_terminal())
            .with_writer(io::stderr)
            .try_init(),
        Some(path) => {
            let file = File::create(path).map_err(|error| {
                exit::set_up(format!(
                    "log file {} cannot be made: {error}",
                    path.display()
                ))
            })?;
            builder
                .with_ansi(false)
                .with_writer(Mutex::new(file))
                .try_init()
        }
    };
    started
        .map_err(|error| anyhow::anyhow!(error))
        .context("the log cannot be started twice")
}

/// Makes a log file that stays, for verbs that run a mesh whose log would drown what they say.
///
/// # Errors
/// When there is no place for it.
pub fn file(prefix: &str) -> anyhow::Result<PathBuf> {
    let (_, path) = tempfile::Builder::new()
        .prefix(prefix)
        .suffix(".log")
        .tempfile()
        .and_then(|file| file.keep().map_err(|error| error.error))
        .map_err(|error| exit::set_up(format!("no log file can be made: {error}")))?;
    Ok(path)
}
