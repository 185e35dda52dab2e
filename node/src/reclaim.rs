//! Makes room on a node's disk in the background, and reports what had to go for it.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use crate::{node::Node, store::disk::Reclaimer};

/// Runs until `stop`.
pub(crate) async fn run(node: Arc<Node>, mut reclaimer: Reclaimer, stop: CancellationToken) {
    while !stop.is_cancelled() {
        // What cannot be reported now stays a little longer.
        let gone = match node.reports.is_full() {
            true => None,
            false => node.store.reclaim(&mut reclaimer).await,
        };
        let Some(evicted) = gone else {
            tokio::select! {
                () = reclaimer.crowded() => {}
                () = stop.cancelled() => {}
            }
            continue;
        };
        node.metrics.disk.evictions.increment(evicted.len() as u64);
        node.reports.evicted(&evicted);
    }
    reclaimer.close().await;
}
