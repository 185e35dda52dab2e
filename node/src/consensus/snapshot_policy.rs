//! When a snapshot is made.
//!
//! A snapshot costs as much as the directory is large, and spares the replay of the log that
//! was written since the one before. So it is due when that log is as large as a snapshot is,
//! within bounds: never for a little log, and always before the log takes too long to replay
//! or too much of the disk.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{sync::Notify, time};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::{raft::Raft, settings::SnapshotSettings, snapshot_store::SnapshotStore};

/// A snapshot that was asked for and did not come within this is asked for again.
const MAKE_MAX: Duration = Duration::from_secs(600);

/// The log that was written since the last snapshot, and what that one takes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Since {
    pub(super) entries: u64,
    pub(super) log_bytes: u64,
    pub(super) snapshot_bytes: u64,
}

/// Whether a snapshot is due.
pub(super) fn is_due(since: Since, settings: &SnapshotSettings) -> bool {
    let (min, max) = (settings.log_bytes_min, settings.log_bytes_max);
    let enough = since.snapshot_bytes.max(min).min(max);
    since.log_bytes >= enough || since.entries >= settings.entries_max
}

/// Bytes of the log that were ever written, from the last snapshot at the start on. Clones share it.
#[derive(Debug, Clone, Default)]
pub(super) struct Written(Arc<AtomicU64>);

impl Written {
    pub(super) fn add(&self, bytes: u64) {
        self.0.fetch_add(bytes, Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// See the module.
pub(super) struct SnapshotPolicy {
    pub(super) raft: Raft,
    pub(super) snapshots: Arc<dyn SnapshotStore>,
    pub(super) written: Written,
    /// Told when the newest snapshot is not fit to be sent.
    pub(super) again: Arc<Notify>,
    pub(super) settings: SnapshotSettings,
}

impl SnapshotPolicy {
    /// Has snapshots made when they are due, until `stop` or the end of Raft.
    pub(super) async fn run(self, stop: CancellationToken) {
        stop.run_until_cancelled(self.follow()).await;
    }

    async fn follow(self) {
        let mut metrics = self.raft.metrics();
        let mut newest = index_of(&metrics.borrow());
        let (mut base, mut snapshot_bytes) = (0, self.bytes().await);
        loop {
            let wanted = tokio::select! {
                biased;
                () = self.again.notified() => true,
                changed = metrics.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    false
                }
            };
            let (snapshot, applied) = {
                let metrics = metrics.borrow_and_update();
                let applied = metrics.last_applied.map_or(0, |id| id.index);
                (index_of(&metrics), applied)
            };
            if snapshot != newest {
                // One was received.
                (newest, base, snapshot_bytes) = (snapshot, self.written.get(), self.bytes().await);
            }
            let since = Since {
                entries: applied.saturating_sub(newest.unwrap_or(0)),
                log_bytes: self.written.get() - base,
                snapshot_bytes,
            };
            if !wanted && !is_due(since, &self.settings) {
                continue;
            }
            debug!(?since, wanted, "a snapshot is due");
            let written = self.written.get();
            if self.raft.trigger().snapshot().await.is_err() {
                return;
            }
            let made = metrics.wait_for(|metrics| {
                wanted || index_of(metrics) != newest || metrics.running_state.is_err()
            });
            match time::timeout(MAKE_MAX, made).await {
                Ok(Ok(made)) => newest = index_of(&made),
                Ok(Err(_)) => return,
                Err(_) => warn!("a snapshot is not made yet"),
            }
            (base, snapshot_bytes) = (written, self.bytes().await);
        }
    }

    async fn bytes(&self) -> u64 {
        self.snapshots.bytes().await.unwrap_or_else(|error| {
            warn!(%error, "the size of the snapshot cannot be read");
            0
        })
    }
}

fn index_of(metrics: &super::raft::Metrics) -> Option<u64> {
    metrics.snapshot.map(|id| id.index)
}

#[cfg(test)]
#[path = "snapshot_policy_test.rs"]
mod tests;
