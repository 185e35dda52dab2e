//! `meshctl get`: fetches a chain's blocks and puts the file together again.

use std::{
    ffi::OsString,
    fs::{self, File},
    io::{BufWriter, Write},
    path::{Path, PathBuf},
};

use anyhow::Context;
use bytes::Bytes;
use kvmesh_client::{
    Ranges,
    client::{Chain, FetchedBlock, FetchedRanges, GetOptions, GetOutcome, GetSummary},
};
use kvmesh_directory::FeedPosition;
use serde::Serialize;
use tokio::time::Instant;

use crate::{
    args::{GetArgs, Global},
    chain::{ChainFile, Chainer},
    exit,
    output::{self, emit, ms},
    progress,
    rpc::{cache::Cache, position_text},
    sizes::human,
    ways::Ways,
};

#[derive(Serialize)]
struct Done {
    out: String,
    wanted_blocks: u32,
    blocks: u32,
    bytes: u64,
    /// The blocks' bytes make their hashes, beyond having their checksums.
    hashes_verified: bool,
    took_ms: f64,
    /// None: all come one way.
    ways: Option<Ways>,
    #[serde(flatten)]
    summary: Summary,
}

/// How the get ended. Bytes of the sources are those of the pieces that came.
#[derive(Serialize)]
struct Summary {
    outcome: &'static str,
    sources: Vec<Source>,
    blocks: u32,
    tokens: u64,
    estimated_fetch_ms: Option<f64>,
    estimated_recompute_ms: Option<f64>,
    fetch_ms: Option<f64>,
    matched_tokens: u64,
    saved_ms: Option<f64>,
    #[serde(serialize_with = "position_text")]
    position: Option<FeedPosition>,
    #[serde(serialize_with = "position_text")]
    fill_position: Option<FeedPosition>,
    fill_failures: u32,
}

#[derive(Serialize)]
struct Source {
    region: String,
    blocks: u32,
    bytes: u64,
}

impl Summary {
    fn of(got: GetSummary) -> Self {
        let sources = got.sources.into_iter().map(|source| Source {
            region: source.region.to_string(),
            blocks: source.blocks,
            bytes: source.bytes,
        });
        Self {
            outcome: match got.outcome {
                GetOutcome::Complete => "complete",
                GetOutcome::Miss => "miss",
                GetOutcome::OutOfTime => "out_of_time",
                GetOutcome::ViewBehind => "view_behind",
                GetOutcome::TooShort => "too_short",
                GetOutcome::SourceFailed => "source_failed",
                GetOutcome::Recompute => "recompute",
            },
            sources: sources.collect(),
            blocks: got.blocks,
            tokens: got.tokens,
            estimated_fetch_ms: got.estimated_fetch_ms,
            estimated_recompute_ms: got.estimated_recompute_ms,
            fetch_ms: got.fetch_ms,
            matched_tokens: got.matched_tokens,
            saved_ms: got.saved_ms,
            position: got.position,
            fill_position: got.fill_position,
            fill_failures: got.fill_failures,
        }
    }
}

pub(super) async fn run(global: &Global, args: &GetArgs) -> anyhow::Result<()> {
    let file = ChainFile::read(&args.chain.chain)?;
    let (chain, start) = (&file.chain, args.chain.start);
    if start >= chain.len() {
        return Err(exit::set_up(format!(
            "--start is {start}, the chain has {} blocks",
            chain.len()
        )));
    }
    let spans = args.ranges.iter().map(|span| span.0.clone());
    let ranges = Ranges::new(spans).map_err(|why| exit::set_up(format!("--range: {why}")))?;
    let peer = super::peer(global)?;
    let namespace = super::named(&peer, &args.chain.namespace).await?;
    super::check_width(chain, &namespace)?;
    super::catch_up(&peer, &namespace, &file).await?;
    // Only a whole chain can be chained again: the first wanted block needs the one before it.
    let hashes = !args.opaque && start == 0 && ranges.is_whole();
    let part = part_of(&args.out);
    let started = Instant::now();
    let local = args.local.as_deref();
    let cache = super::cache_of(global, &peer, &namespace, local).await?;
    let options = GetOptions {
        start,
        await_fill: args.await_fill,
        ..GetOptions::default()
    };
    let fetched = fetch(&cache, chain, &ranges, options, &part, hashes).await;
    let done = fetched.and_then(|(bytes, ways, summary)| {
        let done = Done {
            out: args.out.display().to_string(),
            wanted_blocks: chain.len() - start,
            blocks: summary.blocks,
            bytes,
            hashes_verified: hashes,
            took_ms: started.elapsed().as_secs_f64() * 1e3,
            ways: local.is_some().then_some(ways),
            summary,
        };
        whole_enough(args, &done)?;
        Ok(done)
    });
    let done = match done {
        Ok(done) => done,
        Err(error) => {
            // What is left is not the file; the error says so already.
            let _ = fs::remove_file(&part);
            return Err(error);
        }
    };
    fs::rename(&part, &args.out)
        .map_err(|error| exit::set_up(format!("file {} cannot be made: {error}", done.out)))?;
    emit(global.output, &done, || table(&done))
}

/// Writes beside the wanted file first, so that it is whole once it is there.
fn part_of(out: &Path) -> PathBuf {
    let mut name = OsString::from(out);
    name.push(".part");
    name.into()
}

async fn fetch(
    cache: &Cache,
    chain: &Chain,
    ranges: &Ranges,
    options: GetOptions,
    part: &Path,
    hashes: bool,
) -> anyhow::Result<(u64, Ways, Summary)> {
    let file = File::create(part).map_err(|error| {
        exit::set_up(format!("file {} cannot be made: {error}", part.display()))
    })?;
    let mut out = BufWriter::new(file);
    let mut chainer = Chainer::new(chain.width() as usize);
    let (mut bytes, mut ways) = (0, Ways::default());
    let bar = progress::count((chain.len() - options.start).into(), "blocks");
    let mut write = |parts: &[Bytes], path| {
        ways.count(path);
        for part in parts {
            bytes += part.len() as u64;
            out.write_all(part).context("writing the file")?;
        }
        bar.inc(1);
        Ok(())
    };
    let summary = if ranges.is_whole() {
        let whole = |block: FetchedBlock| {
            if hashes {
                check_hash(chain, &mut chainer, &block)?;
            }
            write(&block.block.pieces, block.path)
        };
        cache.get(chain, options, whole).await?
    } else {
        let some = |block: FetchedRanges| write(&block.ranges, block.path);
        cache.get_ranges(chain, ranges, options, some).await?
    };
    bar.finish_and_clear();
    out.flush().context("writing the file")?;
    Ok((bytes, ways, Summary::of(summary)))
}

fn check_hash(chain: &Chain, chainer: &mut Chainer, block: &FetchedBlock) -> anyhow::Result<()> {
    let hash = chainer.next(&block.block.pieces.concat());
    anyhow::ensure!(
        chain.hash(block.index) == hash,
        "block {} has its checksum, but its bytes do not make its hash: it was not stored by \
         `meshctl put`; add --opaque to take it as it is",
        block.index
    );
    Ok(())
}

fn whole_enough(args: &GetArgs, done: &Done) -> anyhow::Result<()> {
    let (blocks, wanted) = (done.blocks, done.wanted_blocks);
    if blocks == wanted || args.partial && blocks > 0 {
        return Ok(());
    }
    let hint = match blocks {
        0 => "`meshctl lookup` says where they are",
        _ => "add --partial to keep these",
    };
    anyhow::bail!(
        "{blocks} of {wanted} blocks could be had ({}): {hint}",
        done.summary.outcome.replace('_', " ")
    )
}

fn table(done: &Done) -> String {
    let mut table = output::table(&["from", "blocks", "bytes"], &[1, 2]);
    for source in &done.summary.sources {
        table.add_row(vec![
            source.region.clone(),
            source.blocks.to_string(),
            human(source.bytes),
        ]);
    }
    let ways = done.ways.map(|ways| format!("; {ways}"));
    format!(
        "{} of {} blocks, {}, verified, in {}; {}{}\n{table}",
        done.blocks,
        done.wanted_blocks,
        human(done.bytes),
        done.out,
        ms(done.took_ms),
        ways.unwrap_or_default()
    )
}
