//! What the changes of a region came to.

use serde_json::{Value, json};

/// One thing that was done to the region, and what went on meanwhile.
#[derive(Debug, Clone)]
pub struct Phase {
    /// What was done.
    pub what: String,
    /// Until the region was whole again.
    pub seconds: f64,
    /// Chains that were put and acknowledged meanwhile.
    pub puts: u64,
    /// Chains that were read and verified meanwhile.
    pub reads: u64,
    /// Chains that were looked up meanwhile.
    pub lookups: u64,
    /// The longest of these calls, retries included.
    pub slowest_ms: u64,
}

/// What was done, every promise kept.
#[derive(Debug, Clone)]
pub struct Report {
    /// Members that vote.
    pub voters: u64,
    /// Acknowledged before the first change.
    pub blocks_before: u64,
    /// Acknowledged from the first change on.
    pub blocks_during: u64,
    /// Of one block.
    pub block_bytes: usize,
    /// In order.
    pub phases: Vec<Phase>,
    /// Reads and lookups that were made again inside of their deadline.
    pub retries: u64,
    /// Why, the first ones.
    pub retry_reasons: Vec<String>,
    /// Calls that failed though they were made again until their deadline. Always 0: a run
    /// with any has no report.
    pub failures: u64,
    /// Blocks that were found with their bytes at the end, through each gateway.
    pub blocks_verified: u64,
    /// In all.
    pub seconds: f64,
}

impl Report {
    /// As JSON.
    #[must_use]
    pub fn json(&self) -> Value {
        let phases = self.phases.iter().map(|phase| {
            json!({
                "what": phase.what,
                "seconds": phase.seconds,
                "puts": phase.puts,
                "reads": phase.reads,
                "lookups": phase.lookups,
                "slowest_ms": phase.slowest_ms,
            })
        });
        json!({
            "voters": self.voters,
            "blocks_before": self.blocks_before,
            "blocks_during": self.blocks_during,
            "block_bytes": self.block_bytes,
            "phases": phases.collect::<Vec<_>>(),
            "retries": self.retries,
            "retry_reasons": self.retry_reasons,
            "failures": self.failures,
            "blocks_verified": self.blocks_verified,
            "seconds": self.seconds,
        })
    }

    /// For people, a line for each phase.
    #[must_use]
    pub fn text(&self) -> String {
        let phases = self.phases.iter().map(|phase| {
            format!(
                "{:7.1} s  {}: {} puts, {} reads, {} lookups, the slowest {} ms\n",
                phase.seconds, phase.what, phase.puts, phase.reads, phase.lookups, phase.slowest_ms
            )
        });
        format!(
            "{}{:7.1} s  in all: {} + {} blocks of {} bytes, {} verified through each gateway, \
             {} calls made again, 0 failed",
            phases.collect::<String>(),
            self.seconds,
            self.blocks_before,
            self.blocks_during,
            self.block_bytes,
            self.blocks_verified,
            self.retries
        )
    }
}
