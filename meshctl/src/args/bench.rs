//! Flags of `meshctl bench`.

use std::path::PathBuf;

use clap::ValueEnum;
use kvmesh_directory::namespace::AckLevel;

use crate::{bench::target::Peer, sizes::Size};

pub(super) const ABOUT: &str = "\
Put load on a mesh and measure it: closed loop (each connection makes one call after the other),
or open loop with --rate (calls begin when they are due, and late ones count as slow).

Without --gateway it starts a region of its own in this process and ends it. Every
byte that is read is verified by checksum, by peers' clients as well. With --against the same
work is done in turn by ours and by each peer, round after round; ratios are medians over rounds.";

pub(super) const EXAMPLES: &str = "\
Examples:
  meshctl bench --gateway 127.0.0.1:7400 --bytes 2MiB --connections 8
  meshctl bench --work lookup --batch 1024 --connections 1
  meshctl bench --work put --bytes 2MiB --ack memory --against redis://127.0.0.1:6379
  meshctl bench --local --against redis://127.0.0.1:6379
  meshctl bench --local --work put --ack memory --against nodes
  meshctl bench --tls --against tls
  meshctl bench --scale-up --cpu-ratio-max 1.15
  meshctl bench --fill 4GiB --bytes 1MiB --ack memory --resident-ratio-max 1.05
  meshctl bench --connections 1 --against tcp --min-ratio 0.85 -o json";

/// What each call does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Work {
    /// Reads blocks that are there.
    Get,
    /// Writes blocks under new names.
    Put,
    /// Asks how much of a chain that is there is there.
    Lookup,
}

/// How sure a put is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Ack {
    /// One node has it.
    Memory,
    /// As many nodes as the namespace wants.
    Replicated,
    /// On disk on all of them.
    Durable,
}

impl From<Ack> for AckLevel {
    fn from(ack: Ack) -> Self {
        match ack {
            Ack::Memory => Self::Memory,
            Ack::Replicated => Self::Replicated,
            Ack::Durable => Self::Durable,
        }
    }
}

/// Flags of a benchmark.
#[derive(Debug, Clone, clap::Args)]
pub struct BenchArgs {
    /// What each call does.
    #[arg(long, value_enum, default_value = "get")]
    pub work: Work,
    /// Of 100 calls so many put instead, under new names.
    #[arg(long, default_value_t = 0, value_name = "PERCENT", value_parser = clap::value_parser!(u32).range(0..=100))]
    pub puts: u32,
    /// Bytes of a block; of one that is only looked up 4 KiB at most.
    #[arg(long, default_value = "2MiB", value_name = "SIZE")]
    pub bytes: Size,
    /// Blocks of a call; a chain is as long.
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub batch: u32,
    /// Connections, each with one call under way at most.
    #[arg(long, default_value_t = 8, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_024))]
    pub connections: u32,
    /// Calls that begin in a second, all connections together [default: as soon as one ends]
    #[arg(long, value_name = "CALLS", value_parser = rate)]
    pub rate: Option<f64>,
    /// Bytes of the blocks that are there to be read.
    #[arg(long, default_value = "256MiB", value_name = "SIZE")]
    pub working_set: Size,
    /// Seconds of a round.
    #[arg(long, default_value_t = 3.0, value_name = "S", value_parser = seconds)]
    pub seconds: f64,
    /// Seconds before the first round that do not count.
    #[arg(long, default_value_t = 1.0, value_name = "S", value_parser = seconds)]
    pub warm_up: f64,
    /// Rounds of each.
    #[arg(long, default_value_t = 5, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub rounds: u32,
    /// When a put is acknowledged.
    #[arg(long, value_enum, default_value = "replicated")]
    pub ack: Ack,
    /// Who does the same in turn: redis://HOST:PORT, memcached://HOST:PORT, etcd://HOST:PORT,
    /// `tcp` (a bare copy in this process), `tls` (the same over TLS, with --tls), `gateway`
    /// (the same mesh, all blocks through its gateway), `nodes` (the same mesh, all blocks
    /// straight to and from nodes over gRPC, for --local)
    #[arg(long, value_name = "PEER")]
    pub against: Vec<Peer>,
    /// Fail unless ours reaches this part of each peer's throughput.
    #[arg(long, value_name = "R")]
    pub min_ratio: Option<f64>,
    /// Fail unless half of our calls take no longer.
    #[arg(long, value_name = "US")]
    pub p50_max_us: Option<f64>,
    /// Send and get all blocks through the gateway, as a client does that does not reach nodes.
    #[arg(long)]
    pub through_gateway: bool,
    /// The gateway of the region of its own reads blocks where its nodes keep them, as one does
    /// whose `local_sockets` names those of nodes on its host.
    #[arg(long)]
    pub gateway_maps: bool,
    /// Read blocks where a node on this host keeps them, and put them through memory that it
    /// shares: its socket, or a folder of sockets [default: of the region of its own]
    #[arg(long, value_name = "PATH", num_args = 0..=1)]
    pub local: Option<Option<PathBuf>>,
    /// Mutual TLS on all links of the region of its own, with certificates made for this run.
    #[arg(long)]
    pub tls: bool,
    /// Instead of comparing peers: the processor time that a region in a process of its own
    /// takes for each GB with two threads, beside that with one.
    #[arg(long, conflicts_with_all = ["against", "local", "tls", "fill"])]
    pub scale_up: bool,
    /// With --scale-up: fail if two threads take more than this part of one's.
    #[arg(long, value_name = "R", requires = "scale_up")]
    pub cpu_ratio_max: Option<f64>,
    /// Instead of comparing peers: put blocks into a region in a process of its own until its
    /// memory of this size is full, and say what is resident of it.
    #[arg(long, value_name = "SIZE", conflicts_with_all = ["against", "local", "tls"])]
    pub fill: Option<Size>,
    /// With --fill: fail if more than this part of what is held is resident.
    #[arg(long, value_name = "R", requires = "fill")]
    pub resident_ratio_max: Option<f64>,
    /// Nodes of the region of its own.
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=5))]
    pub nodes: u8,
}

fn rate(text: &str) -> Result<f64, String> {
    within(text, 0.01, 1e7)
}

fn seconds(text: &str) -> Result<f64, String> {
    within(text, 0.0, 3_600.0)
}

fn within(text: &str, least: f64, most: f64) -> Result<f64, String> {
    let value: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    match (least..=most).contains(&value) {
        true => Ok(value),
        false => Err(format!("{least} to {most} is possible")),
    }
}
