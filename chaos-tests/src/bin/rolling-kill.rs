//! The program `rolling-kill`: the rolling kill at full size.

use std::path::PathBuf;

use anyhow::{Context, Result};
use chaos_tests::{Plan, rolling_kill};
use clap::Parser;

/// Starts a mesh of real processes on loopback, puts blocks, kills each node of a region in
/// turn with SIGKILL while reads and puts go on, and finds every acknowledged block in every
/// region. Prints a report as JSON; exits with 1 when a promise is broken.
#[derive(Debug, Parser)]
struct Args {
    /// Blocks that are put before the first kill
    #[arg(long, default_value_t = 10_000)]
    blocks: u64,
    /// Bytes of one block
    #[arg(long, default_value_t = 16_384)]
    block_bytes: usize,
    /// Where settings, logs and Raft stores are kept afterwards; without it they are removed
    #[arg(long, value_name = "FOLDER")]
    folder: Option<PathBuf>,
}

#[tokio::main]
async fn main() -> Result<()> {
    let args = Args::parse();
    let plan = Plan {
        blocks: args.blocks,
        block_bytes: args.block_bytes,
    };
    let spare = tempfile::tempdir()?;
    let folder = args.folder.unwrap_or_else(|| spare.path().to_owned());
    std::fs::create_dir_all(&folder).context("the folder cannot be made")?;
    let report = rolling_kill::run(plan, &folder).await?;
    println!("{:#}", report.json());
    Ok(())
}
