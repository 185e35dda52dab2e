//! The program `far-link`: a link between two regions, measured.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use chaos_tests::far_link::{self, Plan};
use clap::{Parser, Subcommand};

/// Starts two regions of real processes in network namespaces, all links under mutual TLS, and a link
/// of delay, rate and loss between them. Measures gets of one block of 2 MiB from the other region,
/// then many gets together, by turns with a plain copy over TCP. Prints JSON. Exits with 1 when a
/// bar is missed. Needs root, `ip` and `/dev/net/tun`.
#[derive(Debug, Parser)]
#[command(args_conflicts_with_subcommands = true)]
struct Args {
    #[command(subcommand)]
    copy: Option<Copy>,
    /// Round trip over the link
    #[arg(long, default_value_t = 80)]
    rtt_ms: u64,
    /// Bandwidth of the link
    #[arg(long, default_value_t = 1_000)]
    mbit: u64,
    /// Part of the packets that are lost
    #[arg(long, default_value_t = 0.0)]
    loss: f64,
    /// Congestion control at both ends; without it the kernel's usual one
    #[arg(long)]
    congestion: Option<String>,
    /// Set the kernel's buffers at both ends as docs/runbook.md says
    #[arg(long)]
    tuned: bool,
    /// Gets of one block
    #[arg(long, default_value_t = 20)]
    singles: u32,
    /// Chains of 32 MiB in each of two rounds
    #[arg(long, default_value_t = 16)]
    chains: u32,
    /// Connections of the plain copy
    #[arg(long, default_value_t = 4)]
    copies: usize,
    /// Fail when half of the single gets take more than so many times what they may
    #[arg(long)]
    single_max: Option<f64>,
    /// Fail when many gets together reach less of the link's bandwidth
    #[arg(long)]
    link_min: Option<f64>,
    /// Fail when they reach less of what the plain copy does
    #[arg(long)]
    copy_min: Option<f64>,
    /// Where settings, logs and stores are kept afterwards; without it they are removed
    #[arg(long, value_name = "FOLDER")]
    folder: Option<PathBuf>,
}

/// Ends of the plain copy, which this program starts in the namespaces.
#[derive(Debug, Subcommand)]
enum Copy {
    #[command(hide = true)]
    CopyFrom {
        place: String,
        connections: usize,
        bytes: usize,
    },
    #[command(hide = true)]
    CopyTo {
        place: String,
        connections: usize,
        bytes: usize,
    },
}

#[tokio::main]
async fn main() -> Result<()> {
    let args = Args::parse();
    match &args.copy {
        Some(Copy::CopyFrom {
            place,
            connections,
            bytes,
        }) => return far_link::copy_from(place, *connections, *bytes),
        Some(Copy::CopyTo {
            place,
            connections,
            bytes,
        }) => return far_link::copy_to(place, *connections, *bytes),
        None => {}
    }
    let plan = Plan {
        rtt_ms: args.rtt_ms,
        mbit: args.mbit,
        loss: args.loss,
        congestion: args.congestion,
        tuned: args.tuned,
        singles: args.singles.max(1),
        chains: args.chains.max(1),
        copies: args.copies.max(1),
    };
    let spare = tempfile::tempdir()?;
    let folder = args.folder.unwrap_or_else(|| spare.path().to_owned());
    std::fs::create_dir_all(&folder).context("the folder cannot be made")?;
    let told = far_link::run(&plan, &folder).await?;
    println!("{told:#}");
    let figure = |name: &str| told[name].as_f64().context("a figure is missing");
    let bars = [
        (
            "single_of_allowed",
            args.single_max.map(|max| (f64::MIN, max)),
        ),
        ("mesh_of_link", args.link_min.map(|min| (min, f64::MAX))),
        ("mesh_of_copy", args.copy_min.map(|min| (min, f64::MAX))),
    ];
    for (name, bar) in bars {
        let (figure, (min, max)) = (figure(name)?, bar.unwrap_or((f64::MIN, f64::MAX)));
        ensure!(
            (min..=max).contains(&figure),
            "{name} is {figure:.3}: missed"
        );
    }
    Ok(())
}
