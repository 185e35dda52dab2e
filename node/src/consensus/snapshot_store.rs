//! Where snapshots of the directory are kept; the twin in memory.

use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
};

use async_trait::async_trait;
use bytes::Bytes;

use super::{log_disk::MemoryDisk, raft::SnapshotMeta};

/// A snapshot as it is kept and sent: length-delimited `SnapshotChunk`s.
#[derive(Debug, Clone)]
pub(super) struct Stored {
    /// What it covers.
    pub(super) meta: SnapshotMeta,
    /// The chunks.
    pub(super) chunks: Bytes,
}

/// Keeps the newest snapshot.
#[async_trait]
pub(super) trait SnapshotStore: Send + Sync + 'static {
    /// Keeps a snapshot instead of older ones. Durable on return.
    async fn save(&self, snapshot: Stored) -> io::Result<()>;
    /// The newest whole snapshot.
    async fn load(&self) -> io::Result<Option<Stored>>;
}

/// In memory. Clones share it.
#[derive(Debug, Clone, Default)]
pub(super) struct MemorySnapshots(Arc<Mutex<Option<Stored>>>);

#[async_trait]
impl SnapshotStore for MemorySnapshots {
    async fn save(&self, snapshot: Stored) -> io::Result<()> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(snapshot);
        Ok(())
    }

    async fn load(&self) -> io::Result<Option<Stored>> {
        Ok(self
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone())
    }
}

/// The log, the vote and the snapshot of one node in memory. Clones share them, so that a
/// later start can go on where an earlier one ended.
#[derive(Debug, Clone, Default)]
pub struct MemoryStorage {
    pub(super) log: MemoryDisk,
    pub(super) snapshots: MemorySnapshots,
}
