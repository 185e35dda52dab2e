//! The program `region-change`: all changes of a region's nodes at full size.

use std::{path::PathBuf, time::Duration};

use anyhow::{Context, Result};
use chaos_tests::region_change::{self, Plan};
use clap::{Parser, ValueEnum};

/// Inside of which a call may be made again.
const CALL_BOUND: Duration = Duration::from_secs(10);

/// Starts a region of five real nodes and two gateways on loopback, puts blocks, and, while
/// engines read, put and look up, restarts every process, lets nodes join, leave, be forgotten
/// and be replaced, and kills one. Every acknowledged block is read at the end. Exits with 1
/// when a promise is broken.
#[derive(Debug, Parser)]
struct Args {
    /// Blocks that are put before the first change
    #[arg(long, default_value_t = 10_000)]
    blocks: u64,
    /// Bytes of one block
    #[arg(long, default_value_t = 16_384)]
    block_bytes: usize,
    /// Nodes that vote, of the five that form the region: 3 or 5
    #[arg(long, default_value_t = 3, value_parser = voters)]
    voters: u64,
    /// How to print the report
    #[arg(short, long, value_enum, default_value = "table")]
    output: Format,
    /// Where settings, logs and Raft stores are kept afterwards; without it they are removed
    #[arg(long, value_name = "FOLDER")]
    folder: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Format {
    Table,
    Json,
}

fn voters(raw: &str) -> Result<u64, String> {
    match raw {
        "3" => Ok(3),
        "5" => Ok(5),
        _ => Err("3 or 5 nodes vote".to_owned()),
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let args = Args::parse();
    let plan = Plan {
        blocks: args.blocks,
        block_bytes: args.block_bytes,
        voters: args.voters,
        all: true,
        call_bound: CALL_BOUND,
    };
    let spare = tempfile::tempdir()?;
    let folder = args.folder.unwrap_or_else(|| spare.path().to_owned());
    std::fs::create_dir_all(&folder).context("the folder cannot be made")?;
    let report = region_change::run(plan, &folder).await?;
    match args.output {
        Format::Table => println!("{}", report.text()),
        Format::Json => println!("{:#}", report.json()),
    }
    Ok(())
}
