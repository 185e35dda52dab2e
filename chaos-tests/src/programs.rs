//! Where the programs are: beside the one that runs, built as the sources are now.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

use anyhow::{Context, Result, ensure};

const PACKAGES: [&str; 4] = [
    "kvmesh-node",
    "kvmesh-gateway",
    "kvmesh-region-sync",
    "meshctl",
];

/// Once in a process.
static BUILT: OnceLock<Result<(), String>> = OnceLock::new();

/// The folder that has all programs.
pub(crate) fn folder() -> Result<PathBuf> {
    let own = env::current_exe().context("the path of this program is not known")?;
    // Tests are in `deps`, one folder down.
    let folder = own.ancestors().skip(1).find(|folder| {
        let name = folder.file_name().unwrap_or_default();
        name != "deps" && name != "examples"
    });
    let folder = folder.context("this program is in no folder")?.to_owned();
    // Programs that are there may be of other sources; cargo knows.
    BUILT
        .get_or_init(|| build(&folder).map_err(|error| format!("{error:#}")))
        .clone()
        .map_err(anyhow::Error::msg)?;
    ensure!(has_all(&folder), "no programs in {}", folder.display());
    Ok(folder)
}

fn has_all(folder: &Path) -> bool {
    PACKAGES.iter().all(|name| folder.join(name).is_file())
}

/// Cargo builds the programs of other packages only when it is asked to.
fn build(folder: &Path) -> Result<()> {
    let mut cargo = Command::new("cargo");
    cargo
        .arg("build")
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .env("CARGO_TARGET_DIR", folder.parent().unwrap_or(folder));
    if folder.ends_with("release") {
        cargo.arg("--release");
    }
    for package in PACKAGES {
        cargo.args(["-p", package]);
    }
    let status = cargo.status().context("cargo cannot be run")?;
    ensure!(status.success(), "cargo could not build the programs");
    Ok(())
}
