//! How long a gateway takes to look a long chain up, over loopback TCP, and that it asks
//! nobody for it.
//!
//! `cargo bench -p meshctl --bench lookup -- [--blocks N] [--lookups N] [--p50-max-us N]`:
//! exits 1 when an answer is wrong, an RPC left the gateway, or p50 is over the bound.
#![allow(missing_docs, reason = "a benchmark has no interface")]

use std::{process::ExitCode, sync::Arc, time::Duration};

use anyhow::{Context, ensure};
use bytes::Bytes;
use clap::Parser;
use hdrhistogram::Histogram;
use kvmesh_client::{
    Block,
    channel::{Channels, TcpConnect},
    client::{Chain, ChainQuery, Client, PutBlock, PutOptions, PutResult},
};
use kvmesh_directory::{Description, Part};
use kvmesh_process::telemetry;
use meshctl::dev::mesh::{Mesh, Settings};
use tokio::time::Instant;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const CALL_MAX: Duration = Duration::from_secs(30);
const BLOCK_BYTES: usize = 1_024;
const WARM_UP: u32 = 200;

#[derive(Debug, Parser)]
struct Args {
    /// Blocks of the chain.
    #[arg(long, default_value_t = 1_024)]
    blocks: u32,
    /// Lookups that count.
    #[arg(long, default_value_t = 5_000)]
    lookups: u32,
    /// Fail when half of the lookups took longer.
    #[arg(long)]
    p50_max_us: Option<u64>,
    /// Given by `cargo bench`.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .expect("a runtime needs threads");
    match runtime.block_on(run(&args)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(args: &Args) -> anyhow::Result<()> {
    telemetry::record()?;
    let mesh = Mesh::start(Settings {
        regions: 3,
        nodes: 3,
        link_scale: 0.0,
        memory_bytes: 1 << 30,
        data_dir: None,
        first_port: 0,
        return_after: None,
        gateways_map: false,
    })
    .await?;
    let measured = measure(args, &mesh.regions()[0].gateway).await;
    mesh.stop().await;
    measured
}

async fn measure(args: &Args, gateway: &str) -> anyhow::Result<()> {
    let channels = Channels::new(Arc::new(TcpConnect));
    let client = Client::connect(vec![gateway.to_owned()], channels)?;
    let opened = client
        .open(&description(), "lookup-bench", "", CALL_MAX)
        .await?;
    let blocks: Vec<PutBlock> = (0..args.blocks).map(block).collect();
    for result in opened.put(&blocks, PutOptions::default()).await? {
        ensure!(matches!(result, PutResult::Acked(_)), "refused: {result:?}");
    }
    let query = [ChainQuery {
        chain: Chain::new(blocks.iter().map(|block| &block.hash))?,
        start: 0,
        parts: Vec::new(),
    }];
    let mut times = Histogram::<u64>::new(3)?;
    let mut left_before = 0.0;
    for turn in 0..WARM_UP + args.lookups {
        if turn == WARM_UP {
            times.reset();
            left_before = outbound_rpcs()?;
        }
        let began = Instant::now();
        let answer = opened.lookup(&query, CALL_MAX).await?;
        times.record(u64::try_from(began.elapsed().as_micros())?)?;
        let found = answer.matches.first().map(|found| found.local_blocks);
        ensure!(
            found == Some(args.blocks),
            "a lookup found {found:?} blocks, expected {}",
            args.blocks
        );
    }
    let left = outbound_rpcs()? - left_before;
    let at = |quantile| times.value_at_quantile(quantile);
    println!(
        "lookup of {} blocks, {} times: p50 {} us, p95 {} us, p99 {} us; {left} RPCs left the gateway",
        args.blocks,
        args.lookups,
        at(0.5),
        at(0.95),
        at(0.99),
    );
    ensure!(left == 0.0, "{left} RPCs left the gateway, expected none");
    if let Some(most) = args.p50_max_us {
        ensure!(at(0.5) <= most, "p50 is over {most} us");
    }
    Ok(())
}

/// Of all gateways of the mesh; nothing else runs in it.
fn outbound_rpcs() -> anyhow::Result<f64> {
    let metrics = telemetry::render().context("no metrics were recorded")?;
    let counted = metrics
        .lines()
        .filter(|line| line.starts_with("kvmesh_gateway_outbound_rpcs_total{"))
        .map(|line| line.rsplit(' ').next().unwrap_or_default().parse::<f64>())
        .collect::<Result<Vec<_>, _>>()?;
    ensure!(!counted.is_empty(), "the gateways count no outbound RPCs");
    Ok(counted.iter().sum())
}

fn block(depth: u32) -> PutBlock {
    let hash = blake3::hash(&depth.to_le_bytes());
    let mut bytes = vec![0; BLOCK_BYTES];
    blake3::Hasher::new_keyed(hash.as_bytes())
        .finalize_xof()
        .fill(&mut bytes);
    PutBlock {
        hash: Bytes::copy_from_slice(hash.as_bytes()),
        part: Part::default(),
        block: Block::of(&Bytes::from(bytes), depth),
    }
}

fn description() -> Description {
    Description {
        model: "lookup-bench".into(),
        dtype: "bf16".into(),
        layout: "opaque".into(),
        block_tokens: 16,
        hash_width: 32,
        short_hashes: false,
        shard_count: 1,
        group_count: 1,
        tenant: String::new(),
        salt: Vec::new(),
        residency: Vec::new(),
    }
}
