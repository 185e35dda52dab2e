//! What the Raft log needs from a disk, and its twin in memory.

use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use bytes::Bytes;

/// What a disk knows at the start.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Found {
    /// The last vote.
    pub(super) vote: Option<Bytes>,
    /// The last log id that was known to be committed; it may lag.
    pub(super) committed: Option<Bytes>,
    /// The last log id that was purged.
    pub(super) purged: Option<Bytes>,
    /// The last entry, when it lies above what was purged.
    pub(super) last: Option<Bytes>,
    /// Random number of the store; 0: it was made before stores had numbers.
    pub(super) store: u64,
    /// Whether it may vote.
    pub(super) admitted: bool,
}

/// A small value that is kept beside the entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mark {
    /// Durable when saved.
    Vote,
    /// Durable with the next append.
    Committed,
    /// Durable when saved, perhaps while entries are appended.
    Admitted,
}

/// Keeps encoded log entries by index. One writer; calls are never concurrent but for reads
/// and [`Mark::Admitted`].
#[async_trait]
pub(super) trait LogDisk: Send + Sync + 'static {
    /// What is there.
    async fn load(&self) -> io::Result<Found>;
    /// Adds entries, all or none. Durable on return, as is everything before it.
    async fn append(&self, entries: Vec<(u64, Bytes)>) -> io::Result<()>;
    /// Removes entries from an index on. Durable on return.
    async fn truncate(&self, from: u64) -> io::Result<()>;
    /// Lets entries up to an index go, and keeps the id of the last one. They may be read, and
    /// take room, for a while yet.
    async fn purge(&self, up_to: u64, id: Bytes) -> io::Result<()>;
    /// Keeps a mark.
    async fn save(&self, mark: Mark, value: Bytes) -> io::Result<()>;
    /// Entries of an index range (end exclusive), until `bytes_max` is reached; at least one.
    async fn read(&self, from: u64, end: u64, bytes_max: usize) -> io::Result<Vec<Bytes>>;
    /// Bytes of all entries behind an index.
    async fn bytes_after(&self, index: u64) -> io::Result<u64>;
}

#[derive(Debug, Default)]
struct Memory {
    entries: BTreeMap<u64, Bytes>,
    vote: Option<Bytes>,
    committed: Option<Bytes>,
    purged: Option<Bytes>,
    admitted: bool,
    store: u64,
}

/// In memory. Clones share it.
#[derive(Debug, Clone, Default)]
pub(super) struct MemoryDisk(Arc<Mutex<Memory>>);

impl MemoryDisk {
    fn lock(&self) -> MutexGuard<'_, Memory> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl LogDisk for MemoryDisk {
    async fn load(&self) -> io::Result<Found> {
        let mut memory = self.lock();
        if memory.store == 0 {
            memory.store = kvmesh_client::random::in_range(1..=u64::MAX);
        }
        Ok(Found {
            vote: memory.vote.clone(),
            committed: memory.committed.clone(),
            purged: memory.purged.clone(),
            last: memory.entries.values().next_back().cloned(),
            store: memory.store,
            admitted: memory.admitted,
        })
    }

    async fn append(&self, entries: Vec<(u64, Bytes)>) -> io::Result<()> {
        self.lock().entries.extend(entries);
        Ok(())
    }

    async fn truncate(&self, from: u64) -> io::Result<()> {
        self.lock().entries.split_off(&from);
        Ok(())
    }

    async fn purge(&self, up_to: u64, id: Bytes) -> io::Result<()> {
        let mut memory = self.lock();
        memory.entries = memory.entries.split_off(&(up_to + 1));
        memory.purged = Some(id);
        Ok(())
    }

    async fn save(&self, mark: Mark, value: Bytes) -> io::Result<()> {
        let mut memory = self.lock();
        match mark {
            Mark::Vote => memory.vote = Some(value),
            Mark::Committed => memory.committed = Some(value),
            Mark::Admitted => memory.admitted = true,
        }
        Ok(())
    }

    async fn read(&self, from: u64, end: u64, bytes_max: usize) -> io::Result<Vec<Bytes>> {
        let memory = self.lock();
        Ok(within(
            memory.entries.range(from..end).map(|(_, e)| e.clone()),
            bytes_max,
        ))
    }

    async fn bytes_after(&self, index: u64) -> io::Result<u64> {
        let memory = self.lock();
        let entries = memory.entries.range(index + 1..);
        Ok(entries.map(|(_, entry)| entry.len() as u64).sum())
    }
}

/// The first entries that together stay below `bytes_max`; at least one.
pub(super) fn within(entries: impl Iterator<Item = Bytes>, bytes_max: usize) -> Vec<Bytes> {
    let mut bytes = 0;
    entries
        .take_while(|entry| {
            let first = bytes == 0;
            bytes += entry.len().max(1);
            first || bytes <= bytes_max
        })
        .collect()
}
