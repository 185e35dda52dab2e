//! Which part of real prompts a cache of a given size answers, by what it evicts.
//!
//! `cargo bench -p kvmesh-node --bench eviction -- [--trace FILE]... [--sizes PERCENT,..]
//! [--part-min R] [--part-at PERCENT,..] [--never-below-lru]`: replays traces and prints the
//! prefix-hit rate: blocks of the leading run that are held, over all blocks asked for.
//! Sizes are in percent of a trace's unique blocks. `ours` is the product's ledger; `bound`
//! knows the future. Exits 1 when `ours` closes less than `--part-min` of the way from `lru` to
//! `bound` at the sizes `--part-at` of the first trace, or, if asked, is below `lru` anywhere.
#![allow(missing_docs, reason = "a benchmark has no interface")]

mod bound;
mod ours;
mod policies;
mod trace;

use std::{path::PathBuf, process::ExitCode};

use anyhow::ensure;
use clap::Parser;

use self::{
    ours::Ours,
    policies::{Fifo, Lru, Policy, S3Fifo, Sieve, TinyLfu},
    trace::Trace,
};

const TRACES: [&str; 2] = ["mooncake_conversation.jsonl", "agent_blocks16.jsonl"];

#[derive(Debug, Parser)]
struct Args {
    /// Where the public traces lie.
    #[arg(long, default_value = "../../shared/data")]
    data: PathBuf,
    /// Other traces than the public ones; may be repeated.
    #[arg(long)]
    trace: Vec<PathBuf>,
    /// Sizes of the cache in percent of the unique blocks.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 5, 10, 20, 50])]
    sizes: Vec<usize>,
    /// Which part of the way from LRU to the bound the product closes at least.
    #[arg(long)]
    part_min: Option<f64>,
    /// At which of the sizes, of the first trace.
    #[arg(long, value_delimiter = ',', default_values_t = [5, 10])]
    part_at: Vec<usize>,
    /// Fail when the product is below LRU at any size of any trace.
    #[arg(long)]
    never_below_lru: bool,
    /// Given by `cargo bench`.
    #[arg(long, hide = true)]
    bench: bool,
}

/// Prefix-hit rates of one trace at one size.
struct Row {
    lru: f64,
    others: [f64; 4],
    ours: f64,
    bound: f64,
}

impl Row {
    fn of(trace: &Trace, max: usize) -> Self {
        let part = |hits: usize| hits as f64 / trace.asked as f64;
        let rate = |policy: Box<dyn Policy>| part(hits(trace, policy));
        Self {
            lru: rate(Box::new(Lru::new(max))),
            others: [
                rate(Box::new(Fifo::new(max))),
                rate(Box::new(S3Fifo::new(max))),
                rate(Box::new(Sieve::new(max))),
                rate(Box::new(TinyLfu::new(max))),
            ],
            ours: rate(Box::new(Ours::new(max))),
            bound: part(bound::hits(trace, max)),
        }
    }

    /// Which part of the way from LRU to the bound the product closes.
    fn part(&self) -> f64 {
        let way = self.bound - self.lru;
        if way > 0.0 {
            (self.ours - self.lru) / way
        } else {
            1.0
        }
    }
}

fn hits(trace: &Trace, mut policy: Box<dyn Policy>) -> usize {
    let mut hits = 0;
    for request in &trace.requests {
        let run = request.chain.iter();
        hits += run.take_while(|block| policy.holds(**block)).count();
        policy.ask(request.second, &request.chain);
    }
    hits
}

fn run(args: &Args) -> anyhow::Result<()> {
    let mut paths = args.trace.clone();
    if paths.is_empty() {
        paths = TRACES
            .map(|name| args.data.join("traces").join(name))
            .into();
    }
    let mut missed = Vec::new();
    for (place, path) in paths.iter().enumerate() {
        let trace = Trace::read(path)?;
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        println!(
            "{name}: {} requests, {} blocks asked for, {} unique",
            trace.requests.len(),
            trace.asked,
            trace.unique
        );
        println!("size    lru   fifo s3fifo  sieve tinylfu   ours  bound   part");
        for size in &args.sizes {
            let row = Row::of(&trace, (trace.unique * size / 100).max(1));
            let [fifo, s3, sieve, lfu] = row.others;
            println!(
                "{size:3}%  {:.4} {fifo:.4} {s3:.4} {sieve:.4}  {lfu:.4} {:.4} {:.4} {:6.3}",
                row.lru,
                row.ours,
                row.bound,
                row.part()
            );
            let part_min = args.part_min.filter(|_| place == 0);
            let part_min = part_min.filter(|_| args.part_at.contains(size));
            if part_min.is_some_and(|least| row.part() < least) {
                missed.push(format!("{name} at {size} %: {:.3} of the way", row.part()));
            }
            if args.never_below_lru && row.ours < row.lru {
                let under = row.lru - row.ours;
                missed.push(format!("{name} at {size} %: {under:.4} below lru"));
            }
        }
    }
    ensure!(missed.is_empty(), "missed: {}", missed.join("; "));
    Ok(())
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}
