//! Whether fetching from another region is decided well.
//!
//! `cargo bench -p kvmesh-directory --bench decision -- [--data FOLDER] [--seeds N]
//! [--sticky P] [--bytes-part R] [--noise X] [--warm N] [--oracle-max R] [--never-max R]`: replays two
//! real traces over ten regions in simulated time, with round trips and bandwidths that were
//! measured between them and noise as large as their sources differ, for four models. Compared
//! is the total time to the first token of all requests of which another region has a longer
//! run: by the product's model (`directory/src/cost.rs`), by always fetching, by never fetching,
//! and by an oracle that knows how each transfer will end. Exits 1 when ours is over
//! `--oracle-max` of the oracle anywhere, or over `--never-max` of never fetching in total of
//! any trace, cloud and model, or on any link of them.
//!
//! Where users are no trace says: a conversation's home is drawn, and a request stays there with
//! probability `--sticky`. Transfers do not share a link; that is part of its noise.
#![allow(missing_docs, reason = "a benchmark has no interface")]

mod data;
mod play;
mod world;

use std::{collections::BTreeMap, path::PathBuf, process::ExitCode};

use anyhow::ensure;
use clap::Parser;

use self::{
    data::{Model, Network, Trace},
    play::{Engines, Player, Times},
};

const TRACES: [(&str, u32); 2] = [
    ("mooncake_conversation.jsonl", 512),
    ("agent_blocks16.jsonl", 16),
];
const CLOUDS: [&str; 2] = ["aws", "azure"];

#[derive(Debug, Parser)]
struct Args {
    /// Where the public data lies.
    #[arg(long, default_value = "../../shared/data")]
    data: PathBuf,
    /// Assignments of conversations to regions, and courses of the noise.
    #[arg(long, default_value_t = 20)]
    seeds: u64,
    /// Part of the requests that come to their home.
    #[arg(long, default_value_t = 0.9)]
    sticky: f64,
    /// Bytes on the link, of those of bf16.
    #[arg(long, default_value_t = 1.0)]
    bytes_part: f64,
    /// Noise, in what the sources differ by.
    #[arg(long, default_value_t = 1.0)]
    noise: f64,
    /// Transfers of 64 MiB that each link had carried before.
    #[arg(long, default_value_t = 0)]
    warm: usize,
    /// Ours over the oracle.
    #[arg(long, default_value_t = 1.05)]
    oracle_max: f64,
    /// Ours over never fetching.
    #[arg(long, default_value_t = 1.01)]
    never_max: f64,
    /// Given by `cargo bench`.
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Default)]
struct Sums {
    all: Times,
    links: BTreeMap<(usize, usize), Times>,
    requests: usize,
}

impl Sums {
    fn add(&mut self, link: (usize, usize), times: Times) {
        self.requests += 1;
        for sum in [&mut self.all, self.links.entry(link).or_default()] {
            sum.never += times.never;
            sum.always += times.always;
            sum.ours += times.ours;
            sum.oracle += times.oracle;
        }
    }

    /// The link on which ours does worst against never fetching.
    fn worst(&self) -> ((usize, usize), f64) {
        let links = self.links.iter();
        let ratios = links.map(|(link, sum)| (*link, sum.ours / sum.never));
        let worst = ratios.max_by(|(_, a), (_, b)| a.total_cmp(b));
        worst.unwrap_or_default()
    }
}

fn replay(args: &Args, trace: &Trace, network: &Network, model: &Model, engines: Engines) -> Sums {
    let mut sums = Sums::default();
    for seed in 0..args.seeds {
        let (tokens, part) = (trace.block_tokens, args.bytes_part);
        let mut player = Player::new(network, model, tokens, part, args.noise, engines);
        for (link, truth) in world::warm(network, args.warm, args.noise, seed) {
            player.warm(link, truth);
        }
        for hit in world::hits(trace, network, args.sticky, args.noise, seed) {
            sums.add(hit.link, player.play(&hit));
        }
    }
    sums
}

fn run(args: &Args) -> anyhow::Result<()> {
    let network = args.data.join("network");
    let networks = CLOUDS.map(|cloud| Network::read(&network, cloud));
    let models = data::models(&args.data.join("geometry"))?;
    let traces =
        TRACES.map(|(name, tokens)| Trace::read(&args.data.join("traces").join(name), tokens));
    let networks: Vec<Network> = networks.into_iter().collect::<Result<_, _>>()?;
    let traces: Vec<Trace> = traces.into_iter().collect::<Result<_, _>>()?;
    println!(
        "noise of a bandwidth {:.3}, of a round trip {:.3} (standard deviation of the logarithm, \
         as sources differ) x {}; {} seeds, {} sticky, \
         {} transfers before",
        networks[0].bandwidth_sigma,
        networks[0].rtt_sigma,
        args.noise,
        args.seeds,
        args.sticky,
        args.warm
    );
    println!(
        "seconds to the first token, of requests of which another region has more than this one"
    );
    println!(
        "{:<22} {:<5} {:<15} {:<6} {:>6} {:>9} {:>9} {:>9} {:>9} {:>7} {:>7}  worst link against never",
        "trace",
        "cloud",
        "model",
        "engine",
        "hits",
        "never",
        "always",
        "oracle",
        "ours",
        "/oracle",
        "/never"
    );
    let mut missed = Vec::new();
    for trace in &traces {
        for network in &networks {
            for model in &models {
                for engines in [Engines::EitherWay, Engines::BothWays] {
                    let sums = replay(args, trace, network, model, engines);
                    missed.extend(show(args, trace, network, model, engines, &sums));
                }
            }
        }
    }
    ensure!(missed.is_empty(), "missed: {}", missed.join("; "));
    Ok(())
}

/// Prints one row; says what it misses.
fn show(
    args: &Args,
    trace: &Trace,
    network: &Network,
    model: &Model,
    engines: Engines,
    sums: &Sums,
) -> Vec<String> {
    let engine = match engines {
        Engines::EitherWay => "either",
        Engines::BothWays => "both",
    };
    let all = &sums.all;
    let (of_oracle, of_never) = (all.ours / all.oracle, all.ours / all.never);
    let ((from, to), worst) = sums.worst();
    let link = format!("{} < {}", network.names[from], network.names[to]);
    println!(
        "{:<22} {:<5} {:<15} {engine:<6} {:>6} {:>9.1} {:>9.1} {:>9.1} {:>9.1} {of_oracle:>7.4} {of_never:>7.4}  {worst:.4} {link}",
        trace.name,
        network.cloud,
        model.name,
        sums.requests,
        all.never,
        all.always,
        all.oracle,
        all.ours
    );
    let row = format!("{} {} {} {engine}", trace.name, network.cloud, model.name);
    let mut missed = Vec::new();
    if of_oracle.is_nan() || of_oracle > args.oracle_max {
        missed.push(format!("{row}: {of_oracle:.4} of the oracle"));
    }
    if of_never > args.never_max {
        missed.push(format!("{row}: {of_never:.4} of never fetching"));
    }
    if worst > args.never_max {
        missed.push(format!("{row}: {worst:.4} of never fetching on {link}"));
    }
    missed
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
