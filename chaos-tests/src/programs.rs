//! Where the programs are: beside the one that runs, built when they are missing.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};

const PACKAGES: [&str; 4] = [
    "kvmesh-node",
    "kvmesh-gateway",
    "kvmesh-region-sync",
    "meshctl",
];

/// The folder that has all programs.
pub(crate) fn folder() -> Result<PathBuf> {
    let own = env::current_exe().context("the path of this program is not known")?;
    // Tests are in `deps`, one folder down.
    let folder = own.ancestors().skip(1).find(|folder| {
        let name = folder.file_name().unwrap_or_default();
        name != "deps" && name != "examples"
    });
    let folder = folder.context("this program is in no folder")?.to_owned();
    if !has_all(&folder) {
        build(&folder)?;
    }
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
