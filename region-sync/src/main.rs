//! The program `kvmesh-region-sync`.

use std::process::ExitCode;

use clap::Parser;
use kvmesh_process::program::{self, SettingsArgs};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Follows the other regions of the mesh and tells the gateways of its own region what is where.
///
/// Settings come from defaults, then the file, then KVMESH_REGION_SYNC_… variables
/// (`__` where a key has a dot), then --set. Exits with 64 when a setting cannot be.
#[derive(Debug, Parser)]
#[command(name = "kvmesh-region-sync", version)]
struct Args {
    #[command(flatten)]
    settings: SettingsArgs,
}

fn main() -> ExitCode {
    let args = Args::parse();
    program::run::<kvmesh_region_sync::Settings, _>(
        "region-sync",
        &args.settings,
        kvmesh_region_sync::serve,
    )
}
