//! What a benchmark reads and writes: chains of blocks whose bytes nobody can compress.

use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use kvmesh_client::{
    Block, BlockMeta,
    client::{Chain, PutBlock},
};
use kvmesh_directory::{Checksum, Part};

use crate::args::{BenchArgs, Work as Kind};

/// Different contents that are put; the names are always new.
const CONTENTS_BYTES: u64 = 64 << 20;

/// Who looks blocks up does not read them: more would only take memory.
const LOOKED_UP_BYTES: u64 = 4 << 10;

/// Puts whose names a store that does not evict keeps.
pub const PUTS_KEPT: u64 = 128;

/// Blocks of one call.
#[derive(Debug)]
pub struct Run {
    /// Their names.
    pub chain: Chain,
    /// Their bytes.
    pub blocks: Vec<PutBlock>,
}

/// All that is done, shared by all connections.
#[derive(Debug)]
pub struct Work {
    /// What a call does.
    pub kind: Kind,
    /// Of 100 calls so many put.
    pub puts: u32,
    /// Of a block.
    pub bytes: usize,
    /// Blocks of a call.
    pub batch: u32,
    /// What is there to be read.
    pub runs: Vec<Run>,
    contents: Vec<Bytes>,
    /// Makes names of this benchmark its own.
    pub nonce: u64,
    put: AtomicU64,
}

impl Work {
    /// Makes up names and bytes.
    ///
    /// # Errors
    /// When a chain of so many blocks cannot be.
    pub fn new(args: &BenchArgs) -> anyhow::Result<Self> {
        let bytes = match args.work {
            Kind::Lookup => args.bytes.0.min(LOOKED_UP_BYTES),
            Kind::Get | Kind::Put => args.bytes.0,
        };
        let per_run = bytes * u64::from(args.batch);
        let nonce = kvmesh_client::random::word();
        let contents = (CONTENTS_BYTES / bytes).clamp(1, 64);
        let bytes = usize::try_from(bytes)?;
        let contents: Vec<Bytes> = (0..contents).map(|at| content(nonce ^ at, bytes)).collect();
        let runs = match args.work {
            Kind::Put => 0,
            Kind::Lookup => 64,
            Kind::Get => (args.working_set.0 / per_run).clamp(1, 65_536),
        };
        let mut work = Self {
            kind: args.work,
            puts: args.puts,
            bytes,
            batch: args.batch,
            runs: Vec::new(),
            contents,
            nonce,
            put: AtomicU64::new(0),
        };
        work.runs = (0..runs)
            .map(|number| work.run(number, work.kind == Kind::Get))
            .collect::<anyhow::Result<_>>()?;
        Ok(work)
    }

    /// The blocks of one name each; `own`: with bytes that no other block has.
    fn run(&self, number: u64, own: bool) -> anyhow::Result<Run> {
        let block = |depth: u32| {
            let seed = (number << 20) + u64::from(depth);
            let bytes = match own {
                true => content(self.nonce.rotate_left(17) ^ seed, self.bytes),
                false => self.contents[seed as usize % self.contents.len()].clone(),
            };
            PutBlock {
                hash: self.hash(number, depth),
                part: Part::default(),
                block: Block::of(&bytes, depth),
            }
        };
        let blocks: Vec<PutBlock> = (0..self.batch).map(block).collect();
        Ok(Run {
            chain: Chain::new(blocks.iter().map(|block| &block.hash))?,
            blocks,
        })
    }

    fn hash(&self, number: u64, depth: u32) -> Bytes {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.nonce.to_be_bytes());
        hasher.update(&number.to_be_bytes());
        hasher.update(&depth.to_be_bytes());
        Bytes::copy_from_slice(hasher.finalize().as_bytes())
    }

    /// Number of the next put.
    pub fn next_put(&self) -> u64 {
        self.put.fetch_add(1, Ordering::Relaxed)
    }

    /// A put's names and bytes, which are not hashed yet.
    pub fn to_put(&self, number: u64) -> Vec<(Bytes, Bytes)> {
        let block = |depth: u32| {
            let at = number as usize * self.batch as usize + depth as usize;
            // Apart from the names of what is there to be read.
            let hash = self.hash(number | 1 << 40, depth);
            (hash, self.contents[at % self.contents.len()].clone())
        };
        (0..self.batch).map(block).collect()
    }

    /// Bytes of the blocks that are there.
    pub fn stored_bytes(&self) -> u64 {
        self.runs.len() as u64 * u64::from(self.batch) * self.bytes as u64
    }
}

/// Verifies a value that came as a whole, as the mesh's client verifies pieces.
///
/// # Errors
/// When a byte is wrong.
pub fn verify(value: &[u8], meta: &BlockMeta) -> anyhow::Result<u64> {
    let right = value.len() as u64 == meta.bytes && Checksum::pieces_of(value) == meta.pieces;
    anyhow::ensure!(right, "a peer returned other bytes than were stored");
    Ok(meta.bytes)
}

fn content(seed: u64, bytes: usize) -> Bytes {
    let key = blake3::hash(&seed.to_be_bytes());
    let mut raw = vec![0; bytes];
    blake3::Hasher::new_keyed(key.as_bytes())
        .finalize_xof()
        .fill(&mut raw);
    raw.into()
}
