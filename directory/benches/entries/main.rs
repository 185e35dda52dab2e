//! What a block costs in a region's directory: memory at the worst point of its growth, and
//! the time of a lookup as the directory grows.
//!
//! `cargo bench -p kvmesh-directory --bench entries -- [--entries N] [--bytes-max B]
//! [--lookup-ratio-max R]`: hashes of 32 bytes, two holders, no snapshot open, allocator and
//! `apply` as in a node. Exits 1 when an entry takes more memory than `--bytes-max` at any
//! point from a million entries on, or when a lookup at full size takes over
//! `--lookup-ratio-max` times as long as at 10,000 entries.
#![allow(missing_docs, reason = "a benchmark has no interface")]
#![allow(
    clippy::disallowed_methods,
    reason = "the only clock here is the stopwatch"
)]

#[allow(dead_code, reason = "each bench needs a part of it")]
mod rows;

use std::{fs, process::ExitCode, time::Instant};

use clap::Parser;
use kvmesh_directory::{BlockHash, Command, DirectoryState, Part, limits::ENTRY_CHANGES_MAX};

use self::rows::{Blocks, mixed};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const PAGE_BYTES: u64 = 4_096;
/// Blocks of one looked-up chain.
const CHAIN: u64 = 1_024;
/// Chains that are looked up at each size.
const LOOKUPS: u64 = 2_000;
/// What the process takes with so many entries (some 15 MB, most of it held by the allocator)
/// is not counted.
const BASE_ENTRIES: u64 = 10_000;
/// Memory is judged from so many entries on: below, the process itself would be measured.
const JUDGED_FROM: u64 = 1_000_000;
/// A sample of the memory is taken whenever the directory has grown by one part in so many.
const SAMPLES_PER_SIZE: u64 = 64;

#[derive(Debug, Parser)]
struct Args {
    /// Entries at the end.
    #[arg(long, default_value_t = 10_000_000)]
    entries: u64,
    /// Fail when an entry takes more bytes of resident memory.
    #[arg(long)]
    bytes_max: Option<f64>,
    /// Fail when a lookup at full size takes more than so many times that at 10,000 entries.
    #[arg(long)]
    lookup_ratio_max: Option<f64>,
    /// Given by `cargo bench`.
    #[arg(long, hide = true)]
    bench: bool,
}

/// A directory that grows by claims of two copies, as a node's does.
struct Growing {
    state: DirectoryState,
    blocks: Blocks,
    entries: u64,
}

impl Growing {
    fn new() -> Self {
        let mut growing = Self {
            state: DirectoryState::empty(),
            blocks: Blocks::default(),
            entries: 0,
        };
        for (index, command) in growing.blocks.begin() {
            growing.apply(index, &command);
        }
        growing
    }

    fn apply(&mut self, index: u64, command: &Command) {
        let (outcome, _) = self.state.apply(index, command);
        assert_eq!(outcome.refused, None);
    }

    /// Claims what comes next, as one log entry.
    fn grow(&mut self, count: u64) {
        let claims = self.blocks.claim(count);
        self.apply(self.blocks.index(), &claims);
        self.entries += count;
        assert_eq!(self.state.stats().blocks, self.entries);
    }

    /// Nanoseconds for one block of a chain whose blocks lie all over the directory, as half
    /// of the chains take at most.
    fn lookup_ns(&self) -> f64 {
        let (namespace, part) = (self.blocks.namespace.id, [Part::default()]);
        let mut spent = Vec::new();
        for lookup in 0..LOOKUPS {
            let numbers = (0..CHAIN).map(|at| mixed(lookup * CHAIN + at) % self.entries);
            let hashes: Vec<BlockHash> = numbers
                .map(|number| self.blocks.name(number).hash)
                .collect();
            let began = Instant::now();
            let (run, _) = self.state.run(namespace, &hashes, &part);
            spent.push(began.elapsed());
            assert_eq!(run, hashes.len());
        }
        spent.sort_unstable();
        spent[spent.len() / 2].as_nanos() as f64 / CHAIN as f64
    }
}

fn resident_bytes() -> u64 {
    let text = fs::read_to_string("/proc/self/statm").expect("/proc is mounted");
    let pages = text.split(' ').nth(1).and_then(|pages| pages.parse().ok());
    PAGE_BYTES * pages.unwrap_or(0_u64)
}

fn main() -> ExitCode {
    let args = Args::parse();
    let mut growing = Growing::new();
    growing.grow(1);
    let mut base = resident_bytes();
    let mut worst = (0.0_f64, 0);
    let (mut next_sample, mut next_lookup) = (JUDGED_FROM, 10_000);
    let mut lookups = Vec::new();
    println!(
        "{:>12}  {:>14}  {:>12}",
        "entries", "bytes an entry", "lookup ns"
    );
    while growing.entries < args.entries {
        let left = args.entries.min(next_lookup.max(growing.entries + 1)) - growing.entries;
        growing.grow(left.min(ENTRY_CHANGES_MAX as u64));
        let is_last = growing.entries == args.entries;
        if growing.entries == BASE_ENTRIES {
            base = resident_bytes();
        }
        let added = growing.entries.saturating_sub(BASE_ENTRIES).max(1);
        let bytes = resident_bytes().saturating_sub(base) as f64 / added as f64;
        if growing.entries >= next_sample || (is_last && growing.entries >= JUDGED_FROM) {
            if bytes > worst.0 {
                worst = (bytes, growing.entries);
            }
            next_sample = growing.entries + growing.entries / SAMPLES_PER_SIZE;
        }
        if growing.entries == next_lookup || is_last {
            let ns = growing.lookup_ns();
            println!("{:>12}  {bytes:>14.1}  {ns:>12.1}", growing.entries);
            lookups.push(ns);
            next_lookup *= 10;
        }
    }
    let (bytes, at) = worst;
    let ratio = lookups.last().copied().unwrap_or(0.0) / lookups[0];
    println!("worst: {bytes:.1} bytes an entry, at {at} entries");
    println!(
        "a lookup at {} entries takes {ratio:.2} times that at 10,000",
        args.entries
    );
    let fits = args.bytes_max.is_none_or(|max| bytes <= max)
        && args.lookup_ratio_max.is_none_or(|max| ratio <= max);
    match fits {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}
