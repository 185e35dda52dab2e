//! The program `far-link`: a link between two regions, measured.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use chaos_tests::far_link::{self, Plan, What};
use clap::{Parser, Subcommand, ValueEnum};

/// Starts two regions of real processes in network namespaces, all links under mutual TLS, and a link
/// of delay, rate and loss between them. Measures gets of one block of 2 MiB from the other region,
/// then many gets together, by turns with a plain copy over TCP; with `--blocks bf16` what encodings
/// save; with `--blocks pushed` gets of one block alone, and while chains are brought by policy. Prints JSON. Exits with 1 when a bar is missed. Needs root, `ip` and `/dev/net/tun`.
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
    /// Congestion control that gateways name for connections between regions
    #[arg(long)]
    named: Option<String>,
    /// Set the kernel's buffers at both ends as docs/runbook.md says
    #[arg(long)]
    tuned: bool,
    /// Of what the blocks are
    #[arg(long, value_enum, default_value_t = Blocks::Random)]
    blocks: Blocks,
    /// Gets of one block; beside blocks that are brought as many again
    #[arg(long, default_value_t = 20)]
    singles: u32,
    /// Chains of 32 MiB in each of two rounds, and of each kind where there are kinds
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
    /// Fail when more bytes cross for each byte of blocks of bf16 numbers
    #[arg(long)]
    encoded_bytes_max: Option<f64>,
    /// Fail when more do where the numbers may be rounded
    #[arg(long)]
    lossy_bytes_max: Option<f64>,
    /// Fail when gets of bf16 numbers are faster by less than gets of bytes that do not shrink
    #[arg(long)]
    faster_min: Option<f64>,
    /// Fail when gets of numbers that may be rounded are
    #[arg(long)]
    lossy_faster_min: Option<f64>,
    /// Fail when half of the gets beside blocks that are brought take more than so many times what
    /// half of those alone take
    #[arg(long)]
    beside_max: Option<f64>,
    /// Fail when blocks are brought at less than this part of the link's bandwidth
    #[arg(long)]
    brought_min: Option<f64>,
    /// Where settings, logs and stores are kept afterwards; without it they are removed
    #[arg(long, value_name = "FOLDER")]
    folder: Option<PathBuf>,
}

/// Of what blocks are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Blocks {
    /// Random bytes, which are never encoded.
    Random,
    /// Three kinds by turns: random bytes, bf16 numbers of a normal distribution, and such
    /// numbers that may be rounded.
    Bf16,
    /// Random bytes, most of which a policy brings to the other region.
    Pushed,
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
        named: args.named,
        tuned: args.tuned,
        singles: args.singles.max(1),
        chains: args.chains.max(1),
        copies: args.copies.max(1),
    };
    let spare = tempfile::tempdir()?;
    let folder = args.folder.unwrap_or_else(|| spare.path().to_owned());
    std::fs::create_dir_all(&folder).context("the folder cannot be made")?;
    let what = match args.blocks {
        Blocks::Random => What::Speed,
        Blocks::Bf16 => What::Encodings,
        Blocks::Pushed => What::Classes,
    };
    let told = far_link::run(&plan, what, &folder).await?;
    println!("{told:#}");
    let at_most = |max: Option<f64>| max.map(|max| f64::MIN..=max);
    let at_least = |min: Option<f64>| min.map(|min| min..=f64::MAX);
    let bars = [
        ("single_of_allowed", at_most(args.single_max)),
        ("mesh_of_link", at_least(args.link_min)),
        ("mesh_of_copy", at_least(args.copy_min)),
        ("encoded_bytes", at_most(args.encoded_bytes_max)),
        ("lossy_bytes", at_most(args.lossy_bytes_max)),
        ("faster", at_least(args.faster_min)),
        ("lossy_faster", at_least(args.lossy_faster_min)),
        ("beside_of_alone", at_most(args.beside_max)),
        ("brought_of_link", at_least(args.brought_min)),
    ];
    let wanted = bars
        .into_iter()
        .filter_map(|(name, bar)| Some((name, bar?)));
    let mut missed = Vec::new();
    for (name, bar) in wanted {
        let figure = told[name].as_f64();
        let figure = figure.with_context(|| format!("{name} is not measured with these flags"))?;
        if !bar.contains(&figure) {
            missed.push(format!("{name} is {figure:.3}"));
        }
    }
    ensure!(missed.is_empty(), "missed: {}", missed.join(", "));
    Ok(())
}
