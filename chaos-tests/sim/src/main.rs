//! `kvmesh-sim`: runs seeds of the simulation. Exits 0 exactly when no run had a bug.

use std::{process::ExitCode, thread};

use clap::{Parser, ValueEnum};
use kvmesh_sim::{Args, Bug, Summary, Sweep, mutations_table, run, run_again, table};
use tracing_subscriber::EnvFilter;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("off"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .without_time()
        .init();
    let args = Args::parse();
    let went_well = match args.seeds.clone() {
        None => one(&args),
        Some(seeds) if args.mutations => mutations(&args, &seeds),
        Some(seeds) => many(&args, seeds),
    };
    match went_well {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}

fn one(args: &Args) -> bool {
    let outcome = run(&args.order());
    for line in &outcome.lines {
        println!("{line}");
    }
    let mut summary = Summary::from(&outcome);
    if args.repeat {
        summary.bugs.extend(run_again(&args.order(), &outcome));
    }
    print!("{summary}");
    if !args.brief {
        let (segments, bytes) = outcome.wire;
        println!("{segments} segments of {bytes} bytes on the wire");
        for (fault, met) in &outcome.faults {
            println!(
                "{} of {} from {} to {} ms: met {met}",
                fault.kind, fault.host, fault.from_ms, fault.until_ms
            );
        }
        println!("reproduce with: kvmesh-sim --seed {} --log", args.seed);
    }
    summary.bugs.is_empty()
}

fn many(args: &Args, seeds: std::ops::Range<u64>) -> bool {
    let began = uptime_s();
    let told = |summary: &Summary| {
        let seed = summary.seed;
        for bug in &summary.bugs {
            eprintln!("seed {seed}: {bug}");
        }
    };
    match sweep(args, seeds).run(told) {
        Ok(summaries) => {
            print!("{}", table(&summaries, uptime_s() - began));
            summaries.iter().all(|summary| summary.bugs.is_empty())
        }
        Err(error) => {
            eprintln!("the seeds could not be run: {error}");
            false
        }
    }
}

/// Whether every known bug was found by at least one seed.
fn mutations(args: &Args, seeds: &std::ops::Range<u64>) -> bool {
    let mut found = Vec::new();
    for bug in Bug::value_variants() {
        let with = Args {
            mutation: Some(*bug),
            ..args.clone()
        };
        match sweep(&with, seeds.clone()).run(|_| {}) {
            Ok(summaries) => found.push((format!("{bug:?}"), summaries)),
            Err(error) => {
                eprintln!("the seeds could not be run: {error}");
                return false;
            }
        }
    }
    println!("{}", mutations_table(&found));
    let by_any = |summaries: &[Summary]| summaries.iter().any(|of| !of.bugs.is_empty());
    found.iter().all(|(_, summaries)| by_any(summaries))
}

fn sweep(args: &Args, seeds: std::ops::Range<u64>) -> Sweep {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    Sweep {
        seeds,
        jobs: args.jobs.unwrap_or(cores),
        arguments: args.passed_on(),
        repeat: args.repeat,
    }
}

/// How long the machine is up. std's clocks are the simulation's in this program, and stand
/// still outside of it.
fn uptime_s() -> f64 {
    let text = std::fs::read_to_string("/proc/uptime").unwrap_or_default();
    let first = text.split(' ').next().and_then(|first| first.parse().ok());
    first.unwrap_or(f64::NAN)
}
