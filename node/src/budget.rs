//! The budgets of a node, as its settings say, also when these change while it runs.
//!
//! Memory for blocks shrinks in steps: what goes is evicted as ever, and told to the directory;
//! what is leased or not claimed yet goes when it can.

use std::sync::Arc;

use kvmesh_process::settings::Live;
use tokio::time::{Duration, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::{Settings, node::Node, store::memory_for_blocks};

/// Between two steps.
const PERIOD: Duration = Duration::from_millis(100);
/// Copies that go in one step.
const STEP_COPIES: usize = 4_096;

/// Memory for blocks.
pub(crate) fn memory_bytes(settings: &Settings) -> u64 {
    match settings.memory_bytes {
        0 => memory_for_blocks(),
        bytes => bytes,
    }
}

/// Blocks that are on their way into memory: puts, and as much again of copies.
pub(crate) fn inflight_bytes(settings: &Settings) -> u64 {
    match settings.inflight_bytes_max {
        0 => memory_bytes(settings) / 10,
        bytes => bytes,
    }
}

/// Follows the settings until `stop`.
pub(crate) async fn run(node: Arc<Node>, stop: CancellationToken) {
    let following = follow(&node, node.settings.clone());
    stop.run_until_cancelled(following).await;
}

async fn follow(node: &Node, mut settings: Live<Settings>) {
    let mut steps = interval(PERIOD);
    steps.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        settings.changed().await;
        // Waits for calls that are under way; their deadlines bound it.
        let inflight = inflight_bytes(&settings.now());
        node.put_gate.resize(inflight).await;
        node.copy_gate.resize(inflight).await;
        let before = node.store.usage().max;
        while !fitted(node, memory_bytes(&settings.now())).await {
            steps.tick().await;
        }
        let after = node.store.usage().max;
        if before != after {
            info!(before, after, "memory for blocks has changed");
        }
    }
}

/// One step. Whether the memory for blocks is as it should be.
async fn fitted(node: &Node, memory_bytes: u64) -> bool {
    // What cannot be reported now stays a little longer.
    if node.reports.is_full() {
        return false;
    }
    let evicted = node.store.resize(memory_bytes, STEP_COPIES).await;
    node.metrics.evictions.increment(evicted.len() as u64);
    node.reports.evicted(&evicted);
    node.store.usage().max == memory_bytes
}
