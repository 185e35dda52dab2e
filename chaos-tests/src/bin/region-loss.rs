//! The program `region-loss`: the drill on real processes.

use std::path::PathBuf;

use anyhow::{Context, Result};
use chaos_tests::region_loss::{self, Plan};
use clap::Parser;

/// Starts two regions of three real nodes each on loopback, and has `meshctl drill` lose one of
/// them under load: its processes are stopped where they stand, and go on later. Prints the drill's
/// report. Exits with 1 when a promise is broken.
#[derive(Debug, Parser)]
struct Args {
    /// Chains of four blocks that are put before
    #[arg(long, default_value_t = 32)]
    chains: u32,
    /// Clients of each region
    #[arg(long, default_value_t = 2)]
    clients: u16,
    /// Seconds that the region stays away at least
    #[arg(long, default_value_t = 0)]
    hold: u32,
    /// Within so many seconds clients are to be served elsewhere
    #[arg(long, default_value_t = 2.0)]
    redirect_max: f64,
    /// Where settings, logs and Raft stores are kept afterwards; without it they are removed
    #[arg(long, value_name = "FOLDER")]
    folder: Option<PathBuf>,
}

#[tokio::main]
async fn main() -> Result<()> {
    let args = Args::parse();
    let plan = Plan {
        chains: args.chains,
        clients: args.clients,
        hold: args.hold,
        redirect_max: args.redirect_max,
    };
    let spare = tempfile::tempdir()?;
    let folder = args.folder.unwrap_or_else(|| spare.path().to_owned());
    std::fs::create_dir_all(&folder).context("the folder cannot be made")?;
    println!("{:#}", region_loss::run(plan, &folder).await?);
    Ok(())
}
