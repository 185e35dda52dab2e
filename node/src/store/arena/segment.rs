//! Memory of one namespace that clients on this host can map: a file in memory (memfd).
//!
//! Invariants: only blocks of its namespace were ever in it, so nothing of another one can be
//! seen, also not in pages that were used before; it is sealed before its descriptor leaves,
//! so that nobody but this node writes it and nobody changes its size; its pages are given
//! back when the node and all who mapped it let go.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};

use super::map::{Map, Slot};

/// See the module.
#[derive(Debug)]
pub(crate) struct Segment {
    /// Never given twice by a node.
    pub(crate) id: u64,
    map: Arc<Map>,
    file: OwnedFd,
    retired: AtomicBool,
    /// Bytes of all segments of the arena.
    counted: Arc<AtomicU64>,
}

impl Segment {
    /// A new one of `bytes`, in whole pieces. No page is touched yet.
    pub(super) fn new(id: u64, bytes: usize, counted: &Arc<AtomicU64>) -> io::Result<Self> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let file = memfd_create("kvmesh-segment", flags)?;
        ftruncate(&file, bytes as u64)?;
        let map = Arc::new(Map::shared(file.as_fd(), bytes)?);
        // The node's own mapping was there before, and stays writable.
        let seals = SealFlags::FUTURE_WRITE | SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
        fcntl_add_seals(&file, seals)?;
        counted.fetch_add(bytes as u64, Ordering::Relaxed);
        Ok(Self {
            id,
            map,
            file,
            retired: AtomicBool::new(false),
            counted: Arc::clone(counted),
        })
    }

    /// For who may read the namespace.
    pub(crate) fn file(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// Its size.
    pub(crate) fn bytes(&self) -> u64 {
        self.map.bytes() as u64
    }

    /// Nothing will be put into it any more: whoever mapped it is to let go.
    pub(crate) fn is_retired(&self) -> bool {
        self.retired.load(Ordering::Acquire)
    }

    pub(super) fn retire(&self) {
        self.retired.store(true, Ordering::Release);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.map.granules().taken() == 0
    }

    pub(super) fn slot(&self, bytes: usize) -> Option<Slot> {
        Slot::new(&self.map, bytes)
    }

    /// Where bytes lie in it. None: elsewhere.
    pub(super) fn offset(&self, bytes: &[u8]) -> Option<u64> {
        self.map.offset(bytes).map(|offset| offset as u64)
    }
}

impl Drop for Segment {
    fn drop(&mut self) {
        self.counted.fetch_sub(self.bytes(), Ordering::Relaxed);
    }
}
