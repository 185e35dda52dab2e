//! Makes the copies that are missing: those that were lost with their node, and those that
//! a put at `MEMORY` left to be made.
//!
//! Of the living holders of a block, the one that comes first in its preference list
//! repairs it, so that no two do. A copy that is wanted and has no node to go to waits.

use std::sync::Arc;

use kvmesh_directory::{BlockName, NodeId};
use tokio::time::{Duration, Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use crate::{
    copying::{self, Group, Plan},
    node::Node,
};

/// Names that are looked at before the directory is asked for more.
const BATCH: usize = 512;
/// Without changes everything is looked at so often: nodes may have become reachable.
const PERIOD: Duration = Duration::from_secs(1);
/// Between two walks, at least, and at least so many times as long as the last one took.
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_FACTOR: u32 = 4;

/// Repairs until `stop`.
pub(crate) async fn run(node: Arc<Node>, stop: CancellationToken) {
    let mut applied = node.directory.applied();
    while !stop.is_cancelled() {
        applied.mark_unchanged();
        let began = Instant::now();
        tokio::select! {
            () = walk(&node) => {}
            () = stop.cancelled() => return,
        }
        let pause = PAUSE_MIN.max(began.elapsed() * PAUSE_FACTOR).min(PERIOD);
        let rest = async {
            sleep_until(Instant::now() + pause).await;
            let _ = timeout(PERIOD, applied.changed()).await;
        };
        tokio::select! {
            () = rest => {}
            () = stop.cancelled() => return,
        }
    }
}

/// Looks at every block that lacks copies once.
async fn walk(node: &Arc<Node>) {
    let alone = node.directory.with(|state| {
        !state
            .nodes()
            .any(|other| other.node != node.me && other.alive)
    });
    if alone {
        return;
    }
    let mut after = None;
    loop {
        let names: Vec<BlockName> = node.directory.with(|state| {
            let lacking = state.under_replicated(after.as_ref());
            lacking.take(BATCH).collect()
        });
        let Some(last) = names.last().copied() else {
            return;
        };
        after = Some(last);
        let mut group = Group::default();
        for plan in names.into_iter().filter_map(|name| plan(node, name)) {
            if let Some(full) = group.add(plan) {
                repair(node, full).await;
            }
        }
        repair(node, group).await;
    }
}

/// None: it is another node's turn, or there is no node for a copy.
fn plan(node: &Node, name: BlockName) -> Option<Plan> {
    let (entry, key) = node.listed(&name)?;
    let holders: Vec<NodeId> = entry.holders.iter().map(|copy| copy.node).collect();
    let ring = node.placement.ring();
    let preferred = ring.preference(&name).iter();
    let first = preferred
        .copied()
        .find(|owner| holders.contains(owner) && node.placement.address(*owner).is_some())
        .or_else(|| holders.first().copied());
    let target = node.placement.candidates(&name, &holders);
    (first == Some(node.me) && !target.is_empty()).then(|| Plan {
        key,
        missing: (entry.wanted as usize).saturating_sub(holders.len()),
        except: holders,
        replicas: entry.wanted,
        entry,
    })
}

async fn repair(node: &Arc<Node>, group: Group) {
    let done = copying::make(node, group).await;
    node.metrics.repairs.increment(done.made);
    node.metrics.repair_failures.increment(done.failed);
}
