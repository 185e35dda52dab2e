//! Where snapshots of the directory are kept; the twin in memory.

use std::{
    io::{self, Cursor},
    sync::{Arc, Mutex, PoisonError},
};

use async_trait::async_trait;
use bytes::Bytes;
use kvmesh_directory::{Checksum, DirectoryState};
use tokio::task;

use super::{
    log_disk::MemoryDisk,
    raft::SnapshotMeta,
    snapshot_codec::{Decoder, Encoder, identified, verify, wanted},
    snapshot_data::SnapshotData,
};

/// Keeps the newest snapshot.
#[async_trait]
pub(super) trait SnapshotStore: Send + Sync + 'static {
    /// Encodes a frozen directory and keeps it instead of older ones. Durable on return.
    /// Gives the snapshot its id.
    async fn build(&self, meta: SnapshotMeta, state: DirectoryState) -> io::Result<SnapshotMeta>;
    /// The newest snapshot, to be sent; the receiver verifies it.
    async fn open(&self) -> io::Result<Option<(SnapshotMeta, SnapshotData)>>;
    /// The newest whole snapshot, verified and decoded.
    async fn load(&self) -> io::Result<Option<(SnapshotMeta, DirectoryState)>>;
    /// Bytes of the newest snapshot; 0: there is none.
    async fn bytes(&self) -> io::Result<u64>;
    /// Where a snapshot is received into.
    async fn begin(&self) -> io::Result<SnapshotData>;
    /// Whether all that was received is what its id says; its content is not read, where the
    /// id has a checksum.
    async fn is_whole(&self, meta: &SnapshotMeta, data: &SnapshotData) -> io::Result<bool>;
    /// Verifies and decodes what was received, and keeps it. Durable on return.
    async fn finish(&self, meta: &SnapshotMeta, data: SnapshotData) -> io::Result<DirectoryState>;
    /// Lets a directory of perhaps millions of entries go where nobody waits for it.
    fn discard(&self, state: DirectoryState);
}

#[derive(Debug, Clone)]
struct Stored {
    meta: SnapshotMeta,
    chunks: Bytes,
}

/// In memory. Clones share it. Has no threads: long work yields after each chunk.
#[derive(Debug, Clone, Default)]
pub(super) struct MemorySnapshots(Arc<Mutex<Option<Stored>>>);

impl MemorySnapshots {
    fn stored(&self) -> Option<Stored> {
        let stored = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        stored.clone()
    }

    /// Changes the copy number of one holder, so that it can be decoded as well as before.
    #[cfg(test)]
    pub(super) fn damage(&self) {
        let mut stored = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(stored) = stored.as_mut() {
            let mut chunks = stored.chunks.to_vec();
            let at = chunks.len() - 12;
            chunks[at] ^= 1;
            stored.chunks = chunks.into();
        }
    }

    /// Unless a newer one came meanwhile.
    fn store(&self, snapshot: Stored) {
        let mut stored = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let newer = stored
            .as_ref()
            .is_some_and(|stored| stored.meta.last_log_id > snapshot.meta.last_log_id);
        if !newer {
            *stored = Some(snapshot);
        }
    }
}

async fn decode(meta: &SnapshotMeta, chunks: &[u8]) -> io::Result<DirectoryState> {
    let mut decoder = Decoder::new(chunks);
    let state = loop {
        if let Some(state) = decoder.step()? {
            break state;
        }
        task::yield_now().await;
    };
    verify(meta, decoder.finish()?.1.checksum())?;
    Ok(state)
}

#[async_trait]
impl SnapshotStore for MemorySnapshots {
    async fn build(
        &self,
        mut meta: SnapshotMeta,
        state: DirectoryState,
    ) -> io::Result<SnapshotMeta> {
        let mut encoder = Encoder::new(state, Vec::new());
        while encoder.step()? {
            task::yield_now().await; // thousands of entries are encoded: let others run
        }
        let (chunks, running) = encoder.finish();
        meta.snapshot_id = identified(meta.last_log_id, running.checksum());
        self.store(Stored {
            meta: meta.clone(),
            chunks: chunks.into(),
        });
        Ok(meta)
    }

    async fn open(&self) -> io::Result<Option<(SnapshotMeta, SnapshotData)>> {
        let sent = |stored: Stored| (stored.meta, SnapshotData::Sent(Cursor::new(stored.chunks)));
        Ok(self.stored().map(sent))
    }

    async fn load(&self) -> io::Result<Option<(SnapshotMeta, DirectoryState)>> {
        let Some(Stored { meta, chunks }) = self.stored() else {
            return Ok(None);
        };
        let state = decode(&meta, &chunks).await?;
        Ok(Some((meta, state)))
    }

    async fn bytes(&self) -> io::Result<u64> {
        Ok(self.stored().map_or(0, |stored| stored.chunks.len() as u64))
    }

    async fn begin(&self) -> io::Result<SnapshotData> {
        Ok(SnapshotData::Received(Cursor::default()))
    }

    async fn is_whole(&self, meta: &SnapshotMeta, data: &SnapshotData) -> io::Result<bool> {
        let SnapshotData::Received(chunks) = data else {
            return Err(io::Error::other("it was not received into memory"));
        };
        let chunks = chunks.get_ref();
        Ok(match wanted(meta) {
            Some(wanted) => wanted == Checksum::of(chunks).to_string(),
            None => decode(meta, chunks).await.is_ok(),
        })
    }

    async fn finish(&self, meta: &SnapshotMeta, data: SnapshotData) -> io::Result<DirectoryState> {
        let SnapshotData::Received(chunks) = data else {
            return Err(io::Error::other("it was not received into memory"));
        };
        let chunks = Bytes::from(chunks.into_inner());
        let state = decode(meta, &chunks).await?;
        let meta = meta.clone();
        self.store(Stored { meta, chunks });
        Ok(state)
    }

    fn discard(&self, state: DirectoryState) {
        drop(state);
    }
}

/// The log, the vote and the snapshot of one node in memory. Clones share them, so that a
/// later start can go on where an earlier one ended.
#[derive(Debug, Clone, Default)]
pub struct MemoryStorage {
    pub(super) log: MemoryDisk,
    pub(super) snapshots: MemorySnapshots,
}
