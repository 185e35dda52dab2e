//! `meshctl`: reads the flags, runs one verb, turns what went wrong into an exit code.

use std::process::ExitCode;

use clap::Parser;
use meshctl::{args::Args, exit, verbs};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let args = Args::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => return exit::fail(&exit::set_up(format!("no runtime: {error}"))),
    };
    match runtime.block_on(verbs::run(args)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => exit::fail(&error),
    }
}
