//! How fast a node reads blocks back from its disk, against a plain loop of direct reads.
//!
//! `cargo bench -p kvmesh-node --bench disk -- [--dir DIR] [--blocks N] [--bytes B]
//! [--depth D] [--rounds R] [--min RATIO] [--chain]`: writes blocks durably, then reads all of them in a
//! random order, so many at a time, by turns through the tier (every byte verified) and by
//! threads that only read the same ranges of one file with `O_DIRECT` into memory of their
//! own. Prints GB/s of the median round of each, and the median of the rounds' ratios, since a
//! machine's speed changes from round to round; exits 1 when that is below `--min`.
//!
//! With `--chain`: reads the blocks in the order of their chain, one after the other, through a
//! store whose memory is empty at first, by turns without reading ahead and `--ahead` blocks
//! ahead; `--min` is of the rate without.
#![allow(missing_docs, reason = "a benchmark has no interface")]

use std::{
    fs::{File, OpenOptions},
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Context, bail, ensure};
use clap::Parser;
use futures::{StreamExt, stream};
use kvmesh_directory::{Checksum, Hlc, LogIncarnation, NodeId};
use kvmesh_node::store::{
    BlockTier, Brief, CopyKey, Lookup, MemoryTier, Store,
    disk::{self, DiskSettings, DiskTier, Found},
};
use made::{block, key};
use tokio::time::Instant;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

#[path = "../src/store/made.rs"]
mod made;

/// The allocator of the programs.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const ALIGN: usize = 4_096;
const WRITE_BOUND: Duration = Duration::from_secs(60);

#[derive(Debug, Parser)]
struct Args {
    /// Where the files are made; a folder in it that is removed afterwards.
    #[arg(long, default_value = "/var/tmp")]
    dir: PathBuf,
    /// Blocks.
    #[arg(long, default_value_t = 512)]
    blocks: usize,
    /// Bytes of one; a multiple of 4096.
    #[arg(long, default_value_t = 2 << 20)]
    bytes: usize,
    /// Reads at a time.
    #[arg(long, default_value_t = 8)]
    depth: usize,
    /// Times that each of the two reads everything.
    #[arg(long, default_value_t = 9)]
    rounds: usize,
    /// Read a chain in order instead, with and without reading ahead.
    #[arg(long)]
    chain: bool,
    /// Blocks of the chain that are wished for ahead of the reader.
    #[arg(long, default_value_t = 16)]
    ahead: usize,
    /// Which part of the other's rate is reached at least.
    #[arg(long)]
    min: Option<f64>,
    /// Given by `cargo bench`.
    #[arg(long, hide = true)]
    bench: bool,
}

/// All numbers, in an order that is not the one on disk.
fn order(count: usize, round: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..count).collect();
    let mut state = round as u64 + 88_172_645_463_325_252;
    for at in (1..count).rev() {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        order.swap(at, (state % (at as u64 + 1)) as usize);
    }
    order
}

async fn through_the_tier(tier: &DiskTier, args: &Args, round: usize) -> anyhow::Result<f64> {
    let begun = Instant::now();
    let reads = stream::iter(order(args.blocks, round)).map(|number| tier.get(key(number as u64)));
    let mut reads = reads.buffer_unordered(args.depth);
    while let Some(read) = reads.next().await {
        ensure!(
            matches!(read, Lookup::Hit(_)),
            "a block is missing: {read:?}"
        );
    }
    Ok(begun.elapsed().as_secs_f64())
}

/// Seconds from the first block of the chain to the last, each copied once as for a reader.
async fn along_the_chain(tier: &DiskTier, args: &Args, ahead: usize) -> anyhow::Result<f64> {
    let brief = |number| Brief {
        bytes: args.bytes as u64,
        depth: number as u32,
        checksum: Checksum([0; 16]),
        put_hlc: Hlc(number),
        transcoded: None,
    };
    let found = (0..args.blocks as u64).map(|number| Found {
        key: key(number),
        brief: brief(number),
        log: LogIncarnation(0),
    });
    let found: Vec<Found> = found.collect();
    let memory_bytes = 2 * (args.blocks * args.bytes) as u64;
    let memory = Arc::new(MemoryTier::default());
    let store = Store::over_disk(memory, memory_bytes, tier.clone(), &found, 0);
    let (store, tasks, stop) = (
        Arc::new(store),
        TaskTracker::new(),
        CancellationToken::new(),
    );
    let (reading, ended) = (Arc::clone(&store), stop.clone());
    tasks.spawn(async move { reading.run_ahead(ended).await });
    let keys: Vec<CopyKey> = found.iter().map(|it| it.key).collect();
    let (mut taken, mut wished) = (vec![0; args.bytes], 0);
    let begun = Instant::now();
    for (at, key) in keys.iter().enumerate() {
        let end = (at + 1 + ahead).min(keys.len());
        let from = wished.max(at + 1);
        if ahead > 0 && from < end {
            store.read_ahead(&keys[from..end], true);
            wished = end;
        }
        let Lookup::Hit(block) = store.read(*key).await else {
            bail!("block {at} is missing");
        };
        let mut into = &mut taken[..];
        for piece in &block.pieces {
            let (own, rest) = into.split_at_mut(piece.len());
            own.copy_from_slice(piece);
            into = rest;
        }
    }
    let seconds = begun.elapsed().as_secs_f64();
    stop.cancel();
    tasks.close();
    tasks.wait().await;
    Ok(seconds)
}

async fn chains(tier: &DiskTier, args: &Args) -> anyhow::Result<bool> {
    let (mut without, mut with) = (Vec::new(), Vec::new());
    for _ in 0..args.rounds {
        without.push(along_the_chain(tier, args, 0).await?);
        with.push(along_the_chain(tier, args, args.ahead).await?);
    }
    let total = (args.blocks * args.bytes) as f64 / 1e9;
    let ratio = ratio(&with, &without);
    let (without, with) = (total / median(without), total / median(with));
    println!(
        "a chain of {} blocks of {} bytes, in order:",
        args.blocks, args.bytes
    );
    println!("without reading ahead  {without:.2} GB/s");
    println!("{:>2} blocks ahead        {with:.2} GB/s", args.ahead);
    println!("ratio                  {ratio:.2}");
    Ok(args.min.is_none_or(|min| ratio >= min))
}

fn plainly(file: &Arc<File>, args: &Args, round: usize) -> anyhow::Result<f64> {
    let (order, next) = (order(args.blocks, round), AtomicUsize::new(0));
    let begun = Instant::now();
    thread::scope(|scope| {
        let reader = || -> anyhow::Result<()> {
            let mut raw = vec![0; args.bytes + ALIGN];
            let start = raw.as_ptr().align_offset(ALIGN);
            let into = &mut raw[start..start + args.bytes];
            while let Some(number) = order.get(next.fetch_add(1, Ordering::Relaxed)) {
                file.read_exact_at(into, (number * args.bytes) as u64)?;
            }
            Ok(())
        };
        let readers: Vec<_> = (0..args.depth).map(|_| scope.spawn(reader)).collect();
        for reader in readers {
            reader.join().ok().context("a reader panicked")??;
        }
        Ok(begun.elapsed().as_secs_f64())
    })
}

/// A file of as many bytes, opened past the page cache.
fn plain_file(dir: &Path, args: &Args) -> anyhow::Result<Arc<File>> {
    let path = dir.join("plain");
    let file = File::create(&path)?;
    for number in 0..args.blocks {
        let block = block(number as u64, args.bytes as u64);
        let mut at = (number * args.bytes) as u64;
        for piece in &block.pieces {
            file.write_all_at(piece, at)?;
            at += piece.len() as u64;
        }
    }
    file.sync_all()?;
    let direct = rustix::fs::OFlags::DIRECT.bits().cast_signed();
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(direct)
        .open(path);
    Ok(Arc::new(file.context("the file system has no direct I/O")?))
}

async fn filled(dir: &Path, args: &Args) -> anyhow::Result<(DiskTier, CancellationToken)> {
    let total = (args.blocks * args.bytes) as u64;
    let opened = disk::open(&DiskSettings {
        dir: dir.join("tier"),
        disk_bytes: (total * 2).max(256 << 20),
        stop_percent: 100,
        memory_bytes: 4 << 30,
        node: NodeId(1),
        region: "bench".to_owned(),
    })
    .await?;
    let stop = CancellationToken::new();
    TaskTracker::new().spawn(opened.writer.run(stop.clone()));
    let tier = opened.tier;
    let writes = stream::iter(0..args.blocks as u64).map(|number| {
        let tier = tier.clone();
        async move {
            let block = block(number, args.bytes as u64);
            let until = Instant::now() + WRITE_BOUND;
            tier.make_durable(key(number), &block, until).await
        }
    });
    let begun = Instant::now();
    let mut writes = writes.buffer_unordered(args.depth);
    while let Some(written) = writes.next().await {
        written?;
    }
    let rate = total as f64 / begun.elapsed().as_secs_f64() / 1e9;
    println!("durable writes, {} at a time: {rate:.2} GB/s", args.depth);
    drop(writes);
    Ok((tier, stop))
}

fn median(mut seconds: Vec<f64>) -> f64 {
    seconds.sort_by(f64::total_cmp);
    seconds[seconds.len() / 2]
}

/// How many times as fast as the others ours were, in the median round.
fn ratio(ours: &[f64], others: &[f64]) -> f64 {
    median(
        ours.iter()
            .zip(others)
            .map(|(ours, others)| others / ours)
            .collect(),
    )
}

async fn run(args: &Args) -> anyhow::Result<bool> {
    ensure!(args.bytes.is_multiple_of(ALIGN) && args.rounds > 0 && args.blocks > 0);
    let dir = tempfile::tempdir_in(&args.dir)?;
    let (tier, stop) = filled(dir.path(), args).await?;
    if args.chain {
        let done = chains(&tier, args).await;
        stop.cancel();
        return done;
    }
    let file = plain_file(dir.path(), args)?;
    let (mut tiers, mut plains) = (Vec::new(), Vec::new());
    for round in 0..args.rounds {
        tiers.push(through_the_tier(&tier, args, round).await?);
        plains.push(plainly(&file, args, round)?);
    }
    stop.cancel();
    let total = (args.blocks * args.bytes) as f64 / 1e9;
    let ratio = ratio(&tiers, &plains);
    let (tier, plain) = (total / median(tiers), total / median(plains));
    println!(
        "{} blocks of {} bytes, {} deep:",
        args.blocks, args.bytes, args.depth
    );
    println!("disk tier, verified  {tier:.2} GB/s");
    println!("plain direct reads   {plain:.2} GB/s");
    println!("ratio                {ratio:.2}");
    Ok(args.min.is_none_or(|min| ratio >= min))
}

fn main() -> ExitCode {
    let args = Args::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build();
    let done = runtime
        .map_err(anyhow::Error::from)
        .and_then(|runtime| runtime.block_on(run(&args)));
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => {
            eprintln!("the disk tier is too slow");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}
