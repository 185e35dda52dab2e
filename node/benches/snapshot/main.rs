//! What a snapshot of millions of blocks costs a node: how long one `apply` takes at the worst
//! while it is made, and how long a new follower needs.
//!
//! `cargo bench -p kvmesh-node --bench snapshot -- [--entries N] [--rate R] [--stall-max-ms M]`:
//! hashes of 32 bytes, two holders. Log entries of 256 changes each are applied at a steady
//! rate before and while the directory is frozen, encoded and written, by the code that Raft
//! calls; then a second node takes the snapshot and the log after it. Exits 1 when one `apply`
//! took longer than `--stall-max-ms`, or the follower is not equal. Time in which the applying
//! thread was ready to run and had no core is shown, and not counted: that is the machine's.
#![allow(missing_docs, reason = "a benchmark has no interface")]

#[path = "../../../directory/benches/entries/rows.rs"]
#[allow(dead_code, reason = "each bench needs a part of it")]
mod rows;

use std::{fs, io, path::Path, process::ExitCode, sync::Arc};

use clap::Parser;
use kvmesh_directory::{Command, limits::ENTRY_CHANGES_MAX};
use kvmesh_node::{consensus::trial::Trial, directory::SharedDirectory};
use tokio::{
    task::JoinSet,
    time::{Duration, Instant, sleep_until},
};

use self::rows::Blocks;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[derive(Debug, Parser)]
struct Args {
    /// Blocks in the directory.
    #[arg(long, default_value_t = 10_000_000)]
    entries: u64,
    /// Log entries that are applied each second, of 256 changes each.
    #[arg(long, default_value_t = 100)]
    rate: u64,
    /// Fail when one `apply` takes longer while a snapshot is made.
    #[arg(long)]
    stall_max_ms: Option<f64>,
    /// Given by `cargo bench`.
    #[arg(long, hide = true)]
    bench: bool,
}

/// How long one `apply` took, apart from the time in which its thread had no core, and that.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Took {
    itself: Duration,
    without_core: Duration,
}

impl Took {
    async fn by<T>(work: impl Future<Output = T>) -> (Self, T) {
        let (waited, began) = (without_core(), Instant::now());
        let done = work.await;
        let (all, without_core) = (began.elapsed(), without_core().saturating_sub(waited));
        let itself = all.saturating_sub(without_core);
        let took = Self {
            itself,
            without_core,
        };
        (took, done)
    }
}

#[derive(Default)]
struct Times(Vec<Took>);

impl Times {
    fn at(&self, part: f64) -> Duration {
        let mut times: Vec<Duration> = self.0.iter().map(|took| took.itself).collect();
        times.sort_unstable();
        let at = (times.len() as f64 * part) as usize;
        times[at.min(times.len() - 1)]
    }

    fn show(&self, when: &str) {
        let waits = self.0.iter().map(|took| took.without_core);
        println!(
            "{when:>8}: {} entries applied, p50 {:.2} ms, p99.9 {:.2} ms, worst {:.2} ms; without a core for {:.1} ms at most",
            self.0.len(),
            millis(self.at(0.5)),
            millis(self.at(0.999)),
            millis(self.at(1.0)),
            millis(waits.max().unwrap_or_default()),
        );
    }
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// How long this thread was ready and had no core.
fn without_core() -> Duration {
    let text = fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanos = text.split(' ').nth(1).and_then(|it| it.parse().ok());
    Duration::from_nanos(nanos.unwrap_or_default())
}

fn resident_mib(what: &str) -> u64 {
    let text = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(what));
    let kib = line.and_then(|line| line.trim().split(' ').next()?.parse::<u64>().ok());
    kib.unwrap_or_default() / 1024
}

/// Applies entries at a steady rate; keeps them, as the log does.
struct Load {
    blocks: Blocks,
    period: Duration,
    log: Vec<(u64, Arc<Command>)>,
}

impl Load {
    /// One entry, when its time has come.
    async fn step(&mut self, trial: &mut Trial, next: &mut Instant) -> io::Result<Took> {
        let command = Arc::new(self.blocks.change());
        let index = self.blocks.index();
        self.log.push((index, Arc::clone(&command)));
        sleep_until(*next).await;
        *next += self.period;
        let (took, applied) = Took::by(trial.apply(index, command)).await;
        applied?;
        Ok(took)
    }
}

async fn run(args: Args, dir: &Path) -> io::Result<bool> {
    let (one, two) = (dir.join("1"), dir.join("2"));
    fs::create_dir(&one)?;
    fs::create_dir(&two)?;
    let directory = SharedDirectory::default();
    let mut leader = Trial::open(&one, directory.clone()).await?;
    let mut blocks = Blocks::default();
    let began = Instant::now();
    for (index, command) in blocks.begin() {
        leader.apply(index, Arc::new(command)).await?;
    }
    while blocks.claimed() < args.entries {
        let left = args.entries - blocks.claimed();
        let command = blocks.claim(left.min(ENTRY_CHANGES_MAX as u64));
        leader.apply(blocks.index(), Arc::new(command)).await?;
    }
    let held = directory.with(|state| state.stats().blocks);
    println!(
        "{held} blocks in {:.1} s, {} MiB resident",
        began.elapsed().as_secs_f64(),
        resident_mib("VmRSS:")
    );

    let mut load = Load {
        blocks,
        period: Duration::from_secs(1) / args.rate.max(1) as u32,
        log: Vec::new(),
    };
    let (mut before, mut during, mut after) =
        (Times::default(), Times::default(), Times::default());
    let mut next = Instant::now();
    let seconds = |seconds: u64| seconds * args.rate;
    for _ in 0..seconds(5) {
        before.0.push(load.step(&mut leader, &mut next).await?);
    }
    let frozen_at = load.log.len();
    let began = Instant::now();
    let (took, frozen) = Took::by(leader.freeze()).await;
    during.0.push(took);
    let mut building = JoinSet::new();
    building.spawn(frozen.build());
    let built = loop {
        during.0.push(load.step(&mut leader, &mut next).await?);
        if let Some(built) = building.try_join_next() {
            break built;
        }
    };
    built.map_err(io::Error::other)??;
    let took = began.elapsed();
    for _ in 0..seconds(2) {
        after.0.push(load.step(&mut leader, &mut next).await?);
    }
    before.show("before");
    during.show("during");
    after.show("after");
    let bytes = leader.snapshot_bytes().await?;
    println!(
        "snapshot: {} MiB, {:.0} bytes a block, made in {:.1} s; {} MiB resident at most",
        bytes >> 20,
        bytes as f64 / held as f64,
        took.as_secs_f64(),
        resident_mib("VmHWM:"),
    );

    let copy = SharedDirectory::default();
    let mut follower = Trial::open(&two, copy.clone()).await?;
    let began = Instant::now();
    let received = follower.receive(&leader).await?;
    let came = received.took;
    follower.install(received).await?;
    let installed = began.elapsed();
    for (index, command) in load.log.drain(frozen_at..) {
        follower.apply(index, command).await?;
    }
    println!(
        "follower: {:.1} s to get it, {:.1} s to install it, {:.2} s for the log after it, {:.1} s together",
        came.as_secs_f64(),
        (installed - came).as_secs_f64(),
        (began.elapsed() - installed).as_secs_f64(),
        began.elapsed().as_secs_f64(),
    );
    let equal = directory.with(|state| copy.with(|other| other == state));
    println!(
        "the follower's directory is {}",
        if equal { "equal" } else { "NOT EQUAL" }
    );
    let worst = millis(during.at(1.0).max(after.at(1.0)));
    Ok(equal && args.stall_max_ms.is_none_or(|max| worst <= max))
}

#[tokio::main(worker_threads = 2)]
async fn main() -> ExitCode {
    let args = Args::parse();
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder below the target");
    // Not in `main`: apply runs on a worker, as in a node.
    let mut run_on = JoinSet::new();
    let path = dir.path().to_owned();
    run_on.spawn(async move { run(args, &path).await });
    match run_on.join_next().await.expect("it was spawned") {
        Ok(Ok(true)) => ExitCode::SUCCESS,
        Ok(Ok(false)) => ExitCode::FAILURE,
        error => {
            eprintln!("{error:?}");
            ExitCode::FAILURE
        }
    }
}
