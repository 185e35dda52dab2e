//! Makes copies of blocks on other nodes: in groups that are claimed at once, at a rate that
//! repairs and moves share.

use std::sync::{Arc, Mutex, PoisonError};

use futures::{StreamExt, stream};
use kvmesh_client::{Block, BlockMeta};
use kvmesh_directory::{
    ChangeKind, ChangeOutcome, NodeId, command::BlockChange, limits::ENTRY_CHANGES_MAX,
    state::Entry,
};
use tokio::time::{Duration, Instant, sleep_until};
use tracing::debug;

use crate::{node::Node, store::CopyKey, write};

/// Blocks that are copied at a time.
const PARALLEL: usize = 16;
/// Bytes that are copied before they are claimed.
const GROUP_BYTES_MAX: u64 = 64 << 20;
/// How long one block, or the claim of a group, may take.
const TIMEOUT: Duration = Duration::from_secs(30);

/// What this node is to do about one block that it holds.
pub(crate) struct Plan {
    pub(crate) key: CopyKey,
    pub(crate) entry: Entry,
    /// Copies to make, down the preference list.
    pub(crate) missing: usize,
    /// Nodes that get none.
    pub(crate) except: Vec<NodeId>,
    /// Copies that are wanted then.
    pub(crate) replicas: u32,
}

/// What became of a group.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Made {
    /// Blocks whose copies were committed.
    pub(crate) made: u64,
    /// The others.
    pub(crate) failed: u64,
}

/// Blocks that are copied together and claimed at once.
#[derive(Default)]
pub(crate) struct Group {
    plans: Vec<Plan>,
    bytes: u64,
}

impl Group {
    /// Takes a plan; the group before it, when that is full.
    pub(crate) fn add(&mut self, plan: Plan) -> Option<Self> {
        let bytes = u64::from(plan.entry.bytes);
        let is_full = self.plans.len() == ENTRY_CHANGES_MAX || self.bytes + bytes > GROUP_BYTES_MAX;
        let full = (is_full && !self.plans.is_empty()).then(|| std::mem::take(self));
        self.bytes += bytes;
        self.plans.push(plan);
        full
    }
}

/// Makes the missing copies of a group's blocks, and claims them.
pub(crate) async fn make(node: &Arc<Node>, group: Group) -> Made {
    let copying = stream::iter(group.plans).map(|plan| copy(node, plan));
    let copied: Vec<_> = copying.buffer_unordered(PARALLEL).collect().await;
    let tried = copied.len();
    let changes: Vec<BlockChange> = copied.into_iter().flatten().collect();
    let deadline = Instant::now() + TIMEOUT;
    let made = match changes.is_empty() {
        true => 0,
        false => match node.consensus.submit(changes, deadline).await {
            // What was not accepted was deleted or replaced meanwhile.
            Ok((_, outcomes)) => {
                let accepted = |outcome: &&ChangeOutcome| **outcome == ChangeOutcome::Accepted;
                outcomes.iter().filter(accepted).count()
            }
            Err(error) => {
                debug!(%error, "copies were not committed");
                0
            }
        },
    };
    Made {
        made: made as u64,
        failed: tried.saturating_sub(made) as u64,
    }
}

/// Copies a block to as many nodes as it lacks; the claim of those that took it.
async fn copy(node: &Node, plan: Plan) -> Option<BlockChange> {
    let read = node.store.read(plan.key).await;
    // What is busy is tried again in the next walk.
    let held = read.or_missing(|| node.stale_claim(plan.key))?;
    let rate = node.settings.now().repair_rate;
    node.pace.take(held.meta.bytes, rate).await;
    let block = Arc::new(Block {
        meta: BlockMeta {
            put_hlc: plan.entry.put_hlc,
            ..held.meta.clone()
        },
        pieces: held.pieces.clone(),
    });
    let (name, deadline) = (plan.key.name, Instant::now() + TIMEOUT);
    let copies = write::spread(
        node,
        name,
        &block,
        (plan.missing, false),
        &plan.except,
        deadline,
    )
    .await;
    let claim = write::claim_of(&block.meta, plan.replicas, copies);
    (!claim.copies.is_empty()).then_some(BlockChange {
        name,
        kind: ChangeKind::Claim(claim),
    })
}

/// Spreads bytes evenly over time.
#[derive(Debug, Default)]
pub(crate) struct Pace {
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
