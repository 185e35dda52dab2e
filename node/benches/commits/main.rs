//! How many block descriptors a region of three nodes commits in a second, every entry flushed
//! to disk on a quorum, and how many puts etcd does on the same disk.
//!
//! `cargo bench -p kvmesh-node --bench commits -- [--open N] [--descriptors N] [--etcd]
//! [--etcd-ratio-min R]`: descriptors are submitted one by one, `--open` at a time, at the
//! leader and at a follower. With `--etcd` three members of etcd are started and put 200 bytes
//! a key, as many at a time, over eight connections. Exits 1 when the leader's rate is less
//! than `--etcd-ratio-min` times etcd's, or etcd is not installed and is to be compared with.
#![allow(missing_docs, reason = "a benchmark has no interface")]

mod etcd;
mod region;
#[path = "../../../directory/benches/entries/rows.rs"]
#[allow(dead_code, reason = "each bench needs a part of it")]
mod rows;

use std::process::ExitCode;

use clap::Parser;

use self::region::Region;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[derive(Debug, Parser)]
struct Args {
    /// Descriptors, or puts, on their way at a time.
    #[arg(long, default_value_t = 512)]
    open: usize,
    /// Descriptors that are committed at the leader, and as many at a follower.
    #[arg(long, default_value_t = 1_000_000)]
    descriptors: u64,
    /// Also measure etcd.
    #[arg(long)]
    etcd: bool,
    /// Puts into etcd.
    #[arg(long, default_value_t = 60_000)]
    puts: u64,
    /// Fail when the leader's rate is less than so many times that of etcd.
    #[arg(long, requires = "etcd")]
    etcd_ratio_min: Option<f64>,
    /// Given by `cargo bench`.
    #[arg(long, hide = true)]
    bench: bool,
}

#[tokio::main(worker_threads = 2)]
async fn main() -> ExitCode {
    let args = Args::parse();
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder below the target");
    let region = Region::start(dir.path()).await;
    let leader = region.leader().await;
    let mut rates = Vec::new();
    for (who, at) in [
        ("leader", leader),
        ("follower", (leader + 1) % region::NODES),
    ] {
        let done = region.commit(at, args.descriptors, args.open).await;
        println!(
            "{who:>8}: {:>8.0} descriptors/s in {} entries, p50 {:.1} ms, p99 {:.1} ms",
            done.rate, done.entries, done.p50_ms, done.p99_ms,
        );
        rates.push(done.rate);
    }
    region.stop().await;
    if !args.etcd {
        return ExitCode::SUCCESS;
    }
    let puts = match etcd::measure(dir.path(), args.puts, args.open).await {
        Ok(puts) => puts,
        Err(error) => {
            eprintln!("etcd was not measured: {error}");
            return ExitCode::FAILURE;
        }
    };
    let ratio = rates[0] / puts;
    println!("    etcd: {puts:>8.0} puts/s; the leader's rate is {ratio:.1} times that");
    match args.etcd_ratio_min.is_none_or(|min| ratio >= min) {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}
