//! The program `full-disk`: a node whose Raft has no room.

use std::path::PathBuf;

use anyhow::{Context, Result};
use chaos_tests::full_disk::{self, Plan};
use clap::Parser;

/// Starts a region of one node whose raft_dir is on a small file system of its own, and fills
/// that to its last block. Without raft_reserve the node ends. With it every put is
/// acknowledged while the reserve is used, also after the node was killed and started again,
/// and the reserve is whole again once there is room. Needs root, loop devices and mkfs.ext4.
/// Prints a report as JSON; exits with 1 when a promise is broken.
#[derive(Debug, Parser)]
struct Args {
    /// MiB of the file system
    #[arg(long, default_value_t = 256)]
    disk: u64,
    /// MiB of raft_reserve
    #[arg(long, default_value_t = 128)]
    reserve: u64,
    /// MiB of the reserve that are used before the node is started again, and afterwards
    #[arg(long, default_value_t = 24)]
    given: u64,
    /// Where settings, logs and disks are kept afterwards; without it they are removed
    #[arg(long, value_name = "FOLDER")]
    folder: Option<PathBuf>,
}

#[tokio::main]
async fn main() -> Result<()> {
    let args = Args::parse();
    let plan = Plan {
        disk_bytes: args.disk << 20,
        reserve_bytes: args.reserve << 20,
        given_bytes: args.given << 20,
    };
    let spare = tempfile::tempdir()?;
    let folder = args.folder.unwrap_or_else(|| spare.path().to_owned());
    std::fs::create_dir_all(&folder).context("the folder cannot be made")?;
    let report = full_disk::run(plan, &folder).await?;
    println!("{:#}", report.json());
    Ok(())
}
