//! `kvmesh-node`: one node of a region.

use std::process::ExitCode;

use clap::Parser;
use kvmesh_process::program::{self, SettingsArgs};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// One node of a kvmesh region: holds blocks and, as a voter, the region's directory.
#[derive(Debug, Parser)]
#[command(name = "kvmesh-node", version)]
struct Args {
    #[command(flatten)]
    settings: SettingsArgs,
}

fn main() -> ExitCode {
    let args = Args::parse();
    program::run::<kvmesh_node::Settings, _>("node", &args.settings, kvmesh_node::serve)
}
