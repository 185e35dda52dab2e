//! Where the programs are: beside the one that runs, built as the sources are now.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

use anyhow::{Context, Result, ensure};

const PROGRAMS: [&str; 4] = [
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
    PROGRAMS.iter().all(|name| folder.join(name).is_file())
}

/// Cargo builds the programs of other packages only when it is asked to.
fn build(folder: &Path) -> Result<()> {
    let mut cargo = Command::new("cargo");
    cargo
        .args(["build", "--locked"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .env("CARGO_TARGET_DIR", folder.parent().unwrap_or(folder));
    // What cargo tells the tests that it runs of their package is not for a cargo of theirs: it
    // would build anew what looks at that, and with it all that depends on it.
    for (name, _) in env::vars_os() {
        let of_package = [
            "CARGO_PKG_",
            "CARGO_MANIFEST_",
            "CARGO_BIN_",
            "CARGO_CRATE_",
        ];
        if of_package
            .iter()
            .any(|start| name.to_string_lossy().starts_with(start))
        {
            cargo.env_remove(name);
        }
    }
    // With other features than what runs has, cargo would build everything anew: programs of this
    // package have the workspace's, its tests those of `cargo test --workspace`.
    cargo.args(["--workspace", "--bins"]);
    if folder.ends_with("release") {
        cargo.arg("--release");
    } else {
        cargo.arg("--tests");
    }
    let status = cargo.status().context("cargo cannot be run")?;
    ensure!(status.success(), "cargo could not build the programs");
    Ok(())
}
