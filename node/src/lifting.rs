//! Tends the memory of a node's device in the background, and reports what had to go for it.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use crate::node::Node;

/// Runs until `stop`.
pub(crate) async fn run(node: Arc<Node>, stop: CancellationToken) {
    while !stop.is_cancelled() {
        // What cannot be reported now stays a little longer.
        let lifted = match node.reports.is_full() {
            true => None,
            false => node.store.lift().await,
        };
        let Some(lifted) = lifted else {
            tokio::select! {
                () = node.store.gpu_wished() => {}
                () = stop.cancelled() => {}
            }
            continue;
        };
        let evicted = lifted.evicted.len() as u64;
        node.metrics.gpu.evictions.increment(evicted);
        node.reports.evicted(&lifted.evicted);
        for key in lifted.lost {
            node.stale_claim(key);
        }
    }
}
