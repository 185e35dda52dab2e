//! Moves blocks to the owners that a changed ring gives them.
//!
//! While the topology names a ring of before, every node walks the directory in key order:
//! a block on the arcs that moved, or held by a node that is leaving, is copied to the owners
//! that lack it, by the first living holder in the order of before; once all of them have it,
//! holders that are no owners let their copies go. When a walk of the leader finds nothing
//! left, it proposes the end. Nothing is remembered: who starts anew, or comes to lead, walks.
//!
//! Not here: copies that were lost (`repair`), and what is to be done about a block (`place`).

mod place;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
};

use kvmesh_directory::{
    BlockName, ChangeKind, ChangeOutcome, Command, Copy, NamespaceId, NodeId, Ring, RingEpoch,
    command::BlockChange, limits::ENTRY_CHANGES_MAX, ring::MovedArcs, state::Entry,
};
use tokio::{
    task::yield_now,
    time::{Duration, Instant, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use self::place::{Members, Next};
use crate::{
    copying::{self, Group, Plan},
    node::Node,
    store::CopyKey,
};

/// Names that are looked at before the directory is asked for more.
const BATCH: usize = 512;
/// Copies that one walk lets go, at most; the next one goes on.
const RELEASES_MAX: usize = 16_384;
/// A copy is let go so long after all owners have the block, so that readers whose view lags
/// still find it.
const RELEASE_AFTER: Duration = Duration::from_millis(500);
/// Between two walks, at least, and at least so many times as long as the last one was busy
/// with looking: copying is held back by its own rate.
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_FACTOR: u32 = 4;
/// Copies that are let go in one go: several entries of the log, committed together.
const RELEASES_AT_ONCE: usize = 16 * ENTRY_CHANGES_MAX;
/// Without changes blocks are looked at so often.
const PERIOD: Duration = Duration::from_secs(1);
/// How long a batch, or the end, may take to be committed.
const SUBMIT_TIMEOUT: Duration = Duration::from_secs(10);

/// What is left to move, as a node's last walk found it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Left {
    pub(crate) blocks: u64,
    pub(crate) bytes: u64,
}

/// How far the move is. Shared by the worker and those who ask.
#[derive(Debug, Default)]
pub(crate) struct Progress(Mutex<Option<(RingEpoch, Left)>>);

impl Progress {
    /// None: no walk of this epoch has ended yet.
    pub(crate) fn left(&self, epoch: RingEpoch) -> Option<Left> {
        let known = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.filter(|(of, _)| *of == epoch).map(|(_, left)| left)
    }

    fn set(&self, epoch: RingEpoch, left: Left) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some((epoch, left));
    }
}

/// Moves until `stop`.
pub(crate) async fn run(node: Arc<Node>, stop: CancellationToken) {
    let mut applied = node.directory.applied();
    let mut rings: Option<Rings> = None;
    while !stop.is_cancelled() {
        applied.mark_unchanged();
        rings = Rings::current(&node, rings);
        let Some(current) = &rings else {
            node.metrics.move_blocks_left.set(0.0);
            node.store.set_going(BTreeSet::new());
            tokio::select! {
                changed = applied.changed() => if changed.is_err() { return },
                () = stop.cancelled() => return,
            }
            continue;
        };
        let walked = tokio::select! {
            walked = walk(&node, current) => walked,
            () = stop.cancelled() => return,
        };
        let pause = PAUSE_MIN.max(walked.looked * PAUSE_FACTOR);
        let rest = async {
            sleep_until(Instant::now() + pause).await;
            // What was done may be what another step waited for.
            if !walked.did {
                let _ = timeout(PERIOD, applied.changed()).await;
            }
        };
        tokio::select! {
            () = rest => {}
            () = stop.cancelled() => return,
        }
    }
}

/// Both rings of one epoch, and what moves between them.
struct Rings {
    epoch: RingEpoch,
    before: Ring,
    now: Arc<Ring>,
    /// By the replicas of a namespace.
    arcs: BTreeMap<u32, MovedArcs>,
    /// By namespace.
    replicas: BTreeMap<NamespaceId, u32>,
}

impl Rings {
    /// None: nothing moves. Works the rings out once per epoch.
    fn current(node: &Node, known: Option<Self>) -> Option<Self> {
        let topology = node.directory.with(|state| {
            let topology = state.topology();
            topology.is_moving().then(|| topology.clone())
        })?;
        let mut rings = match known.filter(|rings| rings.epoch == topology.epoch) {
            Some(rings) => rings,
            None => Self {
                epoch: topology.epoch,
                before: Ring::before(&topology)?,
                now: Arc::new(Ring::build(&topology)),
                arcs: BTreeMap::new(),
                replicas: BTreeMap::new(),
            },
        };
        rings.replicas = node.directory.with(|state| {
            let namespaces = state.namespaces();
            namespaces
                .map(|namespace| (namespace.id, namespace.policy.replicas))
                .collect()
        });
        for replicas in rings.replicas.values() {
            let moved = || rings.before.moved(&rings.now, *replicas as usize);
            rings.arcs.entry(*replicas).or_insert_with(moved);
        }
        Some(rings)
    }

    fn moves(&self, name: &BlockName, replicas: u32) -> bool {
        let arcs = self.arcs.get(&replicas);
        arcs.is_some_and(|arcs| arcs.contains(name.point()))
    }
}

/// What one walk has found so far.
#[derive(Default)]
struct Found {
    left: Left,
    group: Group,
    releases: Vec<BlockChange>,
}

/// What a walk came to.
#[derive(Debug, Clone, Copy, Default)]
struct Walked {
    /// The time spent without waiting for others.
    looked: Duration,
    /// A copy was made or let go.
    did: bool,
}

/// Looks at every block once, and does this node's part.
async fn walk(node: &Arc<Node>, rings: &Rings) -> Walked {
    let mut found = Found::default();
    let mut walked = Walked::default();
    let mut after = None;
    loop {
        let began = Instant::now();
        let (entries, members) = node.directory.with(|state| {
            let entries = state.entries_after(after).take(BATCH);
            (entries.collect::<Vec<_>>(), members(state))
        });
        let Some((last, _)) = entries.last() else {
            break;
        };
        after = Some(*last);
        let entries = entries.into_iter();
        let full = entries.filter_map(|entry| look(node, rings, &members, entry, &mut found));
        let full: Vec<Group> = full.collect();
        walked.looked += began.elapsed();
        for group in full {
            walked.did |= copying::make(node, group).await.made > 0;
        }
        yield_now().await;
        if node.placement.epoch() != rings.epoch {
            return walked;
        }
    }
    walked.did |= copying::make(node, found.group).await.made > 0;
    node.progress.set(rings.epoch, found.left);
    #[allow(clippy::cast_precision_loss, reason = "gauges are floats")]
    node.metrics.move_blocks_left.set(found.left.blocks as f64);
    walked.did |= release(node, found.releases).await;
    if found.left == Left::default() && node.consensus.leads() {
        finish(node, rings.epoch).await;
    }
    walked
}

fn members(state: &kvmesh_directory::DirectoryState) -> Members {
    let topology = state.topology();
    let alive = state.nodes().filter(|record| record.alive);
    let new = state.nodes().filter(|record| record.incarnation.0 == 0);
    Members {
        alive: alive.map(|record| record.node).collect(),
        new: new.map(|record| record.node).collect(),
        leaving: topology.leaving.clone(),
        staying: topology.staying().count(),
        before: topology.before.as_ref().map_or(0, Vec::len),
    }
}

/// Notes what is to be done about a block. Returns a group of copies that is full.
fn look(
    node: &Node,
    rings: &Rings,
    members: &Members,
    (name, entry): (BlockName, Entry),
    found: &mut Found,
) -> Option<Group> {
    let replicas = *rings.replicas.get(&name.namespace)?;
    let mut holders = entry.holders.iter();
    let leaves = holders.any(|copy| members.leaving.contains(&copy.node));
    if !leaves && !rings.moves(&name, replicas) {
        return None;
    }
    let (before, now) = (rings.before.preference(&name), rings.now.preference(&name));
    let next = members.next(&entry, replicas, before, now);
    if next != Next::InPlace {
        found.left.blocks += 1;
        found.left.bytes += u64::from(entry.bytes);
    }
    let mine = entry.holders.iter().find(|copy| copy.node == node.me)?;
    match next {
        Next::Copy { by, to, replicas } if by == node.me => {
            let plan = plan(name, *mine, entry, now, &to, replicas);
            found.group.add(plan)
        }
        Next::Release(going) if going.contains(&node.me) => {
            if found.releases.len() < RELEASES_MAX {
                let kind = ChangeKind::Release(*mine);
                found.releases.push(BlockChange { name, kind });
            }
            None
        }
        _ => None,
    }
}

fn plan(
    name: BlockName,
    mine: Copy,
    entry: Entry,
    now: &[NodeId],
    to: &[NodeId],
    replicas: u32,
) -> Plan {
    let others = now.iter().filter(|node| !to.contains(node));
    let holders = entry.holders.iter().map(|copy| copy.node);
    Plan {
        key: CopyKey { name, copy: mine },
        missing: to.len(),
        except: holders.chain(others.copied()).collect(),
        replicas,
        entry,
    }
}

/// Lets copies go that their owners have; says whether any went. `apply` has the last word,
/// and tells `applied` to drop them.
async fn release(node: &Node, releases: Vec<BlockChange>) -> bool {
    // What somebody has leased stays until the lease ends, which is not renewed any more.
    node.store
        .set_going(releases.iter().filter_map(going).collect());
    if releases.is_empty() {
        return false;
    }
    sleep_until(Instant::now() + RELEASE_AFTER).await;
    let mut did = false;
    for batch in releases.chunks(RELEASES_AT_ONCE) {
        let mut batch = batch.to_vec();
        batch.retain(|change| going(change).is_none_or(|key| !node.store.is_leased(key)));
        if batch.is_empty() {
            continue;
        }
        let deadline = Instant::now() + SUBMIT_TIMEOUT;
        match node.consensus.submit(batch, deadline).await {
            Ok((_, outcomes)) => did |= outcomes.contains(&ChangeOutcome::Accepted),
            Err(error) => {
                debug!(%error, "copies that moved are not let go yet");
                return did;
            }
        }
    }
    did
}

/// The copy that a release lets go.
fn going(change: &BlockChange) -> Option<CopyKey> {
    let ChangeKind::Release(copy) = change.kind else {
        return None;
    };
    let name = change.name;
    Some(CopyKey { name, copy })
}

async fn finish(node: &Node, epoch: RingEpoch) {
    let deadline = Instant::now() + SUBMIT_TIMEOUT;
    let command = Command::FinishMove { epoch };
    match node.consensus.propose(command, deadline).await {
        Ok(_) => info!(%epoch, "blocks have moved"),
        Err(error) => debug!(%error, %epoch, "the end of the move is not committed yet"),
    }
}
