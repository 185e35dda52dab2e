//! The Raft log on disk, in sled. Durable on return: sled's own flush ends in
//! `sync_file_range`, which flushes neither the device's cache nor the file's size, so the
//! database file is synced through a second handle as well.
//!
//! What is purged is removed a little at a time, together with what is appended: a snapshot may
//! let half a million entries go, and no append may wait for that.
//!
//! Tree `log`: key index (u64, big endian), value an encoded `RaftEntry`. Tree `marks`: `vote`
//! (`RaftVote`), `committed` and `purged` (`RaftLogId`), `owner` (see [`Owner`]), `admitted` (a byte).
//! Stored on disk: never rename.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use async_trait::async_trait;
use bytes::Bytes;
use kvmesh_directory::{NodeId, RegionId};

use super::{
    blocking::blocking,
    error::StartError,
    log_disk::{Found, LogDisk, Mark},
    log_disk_owner::Owner,
};

const COMMITTED: &str = "committed";
const PURGED: &str = "purged";
const VOTE: &str = "vote";
const OWNER: &str = "owner";
const ADMITTED: &str = "admitted";

/// Memory that sled may use for its page cache; the log's recent entries are cached apart.
const PAGE_CACHE_BYTES: u64 = 32 << 20;

/// Purged entries that are removed with one that is appended, at most.
const REMOVED_WITH_ONE: usize = 16;

struct Inner {
    log: sled::Tree,
    marks: sled::Tree,
    database: sled::Db,
    file: File,
    store: u64,
    /// Entries below this are purged, but perhaps not removed.
    purged_end: AtomicU64,
}

/// See the module.
#[derive(Clone)]
pub(super) struct SledDisk(Arc<Inner>);

impl SledDisk {
    /// Opens or makes the log below a directory, for one node of one region.
    ///
    /// # Errors
    /// When it belongs to another node, or cannot be opened or read.
    pub(super) async fn open(
        dir: &Path,
        region: &RegionId,
        node: NodeId,
    ) -> Result<Self, StartError> {
        let path = dir.join("log");
        let owner = Owner {
            node,
            store: kvmesh_client::random::in_range(1..=u64::MAX),
            region: region.to_string(),
        };
        let opened = blocking({
            let path = path.clone();
            move || Inner::open(&path, &owner)
        });
        let (inner, found) = opened.await.map_err(|source| StartError::Store {
            path: path.clone(),
            source: source.into(),
        })?;
        if found.node != node || found.region != region.as_str() {
            return Err(StartError::Foreign {
                path,
                found_node: found.node,
                found_region: found.region,
                node,
                region: region.clone(),
            });
        }
        Ok(Self(Arc::new(inner)))
    }

    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Inner) -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let inner = Arc::clone(&self.0);
        blocking(move || work(&inner)).await
    }
}

impl Inner {
    fn open(path: &PathBuf, owner: &Owner) -> io::Result<(Self, Owner)> {
        fs::create_dir_all(path)?;
        let config = sled::Config::new()
            .path(path)
            .cache_capacity(PAGE_CACHE_BYTES)
            .flush_every_ms(None);
        let database = config.open()?;
        let mut inner = Self {
            log: database.open_tree("log")?,
            marks: database.open_tree("marks")?,
            file: File::open(path.join("db"))?,
            database,
            store: 0,
            purged_end: AtomicU64::new(0),
        };
        let found = match inner.marks.get(OWNER)? {
            Some(raw) => Owner::decode(&raw)?,
            None if inner.log.is_empty() && inner.marks.is_empty() => {
                inner.marks.insert(OWNER, owner.encode())?;
                inner.sync()?;
                File::open(path)?.sync_all()?;
                owner.clone()
            }
            None => return Err(io::Error::other("it does not say whose it is")),
        };
        inner.store = found.store;
        Ok((inner, found))
    }

    fn sync(&self) -> io::Result<()> {
        self.database.flush()?;
        self.file.sync_data()
    }

    fn mark(&self, name: &str) -> io::Result<Option<Bytes>> {
        Ok(self
            .marks
            .get(name)?
            .map(|raw| Bytes::copy_from_slice(&raw)))
    }

    fn remove(&self, keys: impl Iterator<Item = sled::Result<sled::IVec>>) -> io::Result<()> {
        let mut batch = sled::Batch::default();
        for key in keys {
            batch.remove(key?);
        }
        Ok(self.log.apply_batch(batch)?)
    }
}

#[async_trait]
impl LogDisk for SledDisk {
    async fn load(&self) -> io::Result<Found> {
        self.run(|disk| {
            let last = disk.log.last()?;
            Ok(Found {
                vote: disk.mark(VOTE)?,
                committed: disk.mark(COMMITTED)?,
                purged: disk.mark(PURGED)?,
                last: last.map(|(_, raw)| Bytes::copy_from_slice(&raw)),
                store: disk.store,
                // Stores of before were never lost unseen: there was no other rule for them.
                admitted: disk.store == 0 || disk.mark(ADMITTED)?.is_some(),
            })
        })
        .await
    }

    async fn append(&self, entries: Vec<(u64, Bytes)>) -> io::Result<()> {
        self.run(move |disk| {
            let mut batch = sled::Batch::default();
            let end = disk.purged_end.load(Ordering::Relaxed);
            let gone = disk.log.range(..end.to_be_bytes()).keys();
            for key in gone.take(entries.len() * REMOVED_WITH_ONE) {
                batch.remove(key?);
            }
            for (index, entry) in &entries {
                batch.insert(&index.to_be_bytes(), entry.as_ref());
            }
            disk.log.apply_batch(batch)?;
            disk.sync()
        })
        .await
    }

    async fn truncate(&self, from: u64) -> io::Result<()> {
        self.run(move |disk| {
            disk.remove(disk.log.range(from.to_be_bytes()..).keys())?;
            disk.sync()
        })
        .await
    }

    async fn purge(&self, up_to: u64, id: Bytes) -> io::Result<()> {
        self.run(move |disk| {
            // Entries below the mark are ignored at a start; the next purge counts them in.
            disk.marks.insert(PURGED, id.as_ref())?;
            disk.purged_end.fetch_max(up_to + 1, Ordering::Relaxed);
            Ok(())
        })
        .await
    }

    async fn save(&self, mark: Mark, value: Bytes) -> io::Result<()> {
        self.run(move |disk| match mark {
            Mark::Committed => {
                disk.marks.insert(COMMITTED, value.as_ref())?;
                Ok(())
            }
            Mark::Vote => {
                disk.marks.insert(VOTE, value.as_ref())?;
                disk.sync()
            }
            Mark::Admitted => {
                disk.marks.insert(ADMITTED, value.as_ref())?;
                disk.sync()
            }
        })
        .await
    }

    async fn bytes_after(&self, index: u64) -> io::Result<u64> {
        self.run(move |disk| {
            let mut bytes = 0;
            for entry in disk.log.range((index + 1).to_be_bytes()..) {
                bytes += entry?.1.len() as u64;
            }
            Ok(bytes)
        })
        .await
    }

    async fn read(&self, from: u64, end: u64, bytes_max: usize) -> io::Result<Vec<Bytes>> {
        self.run(move |disk| {
            let (mut entries, mut bytes) = (Vec::new(), 0);
            for entry in disk.log.range(from.to_be_bytes()..end.to_be_bytes()) {
                let (_, raw) = entry?;
                bytes += raw.len();
                if bytes > bytes_max && !entries.is_empty() {
                    break;
                }
                entries.push(Bytes::copy_from_slice(&raw));
            }
            Ok(entries)
        })
        .await
    }
}
