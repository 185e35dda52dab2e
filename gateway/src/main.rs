//! The gateway's program.

use std::process::ExitCode;

use clap::Parser;
use kvmesh_process::program::{self, SettingsArgs};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The front door of one region of a kvmesh
#[derive(Debug, Parser)]
#[command(name = "kvmesh-gateway", version)]
struct Args {
    #[command(flatten)]
    settings: SettingsArgs,
}

fn main() -> ExitCode {
    let args = Args::parse();
    program::run::<kvmesh_gateway::Settings, _>("gateway", &args.settings, kvmesh_gateway::serve)
}
