//! Makes the copies that are missing: those that were lost with their node, and those that
//! a put at `MEMORY` left to be made.
//!
//! Of the living holders of a block, the one that comes first in its preference list
//! repairs it, so that no two do. A copy that is wanted and has no node to go to waits.

use std::sync::{Arc, Mutex, PoisonError};

use futures::{StreamExt, stream};
use kvmesh_client::{Block, BlockMeta};
use kvmesh_directory::{
    BlockName, ChangeKind, ChangeOutcome, NodeId, command::BlockChange, limits::ENTRY_CHANGES_MAX,
    state::Entry,
};
use tokio::time::{Duration, Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::{
    node::Node,
    store::{CopyKey, Lookup},
    write,
};

/// Blocks that are copied at a time.
const PARALLEL: usize = 16;
/// Bytes that are copied before they are claimed.
const GROUP_BYTES_MAX: u64 = 64 << 20;
/// Names that are looked at before the directory is asked for more.
const BATCH: usize = 512;
/// Without changes everything is looked at so often: nodes may have become reachable.
const PERIOD: Duration = Duration::from_secs(1);
/// Between two walks, at least, and at least so many times as long as the last one took.
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_FACTOR: u32 = 4;
/// How long one repair may take.
const REPAIR_TIMEOUT: Duration = Duration::from_secs(30);

/// Repairs until `stop`.
pub(crate) async fn run(node: Arc<Node>, stop: CancellationToken) {
    let mut applied = node.directory.applied();
    let pace = Pace::default();
    while !stop.is_cancelled() {
        applied.mark_unchanged();
        let began = Instant::now();
        tokio::select! {
            () = walk(&node, &pace) => {}
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
async fn walk(node: &Arc<Node>, pace: &Pace) {
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
                repair(node, full, pace).await;
            }
        }
        repair(node, group, pace).await;
    }
}

/// Blocks that are copied together and claimed at once.
#[derive(Default)]
struct Group {
    plans: Vec<Plan>,
    bytes: u64,
}

impl Group {
    /// Takes a plan; the group before it, when that is full.
    fn add(&mut self, plan: Plan) -> Option<Self> {
        let bytes = u64::from(plan.entry.bytes);
        let is_full = self.plans.len() == ENTRY_CHANGES_MAX || self.bytes + bytes > GROUP_BYTES_MAX;
        let full = (is_full && !self.plans.is_empty()).then(|| std::mem::take(self));
        self.bytes += bytes;
        self.plans.push(plan);
        full
    }
}

/// What this node is to do about one block.
struct Plan {
    key: CopyKey,
    entry: Entry,
    holders: Vec<NodeId>,
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
    (first == Some(node.me) && !target.is_empty()).then_some(Plan {
        key,
        entry,
        holders,
    })
}

/// Makes the missing copies of a group's blocks, and claims them.
async fn repair(node: &Arc<Node>, group: Group, pace: &Pace) {
    let copying = stream::iter(group.plans).map(|plan| copy(node, plan, pace));
    let copied: Vec<_> = copying.buffer_unordered(PARALLEL).collect().await;
    let tried = copied.len();
    let changes: Vec<BlockChange> = copied.into_iter().flatten().collect();
    let deadline = Instant::now() + REPAIR_TIMEOUT;
    let made = match changes.is_empty() {
        true => 0,
        false => match node.consensus.submit(changes, deadline).await {
            // What was not accepted was deleted or replaced meanwhile.
            Ok((_, outcomes)) => {
                let accepted = |outcome: &&ChangeOutcome| **outcome == ChangeOutcome::Accepted;
                outcomes.iter().filter(accepted).count()
            }
            Err(error) => {
                debug!(%error, "repairs were not committed");
                0
            }
        },
    };
    node.metrics.repairs.increment(made as u64);
    let failed = tried.saturating_sub(made);
    node.metrics.repair_failures.increment(failed as u64);
}

/// Copies a block to as many nodes as it lacks; the claim of those that took it.
async fn copy(node: &Node, plan: Plan, pace: &Pace) -> Option<BlockChange> {
    let Plan {
        key,
        entry,
        holders,
    } = plan;
    let Lookup::Hit(held) = node.store.read(key).await else {
        node.stale_claim(key);
        return None;
    };
    pace.take(held.meta.bytes, node.settings.repair_rate).await;
    let block = Arc::new(Block {
        meta: BlockMeta {
            put_hlc: entry.put_hlc,
            ..held.meta.clone()
        },
        pieces: held.pieces.clone(),
    });
    let missing = (entry.wanted as usize).saturating_sub(entry.holders.len());
    let deadline = Instant::now() + REPAIR_TIMEOUT;
    let copies = write::spread(node, key.name, &block, missing, &holders, deadline).await;
    let claim = write::claim_of(&block.meta, entry.wanted, copies);
    (!claim.copies.is_empty()).then_some(BlockChange {
        name: key.name,
        kind: ChangeKind::Claim(claim),
    })
}

/// Spreads bytes evenly over time.
#[derive(Default)]
struct Pace {
    free_at: Mutex<Option<Instant>>,
}

impl Pace {
    /// Waits for this block's turn at a rate of bytes per second.
    async fn take(&self, bytes: u64, rate: u64) {
        let duration = Duration::from_micros(bytes.saturating_mul(1_000_000) / rate.max(1));
        let turn = {
            let mut free_at = self.free_at.lock().unwrap_or_else(PoisonError::into_inner);
            let now = Instant::now();
            let turn = free_at.map_or(now, |at| at.max(now));
            *free_at = Some(turn + duration);
            turn
        };
        sleep_until(turn).await;
    }
}
