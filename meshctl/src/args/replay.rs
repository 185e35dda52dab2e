//! Flags of `meshctl replay`.

use std::path::PathBuf;

use clap::ValueEnum;

use super::dev::MeshArgs;
use crate::sizes::Size;

/// How soon the next request follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Pace {
    /// When every gateway's views show what the last request did; counts can be foretold.
    Settled,
    /// As soon as one of --clients is free; counts depend on how fast views follow.
    Fast,
    /// When the trace says, --speed times as fast; one that finds no client free waits, and
    /// the report says how late requests began.
    Trace,
}

pub(super) const ABOUT: &str = "\
Send the requests of a block-hash trace through real gateways over gRPC. Each looks its chain up
in its region, gets what is there, and puts the rest; every byte is verified.

A trace has one JSON object a line, with `hash_ids` (ids that name a prefix) and, if it has
sessions, `session_id`; for the pace `trace` also `rel_ms` (since the session began; all begin
together) or `timestamp` (ms). An id becomes a hash by BLAKE3 over its text; a block's bytes are
BLAKE3's output stream over its hash. A request's home region is a hash of its session
(without one: of the first block that at most one request in twenty shares); it goes there
with probability --sticky, else to another region.

Without --gateway it starts a mesh of its own, large enough to evict nothing, and ends it.
In settled pace requests go one after the other, and it exits 1 when hits are not exactly what
the assignment implies. In every pace the report says what a mesh would have served and fetched that
knows at once what each region has.";

pub(super) const EXAMPLES: &str = "\
Examples:
  meshctl replay trace.jsonl --requests 2000 --pace settled --link-scale 0 -o json
  meshctl replay trace.jsonl --pace fast --clients 32
  meshctl replay trace.jsonl --pace trace --speed 10
  meshctl replay trace.jsonl --regions 5 --pace trace --speed 10 --remote-hits-min 0.98";

/// Flags of a replay.
#[derive(Debug, Clone, clap::Args)]
pub struct ReplayArgs {
    /// Trace: JSON lines with `hash_ids`.
    pub trace: PathBuf,
    /// Probability that a request goes to its home region.
    #[arg(long, default_value_t = 0.9, value_name = "P", value_parser = probability)]
    pub sticky: f64,
    /// Bytes of every block.
    #[arg(long, default_value = "16KiB", value_name = "SIZE")]
    pub bytes_per_block: Size,
    /// Requests from the start of the trace; 0 means all.
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub requests: usize,
    /// Decides which requests leave their home region.
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub seed: u64,
    /// How soon the next request follows.
    #[arg(long, value_enum, default_value = "settled")]
    pub pace: Pace,
    /// Requests under way at most, in the paces `fast` and `trace`.
    #[arg(long, default_value_t = 16, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=4_096))]
    pub clients: u16,
    /// How much faster than the trace, in the pace `trace`.
    #[arg(long, default_value_t = 1.0, value_name = "X", value_parser = speed)]
    pub speed: f64,
    /// Fail unless so many blocks are hits, local and remote together.
    #[arg(long, value_name = "N")]
    pub expect_hits: Option<u64>,
    /// Fail unless so large a share is served of the blocks that only other regions have, as a mesh
    /// would that knows everything at once.
    #[arg(long, value_name = "SHARE", value_parser = probability)]
    pub remote_hits_min: Option<f64>,
    /// Fail if gateways fetch more than so many times the bytes from other regions that such a
    /// mesh would; only without --gateway.
    #[arg(long, value_name = "TIMES")]
    pub wan_bytes_max: Option<f64>,
    /// Write each request's region here, one JSON object a line.
    #[arg(long, value_name = "FILE")]
    pub assignment_out: Option<PathBuf>,
    /// The mesh to start when no gateway is named.
    #[command(flatten)]
    pub mesh: MeshArgs,
}

fn speed(text: &str) -> Result<f64, String> {
    let value: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    if (0.001..=1e6).contains(&value) {
        Ok(value)
    } else {
        Err("0.001 to 1000000 is possible".to_owned())
    }
}

fn probability(text: &str) -> Result<f64, String> {
    let value: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    if (0.0..=1.0).contains(&value) {
        Ok(value)
    } else {
        Err("0 to 1 is possible".to_owned())
    }
}
