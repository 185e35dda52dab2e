//! How fast blocks come out of a node, and out of a gateway, beside a bare TCP copy of the
//! same blocks. All of it in this process over loopback, in turns, every byte verified by
//! whoever receives it.
//!
//! `cargo bench -p meshctl --bench get -- [--bytes SIZE] [--connections N] [--rounds N]
//! [--seconds S] [--node-min R] [--gateway-min R]`: one block a call. Prints GB/s of the median
//! round and the median ratio to TCP (for the gateway: to the node); exits 1 when a ratio is
//! under its bound.
#![allow(missing_docs, reason = "a benchmark has no interface")]

use std::{process::ExitCode, sync::Arc, time::Duration};

use anyhow::{Context, ensure};
use bytes::Bytes;
use clap::Parser;
use futures::future::try_join_all;
use kvmesh_client::{
    Block, BlockMeta,
    block::Assembler,
    channel::{Channels, TcpConnect},
    client::{Chain, Client, GetOptions, GetOutcome, Opened, PutBlock, PutOptions, PutResult},
};
use kvmesh_directory::{Description, Part, limits::PIECE_BYTES};
use meshctl::{
    dev::mesh::{Mesh, Settings},
    sizes::Size,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::Instant,
};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const CALL_MAX: Duration = Duration::from_secs(30);
/// Blocks together: more than any cache of the machine holds.
const TOTAL_BYTES: u64 = 256 << 20;

#[derive(Debug, Parser)]
struct Args {
    /// Bytes of a block.
    #[arg(long, default_value = "2MiB")]
    bytes: Size,
    /// Connections, each with one call under way.
    #[arg(long, default_value_t = 8)]
    connections: usize,
    /// Rounds of each.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Seconds of a round.
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// Fail when a node gives less than this part of what TCP does.
    #[arg(long)]
    node_min: Option<f64>,
    /// Fail when a gateway gives less than this part of what a node does.
    #[arg(long)]
    gateway_min: Option<f64>,
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
    let mesh = Mesh::start(Settings {
        regions: 1,
        nodes: 1,
        link_scale: 0.0,
        memory_bytes: 4 * TOTAL_BYTES.max(args.bytes.0),
        data_dir: None,
        first_port: 0,
    })
    .await?;
    let region = &mesh.regions()[0];
    let measured = measure(args, &region.nodes[0].address, &region.gateway).await;
    mesh.stop().await;
    measured
}

/// The same blocks, wherever they are asked for.
struct Work {
    blocks: Vec<PutBlock>,
    chain: Chain,
    round: Duration,
}

async fn measure(args: &Args, node: &str, gateway: &str) -> anyhow::Result<()> {
    let count = (TOTAL_BYTES / args.bytes.0).clamp(8, 4_096) as u32;
    let blocks: Vec<PutBlock> = (0..count)
        .map(|depth| block(depth, args.bytes.0 as usize))
        .collect();
    let chain = Chain::new(blocks.iter().map(|block| &block.hash))?;
    let work = Arc::new(Work {
        blocks,
        chain,
        round: Duration::from_secs_f64(args.seconds),
    });
    for batch in work.blocks.chunks(64) {
        for result in open(gateway)
            .await?
            .put(batch, PutOptions::default())
            .await?
        {
            ensure!(matches!(result, PutResult::Acked(_)), "refused: {result:?}");
        }
    }
    let bare = bare_server(&work).await?;
    let (mut tcp, mut direct, mut through) = (Vec::new(), Vec::new(), Vec::new());
    // The first round warms up.
    for round in 0..=args.rounds {
        let one = [
            bare_round(&work, &bare, args.connections).await?,
            grpc_round(&work, node, args.connections).await?,
            grpc_round(&work, gateway, args.connections).await?,
        ];
        if round > 0 {
            tcp.push(one[0]);
            direct.push(one[1]);
            through.push(one[2]);
        }
    }
    let ratios = |of: &[f64], to: &[f64]| median(of.iter().zip(to).map(|(of, to)| of / to));
    let (to_tcp, to_node) = (ratios(&direct, &tcp), ratios(&through, &direct));
    println!(
        "{} a block, {} connections, {} rounds of {} s, GB/s: bare TCP {:.2}; node {:.2}, {to_tcp:.2} of TCP; gateway {:.2}, {to_node:.2} of the node",
        meshctl::sizes::human(args.bytes.0),
        args.connections,
        args.rounds,
        args.seconds,
        median(tcp.iter().copied()),
        median(direct.iter().copied()),
        median(through.iter().copied()),
    );
    for (what, got, least) in [
        ("a node", to_tcp, args.node_min),
        ("a gateway", to_node, args.gateway_min),
    ] {
        ensure!(
            least.is_none_or(|least| got >= least),
            "{what} gives {got:.2}, under its bound"
        );
    }
    Ok(())
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

async fn open(address: &str) -> anyhow::Result<Opened> {
    let channels = Channels::new(Arc::new(TcpConnect));
    let client = Client::connect(vec![address.to_owned()], channels)?;
    Ok(client
        .open(&description(), "get-bench", "", CALL_MAX)
        .await?)
}

/// GB/s of all connections together.
async fn rate(tasks: impl Iterator<Item = JoinHandle>, round: Duration) -> anyhow::Result<f64> {
    let mut set = JoinSet::new();
    for task in tasks {
        set.spawn(task);
    }
    let mut bytes = 0;
    while let Some(done) = set.join_next().await {
        bytes += done??;
    }
    Ok(bytes as f64 / round.as_secs_f64() / 1e9)
}

type JoinHandle = futures::future::BoxFuture<'static, anyhow::Result<u64>>;

async fn grpc_round(work: &Arc<Work>, address: &str, connections: usize) -> anyhow::Result<f64> {
    let opened = try_join_all((0..connections).map(|_| open(address))).await?;
    let until = Instant::now() + work.round;
    let tasks = opened.into_iter().enumerate().map(|(at, opened)| {
        let work = Arc::clone(work);
        let task: JoinHandle = Box::pin(async move {
            let (mut bytes, mut next) = (0, at * 17);
            while Instant::now() < until {
                let start = (next % work.blocks.len()) as u32;
                next += 1;
                let options = GetOptions {
                    start,
                    count: 1,
                    ..GetOptions::default()
                };
                let got = opened.get(&work.chain, options).await?;
                let whole = got.summary.outcome == GetOutcome::Complete && got.blocks.len() == 1;
                ensure!(whole, "a get ended {:?}", got.summary.outcome);
                bytes += got.blocks[0].block.meta.bytes;
            }
            Ok(bytes)
        });
        task
    });
    rate(tasks, work.round).await
}

/// Answers the number of a block with its bytes.
async fn bare_server(work: &Arc<Work>) -> anyhow::Result<String> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?.to_string();
    let work = Arc::clone(work);
    #[allow(clippy::disallowed_methods, reason = "ends with the benchmark")]
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(bare_answers(stream, Arc::clone(&work)));
        }
    });
    Ok(address)
}

async fn bare_answers(mut stream: TcpStream, work: Arc<Work>) -> anyhow::Result<()> {
    stream.set_nodelay(true)?;
    loop {
        let at = stream.read_u64_le().await? as usize;
        for piece in &work.blocks[at].block.pieces {
            stream.write_all(piece).await?;
        }
    }
}

async fn bare_round(work: &Arc<Work>, address: &str, connections: usize) -> anyhow::Result<f64> {
    let streams = try_join_all((0..connections).map(|_| TcpStream::connect(address))).await?;
    let until = Instant::now() + work.round;
    let tasks = streams.into_iter().enumerate().map(|(at, mut stream)| {
        let work = Arc::clone(work);
        let task: JoinHandle = Box::pin(async move {
            stream.set_nodelay(true)?;
            let (mut bytes, mut next) = (0, at * 17);
            while Instant::now() < until {
                let at = next % work.blocks.len();
                next += 1;
                stream.write_u64_le(at as u64).await?;
                bytes += receive(&mut stream, &work.blocks[at].block.meta).await?;
            }
            Ok(bytes)
        });
        task
    });
    rate(tasks, work.round).await
}

/// Reads a block piece by piece, and verifies it as the client does.
async fn receive(stream: &mut TcpStream, meta: &BlockMeta) -> anyhow::Result<u64> {
    let mut assembler = Assembler::new(meta.clone(), true)?;
    for piece in 0..meta.piece_count() {
        let mut bytes = Vec::with_capacity(meta.piece_len(piece).min(PIECE_BYTES));
        let mut rest = (&mut *stream).take(meta.piece_len(piece) as u64);
        rest.read_to_end(&mut bytes).await?;
        assembler.push(bytes.into()).context("bare TCP")?;
    }
    Ok(assembler.finish()?.meta.bytes)
}

fn block(depth: u32, bytes: usize) -> PutBlock {
    let hash = blake3::hash(&depth.to_le_bytes());
    let mut raw = vec![0; bytes];
    blake3::Hasher::new_keyed(hash.as_bytes())
        .finalize_xof()
        .fill(&mut raw);
    PutBlock {
        hash: Bytes::copy_from_slice(hash.as_bytes()),
        part: Part::default(),
        block: Block::of(&Bytes::from(raw), depth),
    }
}

fn description() -> Description {
    Description {
        model: "get-bench".into(),
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
