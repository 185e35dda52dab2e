//! What this node tells the directory about its own copies without being asked: those that
//! it evicted, and those that it is said to have and does not.

use std::{
    collections::{BTreeMap, VecDeque, btree_map::Entry},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use kvmesh_directory::{ChangeKind, Incarnation, command::BlockChange, limits::ENTRY_CHANGES_MAX};
use tokio::{
    sync::Notify,
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::{node::Node, store::CopyKey};

/// Reports that wait; puts that would evict more are refused.
const WAITING_MAX: usize = 65_536;
/// How long one batch may take to be committed.
const SUBMIT_TIMEOUT: Duration = Duration::from_secs(5);
/// Pause after a batch that was not committed.
const RETRY_PAUSE: Duration = Duration::from_millis(200);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Evicted,
    Missing,
}

#[derive(Debug, Default)]
struct Waiting {
    order: VecDeque<CopyKey>,
    fates: BTreeMap<CopyKey, Fate>,
}

/// The queue of reports. Each copy is reported once: what was evicted is not missing.
#[derive(Debug, Default)]
pub(crate) struct Reports {
    waiting: Mutex<Waiting>,
    more: Notify,
}

impl Reports {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether so many reports wait that no more should be caused.
    pub(crate) fn is_full(&self) -> bool {
        self.waiting().order.len() >= WAITING_MAX
    }

    /// Reports evictions.
    pub(crate) fn evicted(&self, keys: &[CopyKey]) {
        for key in keys {
            self.add(*key, Fate::Evicted);
        }
    }

    /// Reports a copy that this node is said to have and does not. False: its eviction is
    /// on its way already, or the queue is full and the next failed read reports it again.
    pub(crate) fn missing(&self, key: CopyKey) -> bool {
        !self.is_full() && self.add(key, Fate::Missing)
    }

    fn add(&self, key: CopyKey, fate: Fate) -> bool {
        let mut waiting = self.waiting();
        let new = match waiting.fates.entry(key) {
            Entry::Vacant(entry) => {
                entry.insert(fate);
                true
            }
            // A read may notice a copy's absence before its eviction is reported.
            Entry::Occupied(mut entry) => {
                if fate == Fate::Evicted {
                    entry.insert(fate);
                }
                false
            }
        };
        if new {
            waiting.order.push_back(key);
            drop(waiting);
            self.more.notify_one();
        }
        new
    }

    fn batch(&self) -> Vec<(CopyKey, Fate)> {
        let waiting = self.waiting();
        let keys = waiting.order.iter().take(ENTRY_CHANGES_MAX);
        keys.filter_map(|key| Some((*key, *waiting.fates.get(key)?)))
            .collect()
    }

    fn done(&self, count: usize) {
        let mut waiting = self.waiting();
        for _ in 0..count {
            if let Some(key) = waiting.order.pop_front() {
                waiting.fates.remove(&key);
            }
        }
    }
}

/// Commits reports until `stop`. Those of a past incarnation are void and dropped.
pub(crate) async fn run(node: Arc<Node>, stop: CancellationToken) {
    while !stop.is_cancelled() {
        let batch = node.reports.batch();
        if batch.is_empty() {
            tokio::select! {
                () = node.reports.more.notified() => continue,
                () = stop.cancelled() => return,
            }
        }
        let Some(incarnation) = node.incarnation() else {
            let _ = timeout(RETRY_PAUSE, stop.cancelled()).await;
            continue;
        };
        let changes = changes_of(&batch, incarnation);
        let deadline = Instant::now() + SUBMIT_TIMEOUT;
        if !changes.is_empty()
            && let Err(error) = node.consensus.submit(changes, deadline).await
        {
            debug!(%error, "reports wait for the leader");
            let _ = timeout(RETRY_PAUSE, stop.cancelled()).await;
            continue;
        }
        node.reports.done(batch.len());
    }
}

fn changes_of(batch: &[(CopyKey, Fate)], incarnation: Incarnation) -> Vec<BlockChange> {
    let current = batch
        .iter()
        .filter(|(key, _)| key.copy.incarnation == incarnation);
    current
        .map(|(key, fate)| BlockChange {
            name: key.name,
            kind: match fate {
                Fate::Evicted => ChangeKind::Evict(key.copy),
                Fate::Missing => ChangeKind::Retract(key.copy),
            },
        })
        .collect()
}
