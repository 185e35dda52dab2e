//! How fast a node copies blocks to its device and back.
//!
//! `cargo bench -p kvmesh-node --features gpu --bench gpu -- [--blocks N] [--bytes B]
//! [--depth D] [--rounds R]`: copies blocks of random bytes to the device through the tier, so
//! many at a time, then all of them back, every byte verified. Prints what the device is, and
//! GB/s of the median round in both directions; exits 1 when a block does not come back. With
//! `--features cuda` the device is a GPU, else memory of the host.
#![allow(missing_docs, reason = "a benchmark has no interface")]

use std::{process::ExitCode, sync::Arc};

use anyhow::{Context, ensure};
use clap::Parser;
use futures::{StreamExt, TryStreamExt, stream};
use kvmesh_client::Block;
use kvmesh_node::store::{
    BlockTier, CopyKey, Lookup,
    gpu::{self, GpuTier},
};
use made::{block, key};
use tokio::time::{Duration, Instant};

#[path = "../src/store/made.rs"]
mod made;

/// The allocator of the programs.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[derive(Debug, Parser)]
struct Args {
    /// Blocks.
    #[arg(long, default_value_t = 256)]
    blocks: u64,
    /// Bytes of one.
    #[arg(long, default_value_t = 2 << 20)]
    bytes: usize,
    /// Copies at a time.
    #[arg(long, default_value_t = 4)]
    depth: usize,
    /// Times that everything goes to the device and back.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Given by `cargo bench`.
    #[arg(long, hide = true)]
    bench: bool,
}

/// How long everything took to the device, and back.
async fn round(
    tier: &GpuTier,
    blocks: &[Arc<Block>],
    depth: usize,
) -> anyhow::Result<(Duration, Duration)> {
    let began = Instant::now();
    let numbered = || stream::iter((0u64..).zip(blocks));
    let putting = numbered().map(|(at, block)| tier.put(key(at), Arc::clone(block)));
    putting.buffer_unordered(depth).try_collect::<()>().await?;
    let (there, began) = (began.elapsed(), Instant::now());
    let reading = numbered().map(|(at, block)| async move {
        match tier.get(key(at)).await {
            Lookup::Hit(read) => Ok(ensure_same(&read, block)?),
            other => anyhow::bail!("block {at} did not come back: {other:?}"),
        }
    });
    reading.buffer_unordered(depth).try_collect::<()>().await?;
    let back = began.elapsed();
    (0..blocks.len() as u64).for_each(|at| tier.forget(&key(at)));
    tier.tend().await;
    ensure!(tier.usage().used == 0, "bytes stayed on the device");
    Ok((there, back))
}

fn ensure_same(read: &Block, put: &Block) -> anyhow::Result<()> {
    ensure!(read.meta == put.meta, "another block came back");
    Ok(())
}

async fn run(args: &Args) -> anyhow::Result<()> {
    let device = gpu::first().context("there is no device")?;
    let bytes = args.blocks * args.bytes as u64;
    println!("device: {}", device.name());
    println!(
        "{} blocks of {} bytes, {} at a time",
        args.blocks, args.bytes, args.depth
    );
    let tier = GpuTier::new(device, bytes);
    let blocks: Vec<_> = (0..args.blocks)
        .map(|number| block(number, args.bytes as u64))
        .collect();
    let (mut there, mut back) = (Vec::new(), Vec::new());
    for _ in 0..args.rounds.max(1) {
        let (to, from) = round(&tier, &blocks, args.depth.max(1)).await?;
        there.push(to);
        back.push(from);
    }
    for (direction, mut times) in [("to the device", there), ("back, verified", back)] {
        times.sort_unstable();
        let median = times[times.len() / 2].as_secs_f64();
        let rate = bytes as f64 / 1e9 / median;
        println!("{direction}: {rate:.2} GB/s");
    }
    Ok(())
}

fn main() -> ExitCode {
    let args = Args::parse();
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("no runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(run(&args)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}
