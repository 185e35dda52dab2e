//! Segments in memory that fail as disks do: calls that fail, short writes, a full disk,
//! flipped bits, and power cuts that keep any part of what was not synced, sizes included.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::io::{Files, SegmentFile, Space};

const SECTOR: usize = 512;

/// What goes wrong from now on.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Faults {
    pub(super) reads: bool,
    pub(super) writes: bool,
    /// Writes stop after so many bytes, and fail.
    pub(super) short: Option<usize>,
    pub(super) syncs: bool,
    pub(super) creates: bool,
    /// The file system has no room.
    pub(super) full: bool,
}

#[derive(Default)]
struct Data {
    now: Vec<u8>,
    durable: Vec<u8>,
    /// Sectors that differ perhaps.
    unsynced: BTreeSet<usize>,
}

#[derive(Default)]
struct Inner {
    files: BTreeMap<u64, Arc<Mutex<Data>>>,
    faults: Faults,
    written: u64,
    read: u64,
    /// Bytes of the file system, and of what others have on it; none: it has room for all.
    space: Option<(u64, u64)>,
}

/// See the module. Clones share it.
#[derive(Clone, Default)]
pub(super) struct FaultyFiles(Arc<Mutex<Inner>>);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn broken(fails: bool) -> io::Result<()> {
    match fails {
        true => Err(io::Error::from_raw_os_error(5)),
        false => Ok(()),
    }
}

impl FaultyFiles {
    pub(super) fn fail(&self, faults: Faults) {
        lock(&self.0).faults = faults;
    }

    /// It is on a file system of so many bytes, of which others have so many.
    pub(super) fn shares(&self, total: u64, others: u64) {
        lock(&self.0).space = Some((total, others));
    }

    /// Bytes of all files.
    pub(super) fn bytes(&self) -> u64 {
        let inner = lock(&self.0);
        let sizes = inner.files.values().map(|data| lock(data).now.len() as u64);
        sizes.sum()
    }

    /// Bytes of all writes.
    pub(super) fn written(&self) -> u64 {
        lock(&self.0).written
    }

    /// Bytes of all reads.
    pub(super) fn read(&self) -> u64 {
        lock(&self.0).read
    }

    /// What a disk has after the power was cut: of what was not synced, the sectors that
    /// `kept` chooses.
    pub(super) fn cut(&self, mut kept: impl FnMut() -> bool) -> Self {
        let inner = lock(&self.0);
        let files = inner.files.iter().map(|(number, data)| {
            let data = lock(data);
            let mut now = data.durable.clone();
            if now.len() != data.now.len() && kept() {
                now.resize(data.now.len(), 0);
            }
            let both = now.len().min(data.now.len()) / SECTOR;
            for sector in data.unsynced.range(..both).filter(|_| kept()) {
                let range = sector * SECTOR..(sector + 1) * SECTOR;
                now[range.clone()].copy_from_slice(&data.now[range]);
            }
            let data = Data {
                durable: now.clone(),
                now,
                unsynced: BTreeSet::new(),
            };
            (*number, Arc::new(Mutex::new(data)))
        });
        let inner = Inner {
            files: files.collect(),
            ..Inner::default()
        };
        Self(Arc::new(Mutex::new(inner)))
    }

    /// Flips a bit on the disk.
    pub(super) fn flip(&self, segment: u64, byte: usize, bit: u8) {
        let inner = lock(&self.0);
        let mut data = lock(&inner.files[&segment]);
        data.now[byte] ^= 1 << bit;
        data.durable[byte] ^= 1 << bit;
    }

    /// All bytes from one on were never written.
    pub(super) fn tear(&self, segment: u64, from: usize) {
        let inner = lock(&self.0);
        let mut data = lock(&inner.files[&segment]);
        data.now[from..].fill(0);
        data.durable = data.now.clone();
    }
}

impl Files for FaultyFiles {
    fn list(&self) -> io::Result<Vec<u64>> {
        Ok(lock(&self.0).files.keys().copied().collect())
    }

    fn create(&self, segment: u64, bytes: u64) -> io::Result<Arc<dyn SegmentFile>> {
        let mut inner = lock(&self.0);
        broken(inner.faults.creates)?;
        if inner.faults.full {
            return Err(io::Error::from(io::ErrorKind::StorageFull));
        }
        let data = Data {
            now: vec![0; bytes as usize],
            durable: vec![0; bytes as usize],
            unsynced: BTreeSet::new(),
        };
        inner.files.insert(segment, Arc::new(Mutex::new(data)));
        drop(inner);
        self.open(segment)
    }

    fn open(&self, segment: u64) -> io::Result<Arc<dyn SegmentFile>> {
        let inner = lock(&self.0);
        let data = inner.files.get(&segment);
        let data = data.ok_or(io::ErrorKind::NotFound)?;
        Ok(Arc::new(FaultyFile {
            data: Arc::clone(data),
            files: self.clone(),
        }))
    }

    fn remove(&self, segment: u64) -> io::Result<()> {
        lock(&self.0).files.remove(&segment);
        Ok(())
    }

    fn space(&self) -> io::Result<Space> {
        let held = self.bytes();
        let inner = lock(&self.0);
        let (total, others) = inner.space.unwrap_or((1 << 40, 0));
        let free = match inner.faults.full {
            true => 0,
            false => total.saturating_sub(others + held),
        };
        Ok(Space { total, free })
    }
}

struct FaultyFile {
    data: Arc<Mutex<Data>>,
    files: FaultyFiles,
}

impl SegmentFile for FaultyFile {
    fn bytes(&self) -> u64 {
        lock(&self.data).now.len() as u64
    }

    fn read(&self, into: &mut [u8], offset: u64) -> io::Result<()> {
        let reads = {
            let mut inner = lock(&self.files.0);
            inner.read += into.len() as u64;
            inner.faults.reads
        };
        broken(reads)?;
        let data = lock(&self.data);
        let from = data.now.get(offset as usize..offset as usize + into.len());
        into.copy_from_slice(from.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write(&self, from: &[u8], offset: u64) -> io::Result<()> {
        let faults = {
            let mut inner = lock(&self.files.0);
            inner.written += from.len() as u64;
            inner.faults
        };
        broken(faults.writes)?;
        let from = match faults.short {
            Some(bytes) => &from[..bytes.min(from.len())],
            None => from,
        };
        let mut data = lock(&self.data);
        let start = offset as usize;
        data.now[start..start + from.len()].copy_from_slice(from);
        let sectors = start / SECTOR..(start + from.len()).div_ceil(SECTOR);
        data.unsynced.extend(sectors);
        broken(faults.short.is_some())
    }

    fn resize(&self, bytes: u64) -> io::Result<()> {
        broken(lock(&self.files.0).faults.writes)?;
        lock(&self.data).now.resize(bytes as usize, 0);
        self.sync()
    }

    fn sync(&self) -> io::Result<()> {
        broken(lock(&self.files.0).faults.syncs)?;
        let mut data = lock(&self.data);
        data.durable = data.now.clone();
        data.unsynced.clear();
        Ok(())
    }
}
