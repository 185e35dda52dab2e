//! What comparing costs those who go on: freezing, and one piece of a pass.
//!
//! `cargo bench -p kvmesh-directory --bench compare -- [--blocks N] [--piece-ms-max M]
//! [--freeze-ms-max M]`: a directory and a mesh view of so many blocks; each is frozen, and
//! counted piece by piece, while full entries of claims and evictions are applied between the
//! pieces. Exits 1 when half of the pieces, or freezing either, take longer, or when the two
//! digests are not equal.
#![allow(missing_docs, reason = "a benchmark has no interface")]
#![allow(
    clippy::disallowed_methods,
    reason = "the only clock here is the stopwatch"
)]

#[allow(dead_code, reason = "each bench needs a part of it")]
#[path = "../entries/rows.rs"]
mod rows;

use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

use clap::Parser;
use kvmesh_directory::{
    DirectoryState, MeshView, RegionId,
    limits::{DIGEST_RANGES, ENTRY_CHANGES_MAX},
    view::{Digest, MeshWalk, mesh_blocks},
};

use self::rows::Blocks;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// As a node looks at them.
const LOOK_AT: usize = 4_096;
/// As region-syncs and gateways take them.
const RANGES_AT_ONCE: usize = 16;

#[derive(Debug, Parser)]
struct Args {
    /// Blocks of the region.
    #[arg(long, default_value_t = 1_000_000)]
    blocks: u64,
    /// Fail when half of the pieces take longer.
    #[arg(long)]
    piece_ms_max: Option<f64>,
    /// Fail when freezing takes longer.
    #[arg(long)]
    freeze_ms_max: Option<f64>,
    /// Given by `cargo bench`.
    #[arg(long, hide = true)]
    bench: bool,
}

/// Times of pieces, and of entries that were applied between them.
#[derive(Default)]
struct Times {
    freeze: Duration,
    pieces: Vec<Duration>,
    entries: Vec<Duration>,
}

impl Times {
    fn print(&mut self, what: &str) {
        self.pieces.sort_unstable();
        self.entries.sort_unstable();
        let sum: Duration = self.pieces.iter().sum();
        let (freeze, pieces) = (self.freeze, self.pieces.len());
        println!("{what}: frozen in {freeze:?}; {pieces} pieces in {sum:?}");
        for (what, times) in [("piece", &self.pieces), ("entry", &self.entries)] {
            let longest = times.last().copied().unwrap_or_default();
            println!("  {what}: {:?}, the longest {longest:?}", half(times));
        }
    }

    fn fits(&self, args: &Args) -> bool {
        let within = |time: Duration, max: Option<f64>| {
            max.is_none_or(|max| time.as_secs_f64() * 1e3 <= max)
        };
        within(half(&self.pieces), args.piece_ms_max) && within(self.freeze, args.freeze_ms_max)
    }
}

/// What half of them take at most; they are in order.
fn half(times: &[Duration]) -> Duration {
    times.get(times.len() / 2).copied().unwrap_or_default()
}

fn timed<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let began = Instant::now();
    let done = work();
    (done, began.elapsed())
}

fn directory(blocks: &mut Blocks, count: u64) -> DirectoryState {
    let mut state = DirectoryState::empty();
    for (index, command) in blocks.begin() {
        state.apply(index, &command);
    }
    let mut left = count;
    while left > 0 {
        let some = left.min(ENTRY_CHANGES_MAX as u64);
        let claims = blocks.claim(some);
        state.apply(blocks.index(), &claims);
        left -= some;
    }
    state
}

/// A node's pass, while entries are applied.
fn of_directory(
    state: &mut DirectoryState,
    blocks: &mut Blocks,
    far: &RegionId,
) -> (Digest, Times) {
    let (mut digest, mut times) = (Digest::default(), Times::default());
    let (frozen, freeze) = timed(|| state.clone());
    times.freeze = freeze;
    let mut walk = MeshWalk::new(frozen, far.clone());
    loop {
        let (next, piece) = timed(|| {
            let next = walk.step(LOOK_AT)?;
            next.iter()
                .for_each(|(name, bytes)| digest.add(name.tag(), *bytes));
            Some(())
        });
        if next.is_none() {
            return (digest, times);
        }
        times.pieces.push(piece);
        let entry = blocks.change();
        times
            .entries
            .push(timed(|| state.apply(blocks.index(), &entry)).1);
    }
}

/// A region-sync's or a gateway's pass, while steps are taken.
fn of_view(view: &mut MeshView, home: &RegionId) -> (Digest, Times) {
    let mut times = Times::default();
    let (frozen, freeze) = timed(|| view.clone());
    times.freeze = freeze;
    let mut ranges = Vec::with_capacity(DIGEST_RANGES);
    for first in (0..DIGEST_RANGES).step_by(RANGES_AT_ONCE) {
        let (more, piece) = timed(|| {
            let some = first..first + RANGES_AT_ONCE;
            some.map(|range| frozen.digest_of(home, range))
                .collect::<Vec<_>>()
        });
        ranges.extend(more);
        times.pieces.push(piece);
        let new = |at: u64| {
            (
                kvmesh_directory::Tag(rows::mixed(first as u64 * 1_000 + at)),
                1,
            )
        };
        let step: Vec<_> = (0..ENTRY_CHANGES_MAX as u64).map(new).collect();
        times.entries.push(timed(|| view.mend(home, &step, &[])).1);
    }
    (Digest::of_ranges(ranges).unwrap_or_default(), times)
}

fn main() -> ExitCode {
    let args = Args::parse();
    let far: RegionId = "far".parse().expect("a region's name");
    let mut blocks = Blocks::default();
    let mut state = directory(&mut blocks, args.blocks);
    let position = state.position().expect("an initialised region");
    let (home, mut view) = (position.region.clone(), MeshView::new());
    let tags: Vec<_> = mesh_blocks(&state, &far)
        .map(|(name, bytes)| (name.tag(), bytes))
        .collect();
    view.step(&home, &tags, &[], Some(position));
    let (theirs, mut node) = of_directory(&mut state, &mut blocks, &far);
    let (ours, mut sync) = of_view(&mut view, &home);
    node.print("directory");
    sync.print("mesh view");
    let equal = theirs == ours;
    println!("{} blocks, digests equal: {equal}", ours.total().blocks);
    match equal && node.fits(&args) && sync.fits(&args) {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}
