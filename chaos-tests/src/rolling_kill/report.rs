//! What a rolling kill came to.

use serde_json::{Value, json};

/// One node killed and started again.
#[derive(Debug, Clone, Copy)]
pub struct Kill {
    /// Which node.
    pub node: u64,
    /// From the kill until it was started again.
    pub down_seconds: f64,
    /// From the start until nothing lacked a copy.
    pub whole_seconds: f64,
}

/// What was done, every promise kept.
#[derive(Debug, Clone)]
pub struct Report {
    /// Acknowledged before the first kill.
    pub blocks_before: u64,
    /// Acknowledged from the first kill on.
    pub blocks_during: u64,
    /// Of one block.
    pub block_bytes: usize,
    /// Reads of whole chains from the first kill on.
    pub reads_during: u64,
    /// Reads that were made again inside of their deadline.
    pub retries: u64,
    /// Why, the first ones.
    pub retry_reasons: Vec<String>,
    /// In order.
    pub kills: Vec<Kill>,
    /// Regions in which every acknowledged block was found with its bytes.
    pub regions_verified: usize,
    /// In all.
    pub seconds: f64,
}

impl Report {
    /// As JSON.
    #[must_use]
    pub fn json(&self) -> Value {
        let kills = self.kills.iter().map(|kill| {
            json!({
                "node": kill.node,
                "down_seconds": kill.down_seconds,
                "whole_seconds": kill.whole_seconds,
            })
        });
        json!({
            "blocks_before": self.blocks_before,
            "blocks_during": self.blocks_during,
            "block_bytes": self.block_bytes,
            "reads_during": self.reads_during,
            "retries": self.retries,
            "retry_reasons": self.retry_reasons,
            "kills": kills.collect::<Vec<_>>(),
            "regions_verified": self.regions_verified,
            "seconds": self.seconds,
        })
    }
}
