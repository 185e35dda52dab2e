//! The Raft log on disk, in sled. Durable on return: sled's own flush ends in
//! `sync_file_range`, which flushes neither the device's cache nor the file's size, so the
//! database file is synced through a second handle as well.
//!
//! What is purged is removed a little at a time, together with what is appended: a snapshot may
//! let half a million entries go, and no append may wait for that.
//!
//! Tree `log`: key index (u64, big endian), value an encoded `RaftEntry`, or its first part; the
//! other parts follow under the index and their number (u16, big endian), from 1 on: sled writes
//! what is larger into files of its own, which it does not sync, and which no room is kept for.
//! Tree `marks`: `vote`
//! (`RaftVote`), `committed` and `purged` (`RaftLogId`), `owner` (see [`Owner`]), `admitted` (a byte).
//! Stored on disk: never rename.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
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
    log_parts::{self, Entries},
    reserve::Reserve,
};

const COMMITTED: &str = "committed";
const PURGED: &str = "purged";
const VOTE: &str = "vote";
const OWNER: &str = "owner";
const ADMITTED: &str = "admitted";

/// Memory that sled may use for its page cache; the log's recent entries are cached apart.
const PAGE_CACHE_BYTES: u64 = 32 << 20;

/// Keys that are removed with one entry that is appended, at most, but for the parts of the last.
const REMOVED_WITH_ONE: usize = 16;

/// Room for what sled writes by itself with any change: the rest of a segment, and what it moves.
const ROOM_BYTES: u64 = 2 << 20;
/// What sled writes for each byte of a change, at most: it writes the nodes around it again.
const ROOM_FACTOR: u64 = 8;
/// Must be free when sled opens: it writes a table of its pages into a new file then.
const OPENING_BYTES: u64 = 4 << 20;
/// Somebody else may take what is free before sled does.
const OPENING_ATTEMPTS: usize = 3;
/// How the name of such a file ends while it is written.
const UNFINISHED: &str = "generating";

struct Inner {
    log: sled::Tree,
    marks: sled::Tree,
    database: sled::Db,
    file: File,
    reserve: Reserve,
    store: u64,
    /// Entries below this are purged, but perhaps not removed.
    purged_end: AtomicU64,
    /// Goes to the disk with what is appended next, or at the end: it only saves replaying, and
    /// Raft waits for each one.
    committed: Mutex<Option<Bytes>>,
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
        reserve: Reserve,
    ) -> Result<Self, StartError> {
        let path = dir.join("log");
        let owner = Owner {
            node,
            store: kvmesh_client::random::in_range(1..=u64::MAX),
            region: region.to_string(),
        };
        let opened = blocking({
            let path = path.clone();
            move || Inner::open(&path, &owner, reserve)
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
    fn open(path: &PathBuf, owner: &Owner, reserve: Reserve) -> io::Result<(Self, Owner)> {
        fs::create_dir_all(path)?;
        let config = sled::Config::new()
            .path(path)
            .cache_capacity(PAGE_CACHE_BYTES)
            .flush_every_ms(None);
        let database = open_database(path, &config, &reserve)?;
        let mut inner = Self {
            log: database.open_tree("log")?,
            marks: database.open_tree("marks")?,
            file: File::options().write(true).open(path.join("db"))?,
            reserve,
            database,
            store: 0,
            purged_end: AtomicU64::new(0),
            committed: Mutex::default(),
        };
        let found = match inner.marks.get(OWNER)? {
            Some(raw) => Owner::decode(&raw)?,
            None if inner.log.is_empty() && inner.marks.is_empty() => {
                inner.room_for(0)?;
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

    /// Before any change: sled is lost after one that found no room.
    fn room_for(&self, bytes: u64) -> io::Result<()> {
        let need = ROOM_BYTES + ROOM_FACTOR * bytes;
        self.reserve.keep_ahead(&self.file, need)
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

    fn insert(&self, mark: &str, value: &[u8]) -> io::Result<()> {
        self.room_for(value.len() as u64)?;
        self.marks.insert(mark, value)?;
        Ok(())
    }

    fn committed(&self) -> MutexGuard<'_, Option<Bytes>> {
        let committed = self.committed.lock();
        committed.unwrap_or_else(PoisonError::into_inner)
    }

    fn insert_committed(&self) -> io::Result<()> {
        let newest = self.committed().take();
        newest.map_or(Ok(()), |raw| self.insert(COMMITTED, &raw))
    }

    /// Keys of entries below an index, so many and those that the last one has besides.
    fn keys_below(&self, end: u64, count: usize) -> io::Result<Vec<sled::IVec>> {
        let mut keys = Vec::new();
        for key in self.log.range(..end.to_be_bytes()).keys() {
            let key = key?;
            if keys.len() >= count && log_parts::is_first(&key) {
                break;
            }
            keys.push(key);
        }
        Ok(keys)
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // Replayed from Raft where it cannot be written any more.
        let _ = self.insert_committed();
    }
}

fn open_database(path: &Path, config: &sled::Config, reserve: &Reserve) -> io::Result<sled::Db> {
    let mut left = OPENING_ATTEMPTS;
    loop {
        left -= 1;
        remove_unfinished(path)?;
        reserve.make_free(OPENING_BYTES)?;
        match config.open().map_err(io::Error::from) {
            Err(error) if error.kind() == io::ErrorKind::StorageFull && left > 0 => {}
            opened => return opened,
        }
    }
}

/// sled takes a table of pages that it did not finish, because it was killed or found no room,
/// for its newest one, and then for damage. The one before is still there.
fn remove_unfinished(path: &Path) -> io::Result<()> {
    for entry in fs::read_dir(path)? {
        let path = entry?.path();
        if path.extension().is_some_and(|it| it == UNFINISHED) {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}

#[async_trait]
impl LogDisk for SledDisk {
    async fn load(&self) -> io::Result<Found> {
        self.run(|disk| {
            let last = match disk.log.last()? {
                Some((key, _)) => {
                    let from = log_parts::index(&key)?.to_be_bytes();
                    Entries::new(disk.log.range(from..)).next().transpose()?
                }
                None => None,
            };
            Ok(Found {
                vote: disk.mark(VOTE)?,
                committed: disk.mark(COMMITTED)?,
                purged: disk.mark(PURGED)?,
                last,
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
            for key in disk.keys_below(end, entries.len() * REMOVED_WITH_ONE)? {
                batch.remove(key);
            }
            let mut bytes = 0;
            for (index, entry) in &entries {
                bytes += entry.len() as u64;
                for (key, part) in log_parts::parts(*index, entry)? {
                    batch.insert(key, part);
                }
            }
            disk.insert_committed()?;
            disk.room_for(bytes)?;
            disk.log.apply_batch(batch)?;
            disk.sync()
        })
        .await
    }

    async fn truncate(&self, from: u64) -> io::Result<()> {
        self.run(move |disk| {
            let mut batch = sled::Batch::default();
            for key in disk.log.range(from.to_be_bytes()..).keys() {
                batch.remove(key?);
            }
            disk.room_for(0)?;
            disk.log.apply_batch(batch)?;
            disk.sync()
        })
        .await
    }

    async fn purge(&self, up_to: u64, id: Bytes) -> io::Result<()> {
        self.run(move |disk| {
            // Entries below the mark are ignored at a start; the next purge counts them in.
            disk.insert(PURGED, &id)?;
            disk.purged_end.fetch_max(up_to + 1, Ordering::Relaxed);
            Ok(())
        })
        .await
    }

    async fn save(&self, mark: Mark, value: Bytes) -> io::Result<()> {
        let name = match mark {
            Mark::Committed => {
                *self.0.committed() = Some(value);
                return Ok(());
            }
            Mark::Vote => VOTE,
            Mark::Admitted => ADMITTED,
        };
        self.run(move |disk| {
            disk.insert(name, &value)?;
            disk.sync()
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
            let range = disk.log.range(from.to_be_bytes()..end.to_be_bytes());
            for entry in Entries::new(range) {
                let raw = entry?;
                bytes += raw.len();
                if bytes > bytes_max && !entries.is_empty() {
                    break;
                }
                entries.push(raw);
            }
            Ok(entries)
        })
        .await
    }
}
