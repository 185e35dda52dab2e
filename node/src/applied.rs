//! What this node does about commands that were applied: its own copies follow the directory.

use std::sync::Arc;

use kvmesh_directory::{
    ChangeKind, ChangeOutcome, Event, Incarnation,
    command::{BlockChange, Claim},
    limits::ENTRY_CHANGES_MAX,
};
use tokio::time::{Duration, Instant, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{
    Settings,
    directory::Step,
    node::Node,
    store::{CopyKey, CopyState, FOUND},
    write,
};

/// Steps that are looked at before the next are fetched.
const STEPS_MAX: usize = 256;
/// How long one batch of claims may take to be committed.
const SUBMIT_TIMEOUT: Duration = Duration::from_secs(10);
/// Pause before a batch is tried again.
const RETRY_PAUSE: Duration = Duration::from_millis(200);

/// Follows the applied log until `stop`.
pub(crate) async fn run(node: Arc<Node>, stop: CancellationToken) {
    let mut applied = node.directory.applied();
    let mut handled = 0;
    loop {
        match node.directory.steps_after(handled, STEPS_MAX) {
            None => handled = reconcile(&node, handled).await,
            Some(steps) if steps.is_empty() => {
                tokio::select! {
                    changed = applied.changed() => if changed.is_err() { return },
                    () = stop.cancelled() => return,
                }
            }
            Some(steps) => {
                for step in steps {
                    take(&node, &step).await;
                    handled = step.index;
                }
            }
        }
        if stop.is_cancelled() {
            return;
        }
    }
}

async fn take(node: &Arc<Node>, step: &Step) {
    for event in &step.events {
        match event {
            Event::Claimed {
                name,
                copy,
                put_hlc,
            } if copy.node == node.me => {
                let key = CopyKey {
                    name: *name,
                    copy: *copy,
                };
                let listed = |key| node.listed(name).is_some_and(|(_, now)| now == key);
                if !node.store.claim(key, *put_hlc) && listed(key) {
                    node.stale_claim(key);
                }
            }
            Event::Dropped { name, copy } if copy.node == node.me => {
                let key = CopyKey {
                    name: *name,
                    copy: *copy,
                };
                node.unlisted(key).await;
            }
            Event::IncarnationBegan {
                node: who,
                incarnation,
            } if *who == node.me => {
                offer_again(node, *incarnation).await;
            }
            _ => {}
        }
    }
}

/// A copy of before this start, and how many the block's namespace wants.
type Offer = (CopyKey, u32);

/// After a new incarnation: copies of before are void, and what is still here is claimed
/// anew, under new numbers. `apply` refuses what was deleted meanwhile.
async fn offer_again(node: &Arc<Node>, incarnation: Incarnation) {
    let (log, floor) = node.directory.with(|state| {
        let position = state.position();
        (position.map(|it| it.log_incarnation), state.floor().hlc)
    });
    // The log may be read back from before this start.
    let is_current = node.incarnation() == Some(incarnation);
    let mut offers: Vec<Offer> = Vec::new();
    for (old, held) in node.store.inventory() {
        let found = old.copy.incarnation == FOUND;
        if old.copy.incarnation >= incarnation || found && !is_current {
            continue;
        }
        let wanted = node.directory.with(|state| {
            let namespace = state.namespace(old.name.namespace)?;
            Some(namespace.policy.replicas)
        });
        // What another log deleted, or a tombstone that was forgotten, left no trace.
        let void = found
            && node
                .store
                .found(old)
                .is_none_or(|(put_hlc, of_log)| Some(of_log) != log || put_hlc <= floor);
        // What an earlier start offered, and has no answer yet, is offered by this one.
        let committed = held.state == CopyState::Claimed || held.offered;
        let void = void || held.offered && held.put_hlc <= floor;
        match wanted.filter(|_| committed && !void) {
            Some(replicas) => offers.push((old, replicas)),
            None => drop(node.store.remove(old).await),
        }
    }
    if !offers.is_empty() {
        info!(blocks = offers.len(), %incarnation, "offering the inventory again");
        let node_of_task = Arc::clone(node);
        node.tasks
            .spawn(claim_all(node_of_task, offers, incarnation));
    }
}

/// Claims in batches; what is not accepted is dropped here, what is not answered stays until
/// it is, or a later start offers it.
async fn claim_all(node: Arc<Node>, offers: Vec<Offer>, incarnation: Incarnation) {
    let floor = || node.directory.with(|state| state.floor());
    let known = floor().index;
    for batch in offers.chunks(ENTRY_CHANGES_MAX) {
        // A later start offers the rest by itself.
        if node.incarnation() != Some(incarnation) {
            return;
        }
        let mut changes = Vec::with_capacity(batch.len());
        for (old, replicas) in batch {
            // Numbered only now: a copy that is not claimed does not stay for long.
            let copy = node.copy_of(incarnation);
            if let Some(brief) = node.store.renumber(*old, copy).await {
                let claim = write::claim_of_brief(&brief, *replicas, vec![copy]);
                changes.push(BlockChange {
                    name: old.name,
                    kind: ChangeKind::Claim(claim),
                });
            }
        }
        let outcomes = loop {
            // A copy's time does not end before this try does, or a late commit would be
            // stale. What may have been deleted meanwhile without a trace is not claimed.
            let floor = floor();
            let void = |claim: &Claim| floor.index > known && claim.put_hlc <= floor.hlc;
            changes.retain(|change| match (&change.kind, offered(change)) {
                (ChangeKind::Claim(claim), Some(key)) => !void(claim) && node.store.renew(key),
                _ => false,
            });
            if changes.is_empty() {
                break Vec::new();
            }
            let ttl = Settings::millis(node.settings.now().provisional_ttl_ms);
            let deadline = Instant::now() + SUBMIT_TIMEOUT.min(ttl / 2);
            match node.consensus.submit(changes.clone(), deadline).await {
                Ok((_, outcomes)) => break outcomes,
                Err(error) => warn!(%error, "the inventory is not claimed yet"),
            }
            if timeout(RETRY_PAUSE, node.stop.cancelled()).await.is_ok() {
                return;
            }
        };
        drop_refused(&node, &changes, outcomes).await;
    }
}

async fn drop_refused(node: &Node, changes: &[BlockChange], outcomes: Vec<ChangeOutcome>) {
    for (change, outcome) in changes.iter().zip(outcomes) {
        if let Some(key) = offered(change).filter(|_| outcome != ChangeOutcome::Accepted) {
            node.unlisted(key).await;
        }
    }
}

/// The copy that a claim offers.
fn offered(change: &BlockChange) -> Option<CopyKey> {
    let ChangeKind::Claim(claim) = &change.kind else {
        return None;
    };
    let (name, copy) = (change.name, *claim.copies.first()?);
    Some(CopyKey { name, copy })
}

/// The tail does not reach back to what was handled last: compares everything.
/// Returns the index that is handled now.
async fn reconcile(node: &Arc<Node>, handled: u64) -> u64 {
    let state = node.directory.freeze();
    let index = state.applied_index();
    let incarnation = state
        .node(node.me)
        .map_or(Incarnation(0), |it| it.incarnation);
    // Deletes below the floor left no trace: nothing of before can be trusted.
    let lost_track = handled < state.floor().index;
    for (key, held) in node.store.inventory() {
        let entry = state.entry(&key.name);
        let listed = entry.filter(|entry| entry.holders.contains(&key.copy));
        if let Some(entry) = listed {
            node.store.claim(key, entry.put_hlc);
        } else if key.copy.incarnation == incarnation && held.state != CopyState::Claimed {
            // Its claim may be on its way.
        } else if key.copy.incarnation == FOUND {
            // What cannot be trusted of these is told by their own clocks.
        } else if lost_track || key.copy.incarnation >= incarnation {
            node.unlisted(key).await;
        }
    }
    for (name, entry) in state.entries() {
        let mine = entry.holders.iter().find(|copy| copy.node == node.me);
        if let Some(copy) = mine.filter(|copy| copy.incarnation == incarnation) {
            let key = CopyKey { name, copy: *copy };
            if !node.store.holds(key) {
                node.stale_claim(key);
            }
        }
    }
    offer_again(node, incarnation).await;
    index
}
