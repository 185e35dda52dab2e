//! What a node does once a moment: forgets copies that were never claimed, lets go those past
//! their time, ends leases whose time is up, and shows its state.

use std::sync::Arc;

use tokio::time::{Duration, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::{Settings, aging::Aging, node::Node};

const PERIOD: Duration = Duration::from_millis(100);

/// Runs until `stop`.
pub(crate) async fn run(node: Arc<Node>, stop: CancellationToken) {
    let mut ticks = interval(PERIOD);
    let mut aging = Aging::default();
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = stop.cancelled() => return,
        }
        let ttl = Settings::millis(node.settings.now().provisional_ttl_ms);
        let expired = node.store.expire(ttl).await;
        node.metrics.expired.increment(expired as u64);
        aging.go(&node).await;
        departed(&node);
        show(&node, node.store.expire_leases());
    }
}

/// Tells what disk and device lost.
fn departed(node: &Node) {
    for key in node.store.departed() {
        node.stale_claim(key);
    }
}

#[allow(clippy::cast_precision_loss, reason = "gauges are floats")]
fn show(node: &Node, leases: usize) {
    node.metrics.leases.set(leases as f64);
    if let Some(usage) = node.store.disk_usage() {
        node.metrics.disk.show(&usage);
    }
    if let Some(usage) = node.store.gpu_usage() {
        node.metrics.gpu.show(&usage);
    }
    if let Some(arena) = node.store.arena() {
        arena.tend();
        let space = arena.space();
        node.metrics.local.shared_bytes.set(space.shared as f64);
        node.metrics.memory_mapped.set(space.taken as f64);
        node.metrics.memory_scattered.set(space.scattered as f64);
    }
    // Until this start is committed and applied, the directory still lists what was lost
    // with the start before: its counts would say that all is well.
    let begun = node.incarnation();
    let current = node.directory.with(|state| state.node(node.me).copied());
    if begun.is_none() || current.map(|record| record.incarnation) != begun {
        return;
    }
    let (stats, applied) = node
        .directory
        .with(|state| (state.stats(), state.applied_index()));
    let usage = node.store.usage();
    let metrics = &node.metrics;
    metrics.blocks.set(stats.blocks as f64);
    metrics.under_replicated.set(stats.under_replicated as f64);
    metrics.tombstones.set(stats.tombstones as f64);
    metrics.applied_index.set(applied as f64);
    metrics.memory_used.set(usage.used as f64);
    metrics.memory_max.set(usage.max as f64);
    metrics.copies.set(usage.copies as f64);
    metrics.provisional.set(usage.provisional as f64);
    metrics.leased_copies.set(usage.pinned as f64);
    metrics.leased_bytes.set(usage.pinned_bytes as f64);
}
