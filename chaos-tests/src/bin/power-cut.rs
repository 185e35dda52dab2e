//! The program `power-cut`: kills and power cuts of a node that writes durably.

use std::path::PathBuf;

use anyhow::{Context, Result};
use chaos_tests::power_cut::{self, Plan};
use clap::Parser;

/// Starts a region of one node with a disk, and puts blocks at `DURABLE`. Again and again the
/// node is ended by SIGKILL in the middle of them, or its file system is shut down as by a
/// power cut, and started again: every acknowledged block is found with its bytes. Cuts need
/// root, loop devices and python3. Prints a report as JSON; exits with 1 when a promise is
/// broken.
#[derive(Debug, Parser)]
struct Args {
    /// Times that the node is killed
    #[arg(long, default_value_t = 20)]
    kills: u32,
    /// Times that its power is cut
    #[arg(long, default_value_t = 5)]
    cuts: u32,
    /// Blocks that are acknowledged before each of these
    #[arg(long, default_value_t = 40)]
    blocks: u64,
    /// Where settings, logs and disks are kept afterwards; without it they are removed
    #[arg(long, value_name = "FOLDER")]
    folder: Option<PathBuf>,
}

#[tokio::main]
async fn main() -> Result<()> {
    let args = Args::parse();
    let plan = Plan {
        kills: args.kills,
        cuts: args.cuts,
        blocks: args.blocks,
    };
    let spare = tempfile::tempdir()?;
    let folder = args.folder.unwrap_or_else(|| spare.path().to_owned());
    std::fs::create_dir_all(&folder).context("the folder cannot be made")?;
    let report = power_cut::run(plan, &folder).await?;
    println!("{:#}", report.json());
    Ok(())
}
