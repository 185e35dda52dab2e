//! Sends requests: look up, get what is there, put the rest.

use std::{
    collections::{BTreeMap, HashSet},
    sync::{Mutex, MutexGuard, PoisonError},
};

use anyhow::Context;
use kvmesh_client::{
    Block,
    client::{Chain, FetchedBlock, GetOptions, GetSummary, PutBlock},
};
use kvmesh_directory::{FeedPosition, Namespace, Part};
use tokio::time::Instant;

use super::{
    bound::{Expected, Split},
    content,
    latency::Times,
    settle::settle,
    trace::Trace,
};
use crate::{args::Pace, rpc::Peer};

/// Through which gateways, as what, and how.
pub struct Driver<'a> {
    /// One gateway per region.
    pub gateways: Vec<Peer>,
    /// Their regions' names.
    pub regions: Vec<String>,
    /// Namespace of the replay; new in every run.
    pub namespace: Namespace,
    /// The requests.
    pub trace: &'a Trace,
    /// Hash of each block.
    pub hashes: Vec<[u8; 32]>,
    /// Bytes of each block.
    pub block_bytes: usize,
    /// How soon the next request follows.
    pub pace: Pace,
    /// What was seen so far, by all requests.
    pub seen: Mutex<Seen>,
}

/// What a replay has seen.
pub struct Seen {
    /// As served.
    pub split: Split,
    /// As served by each region.
    pub regions: Vec<Served>,
    /// When each block was first known to be in the mesh.
    pub stored: Vec<Option<Instant>>,
    /// Of what only other regions had and a request was not served: the block was in the mesh for
    /// so long when the request began. Blocks, by [`Times`] of requests.
    pub unseen: Times,
    /// Blocks that were not served although they were in the mesh when the request began.
    pub unseen_blocks: u64,
    /// Blocks that were not served because the request before that had them was not done.
    pub early_blocks: u64,
    /// Requests whose split was not the expected one, and the first of them in words.
    pub surprises: u64,
    /// The first surprise.
    pub first_surprise: Option<String>,
    /// Blocks with a wrong byte.
    pub wrong_blocks: u64,
    /// Blocks put, and those of them that were there already.
    pub put_blocks: u64,
    /// Of the put blocks.
    pub put_existed: u64,
    /// Fetched blocks that could not be kept.
    pub fill_failures: u64,
    /// Blocks and bytes served, by (from region, to region).
    pub links: BTreeMap<(String, String), (u64, u64)>,
    /// Lookups.
    pub lookup: Times,
    /// Gets that one region served alone.
    pub get_local: Times,
    /// Gets that another region took part in.
    pub get_far: Times,
    /// Puts.
    pub put: Times,
    /// Waits for views.
    pub settle: Times,
    /// Beginnings of requests after their time.
    pub late: Times,
}

/// What requests of a region were served.
#[derive(Debug, Clone, Copy, Default)]
pub struct Served {
    /// Requests.
    pub requests: u64,
    /// Hits and misses.
    pub split: Split,
    /// Hits and misses that the assignment implies.
    pub want: Split,
    /// Blocks served of those that only other regions have by then.
    pub remote_only: u64,
}

impl Seen {
    /// Nothing yet, of so many regions and blocks.
    ///
    /// # Errors
    /// Never: see [`Times::new`].
    pub fn new(regions: usize, blocks: usize) -> anyhow::Result<Self> {
        Ok(Self {
            split: Split::default(),
            regions: vec![Served::default(); regions],
            stored: vec![None; blocks],
            unseen: Times::new()?,
            unseen_blocks: 0,
            early_blocks: 0,
            surprises: 0,
            first_surprise: None,
            wrong_blocks: 0,
            put_blocks: 0,
            put_existed: 0,
            fill_failures: 0,
            links: BTreeMap::new(),
            lookup: Times::new()?,
            get_local: Times::new()?,
            get_far: Times::new()?,
            put: Times::new()?,
            settle: Times::new()?,
            late: Times::new()?,
        })
    }
}

impl Driver<'_> {
    /// Sends request `at` through the gateway of `region`.
    ///
    /// # Errors
    /// When a gateway refuses, or views do not settle.
    pub async fn request(&self, at: usize, region: usize, want: &Expected) -> anyhow::Result<()> {
        let began = Instant::now();
        let blocks = &self.trace.requests[at].chain;
        let chain = Chain::new(blocks.iter().map(|&block| self.hashes[block as usize]))?;
        let mut positions = Vec::new();
        let run = self.look_up(region, &chain).await?;
        let mut split = Split::default();
        let mut got = 0;
        if run > 0 {
            let summary = self.get(region, &chain, run, &mut split).await?;
            got = summary.blocks;
            positions.extend(summary.fill_position);
        }
        split.misses = u64::from(chain.len() - got);
        self.note(at, region, split, want);
        self.note_remote(blocks, region, (want, got), began);
        positions.extend(self.put(region, &chain, got).await?);
        self.note_stored(blocks);
        if self.pace == Pace::Settled {
            let probe = Chain::new([chain.hash(0)])?;
            let took = settle(&self.gateways, &self.namespace, &probe, &positions).await?;
            self.seen().settle.record(took);
        }
        Ok(())
    }

    fn note(&self, at: usize, region: usize, split: Split, want: &Expected) {
        let want = want.split;
        let mut seen = self.seen();
        seen.split.add(split);
        let served = &mut seen.regions[region];
        served.requests += 1;
        served.split.add(split);
        served.want.add(want);
        if split != want {
            seen.surprises += 1;
            seen.first_surprise.get_or_insert_with(|| {
                format!(
                    "request {at} in {}: expected {want:?}, seen {split:?}",
                    self.regions[region]
                )
            });
        }
    }

    /// Counts what was served of the blocks that only other regions have, and why the rest was
    /// not: a request is served up to the first block that its gateway does not know of.
    fn note_remote(
        &self,
        blocks: &[u32],
        region: usize,
        (want, got): (&Expected, u32),
        began: Instant,
    ) {
        let mut seen = self.seen();
        let served = want.remote.iter().filter(|&&depth| depth < got).count();
        seen.regions[region].remote_only += served as u64;
        let lost = (want.remote.len() - served) as u64;
        if lost == 0 {
            return;
        }
        let stored = seen.stored[blocks[got as usize] as usize];
        match stored.and_then(|stored| began.checked_duration_since(stored)) {
            Some(since) => {
                seen.unseen.record(since);
                seen.unseen_blocks += lost;
            }
            None => seen.early_blocks += lost,
        }
    }

    fn note_stored(&self, blocks: &[u32]) {
        let (mut seen, now) = (self.seen(), Instant::now());
        for &block in blocks {
            seen.stored[block as usize].get_or_insert(now);
        }
    }

    /// What was seen so far.
    pub fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn look_up(&self, region: usize, chain: &Chain) -> anyhow::Result<u32> {
        let started = Instant::now();
        let cache = self.gateways[region].cache(&self.namespace, &[])?;
        let answer = cache.lookup(chain, 0).await?;
        self.seen().lookup.record(started.elapsed());
        Ok(answer.matches.first().map_or(0, |found| found.mesh_blocks))
    }

    /// Gets the first `run` blocks, verifies each byte, and counts by source.
    async fn get(
        &self,
        region: usize,
        chain: &Chain,
        run: u32,
        split: &mut Split,
    ) -> anyhow::Result<GetSummary> {
        let started = Instant::now();
        let here = &self.regions[region];
        let (mut next, mut wrong, mut routes) = (0, 0, BTreeMap::<_, (u64, u64)>::new());
        let mut on_block = |block: FetchedBlock| {
            anyhow::ensure!(
                block.index == next,
                "block {} came before {next}",
                block.index
            );
            next += 1;
            let hash = chain.hash(block.index);
            if !content::is_exact(&hash, self.block_bytes, &block.block.pieces) {
                wrong += 1;
            }
            if block.region.as_str() == here {
                split.local += 1;
            } else {
                split.remote += 1;
            }
            let route = (block.region.to_string(), here.clone());
            let link = routes.entry(route).or_default();
            link.0 += 1;
            link.1 += block.block.meta.bytes;
            Ok(())
        };
        let options = GetOptions {
            count: run,
            await_fill: self.pace == Pace::Settled,
            ..GetOptions::default()
        };
        let cache = self.gateways[region].cache(&self.namespace, &[])?;
        let summary = cache.get(chain, options, &mut on_block).await?;
        anyhow::ensure!(
            summary.blocks == next,
            "a get said {} blocks and sent {next}",
            summary.blocks
        );
        let mut seen = self.seen();
        seen.wrong_blocks += wrong;
        for (route, (blocks, bytes)) in routes {
            let link = seen.links.entry(route).or_default();
            link.0 += blocks;
            link.1 += bytes;
        }
        seen.fill_failures += u64::from(summary.fill_failures);
        let times = match split.remote {
            0 => &mut seen.get_local,
            _ => &mut seen.get_far,
        };
        times.record(started.elapsed());
        Ok(summary)
    }

    /// Puts the blocks from `from` on, each name once; gives the positions that show them.
    async fn put(
        &self,
        region: usize,
        chain: &Chain,
        from: u32,
    ) -> anyhow::Result<Vec<FeedPosition>> {
        let mut names = HashSet::new();
        let rest = (from..chain.len()).map(|depth| (depth, chain.hash(depth)));
        let blocks: Vec<PutBlock> = rest
            .filter(|(_, hash)| names.insert(hash.clone()))
            .map(|(depth, hash)| PutBlock {
                block: Block::of(&content::bytes(&hash, self.block_bytes), depth),
                part: Part::default(),
                hash,
            })
            .collect();
        if blocks.is_empty() {
            return Ok(Vec::new());
        }
        let started = Instant::now();
        let cache = self.gateways[region].cache(&self.namespace, &[])?;
        let acked = cache.put(&blocks).await;
        let acked = acked.with_context(|| format!("putting {} blocks", blocks.len()))?;
        let mut seen = self.seen();
        seen.put.record(started.elapsed());
        seen.put_blocks += acked.len() as u64;
        seen.put_existed += acked.iter().filter(|ack| ack.existed).count() as u64;
        Ok(cache.positions())
    }
}
