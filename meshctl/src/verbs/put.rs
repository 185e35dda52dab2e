//! `meshctl put`: cuts a file into blocks, chains and stores them, a batch at a time.

use std::{
    fs::{self, File},
    io::Read,
    path::Path,
};

use anyhow::Context;
use bytes::Bytes;
use kvmesh_client::{
    Block,
    client::{Chain, PutBlock},
};
use kvmesh_directory::{
    Part,
    limits::{BLOCK_BYTES_MAX, CHAIN_BLOCKS_MAX},
    namespace::AckLevel,
};
use serde::Serialize;
use tokio::time::Instant;

use crate::{
    args::{Global, PutArgs},
    chain::{self, ChainFile, Chainer},
    exit,
    output::{Format, emit, ms},
    progress,
    sizes::human,
    ways::Ways,
};

/// Bytes of the file that are held in memory at once, unless one block is larger.
const BATCH_BYTES: usize = 64 << 20;

#[derive(Serialize)]
struct Done {
    namespace: String,
    blocks: usize,
    bytes: u64,
    blocks_existed: usize,
    copies_min: u32,
    took_ms: f64,
    /// None: all go one way.
    ways: Option<Ways>,
    chain: Vec<String>,
}

pub(super) async fn run(global: &Global, args: &PutArgs) -> anyhow::Result<()> {
    let block_bytes = args.block_bytes.0;
    if !(1..=BLOCK_BYTES_MAX).contains(&block_bytes) {
        return Err(exit::set_up(format!(
            "--block-bytes is {block_bytes}: 1 B to {} are possible",
            human(BLOCK_BYTES_MAX)
        )));
    }
    let mut file = open(&args.file, block_bytes)?;
    let peer = super::peer(global)?;
    let namespace = super::named(&peer, &args.namespace).await?;
    let cache = super::cache_of(global, &peer, &namespace, args.local.as_deref()).await?;
    let mut chainer = Chainer::new(namespace.description.hash_width as usize);
    let ack = args.ack.map(AckLevel::from);
    let (mut hashes, mut acked) = (Vec::new(), Vec::new());
    let (mut bytes, started) = (0, Instant::now());
    let bar = progress::bytes(file.metadata().map_or(0, |file| file.len()));
    loop {
        let batch = batch(&mut file, block_bytes as usize, &mut chainer, &mut hashes)
            .with_context(|| format!("reading {}", args.file.display()))?;
        if batch.is_empty() {
            break;
        }
        bytes += batch
            .iter()
            .map(|block| block.block.meta.bytes)
            .sum::<u64>();
        acked.extend(cache.put_at(&batch, ack).await?);
        bar.set_position(bytes);
    }
    bar.finish_and_clear();
    let chain = ChainFile {
        chain: Chain::new(&hashes)?,
        after: cache.positions(),
    };
    if let Some(out) = &args.chain_out {
        fs::write(out, chain.to_text()).map_err(|error| {
            exit::set_up(format!(
                "chain file {} cannot be written: {error}",
                out.display()
            ))
        })?;
    }
    let mut ways = Ways::default();
    acked.iter().for_each(|ack| ways.count(ack.path));
    let done = Done {
        namespace: namespace.name,
        blocks: hashes.len(),
        bytes,
        blocks_existed: acked.iter().filter(|ack| ack.existed).count(),
        copies_min: acked.iter().map(|ack| ack.copies).min().unwrap_or(0),
        took_ms: started.elapsed().as_secs_f64() * 1e3,
        ways: args.local.is_some().then_some(ways),
        chain: hashes.iter().map(|hash| chain::hex(hash)).collect(),
    };
    say(global, args, &done, &chain)
}

/// The chain alone goes to standard output, so that it can be piped into a chain file.
fn say(global: &Global, args: &PutArgs, done: &Done, chain: &ChainFile) -> anyhow::Result<()> {
    let ways = done.ways.map(|ways| format!("; {ways}"));
    let summary = format!(
        "{} blocks, {}, in at least {} copies each; {} were there before; {}{}",
        done.blocks,
        human(done.bytes),
        done.copies_min,
        done.blocks_existed,
        ms(done.took_ms),
        ways.unwrap_or_default()
    );
    match (&args.chain_out, global.output) {
        (Some(out), Format::Table) => emit(global.output, done, || {
            format!("{summary}\nchain in {}", out.display())
        }),
        (None, Format::Table) => {
            eprintln!("{summary}");
            emit(global.output, done, || chain.to_text())
        }
        (_, Format::Json) => emit(global.output, done, String::new),
    }
}

fn open(path: &Path, block_bytes: u64) -> anyhow::Result<File> {
    let unreadable =
        |error| exit::set_up(format!("file {} cannot be read: {error}", path.display()));
    let file = File::open(path).map_err(unreadable)?;
    let len = file.metadata().map_err(unreadable)?.len();
    if len == 0 {
        return Err(exit::set_up(format!(
            "file {} is empty: a block has at least one byte",
            path.display()
        )));
    }
    if len.div_ceil(block_bytes) > CHAIN_BLOCKS_MAX as u64 {
        return Err(exit::set_up(format!(
            "file {} makes more than {CHAIN_BLOCKS_MAX} blocks: raise --block-bytes",
            path.display()
        )));
    }
    Ok(file)
}

/// The next blocks of the file, with their hashes; none at its end.
fn batch(
    file: &mut File,
    block_bytes: usize,
    chainer: &mut Chainer,
    hashes: &mut Vec<Bytes>,
) -> std::io::Result<Vec<PutBlock>> {
    let mut blocks = Vec::new();
    let mut bytes = 0;
    while bytes < BATCH_BYTES {
        let mut block = Vec::new();
        file.by_ref()
            .take(block_bytes as u64)
            .read_to_end(&mut block)?;
        if block.is_empty() {
            break;
        }
        bytes += block.len();
        let hash = chainer.next(&block);
        blocks.push(PutBlock {
            hash: hash.clone(),
            part: Part::default(),
            block: Block::of(&block.into(), hashes.len() as u32),
        });
        hashes.push(hash);
    }
    Ok(blocks)
}
