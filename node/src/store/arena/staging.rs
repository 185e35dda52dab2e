//! Memory that a client on this host puts blocks into, for this node to copy out of: a file in
//! memory (memfd) of one connection.
//!
//! Invariants: it is new for each connection, so that its pages were nobody else's; it keeps its
//! size; this node does not map it, but asks the kernel for a copy, since whoever has the
//! descriptor may write at any time. Only that copy is verified and kept.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use kvmesh_directory::limits::{
    LOCAL_STAGING_BYTES_MAX, LOCAL_STAGING_CLIENT_PART, LOCAL_STAGING_PART, PIECE_BYTES,
};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};

use super::{Room, map::Slot};

/// All staging of a node. Clones share the bound.
#[derive(Debug, Clone, Default)]
pub(crate) struct Stagings(Arc<AtomicU64>);

/// Why there is no staging.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NoStaging {
    /// Other connections have it.
    #[error("the memory for puts of clients on this host is used up")]
    Full,
    /// The kernel does not make it.
    #[error("no memory can be shared")]
    Io(#[from] io::Error),
}

/// Why a piece was not copied.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotCopied {
    /// It does not lie within the staging.
    #[error("a piece of {bytes} bytes at {at} is not within the {all} bytes to put into")]
    Outside {
        /// Its size.
        bytes: usize,
        /// Where it begins.
        at: u64,
        /// Size of the staging.
        all: u64,
    },
    /// What was evicted is still being read.
    #[error("no memory is free for a piece of {0} bytes")]
    NoRoom(usize),
    /// The kernel does not copy it.
    #[error("a piece cannot be read")]
    Io(#[from] io::Error),
}

/// Of one connection. See the module.
#[derive(Debug)]
pub(crate) struct Staging {
    file: OwnedFd,
    bytes: u64,
    all: Arc<AtomicU64>,
}

impl Stagings {
    /// A new one, while all together take no more than their part of the bytes that may be in
    /// flight. No page is touched yet.
    pub(crate) fn open(&self, inflight_max: u64) -> Result<Staging, NoStaging> {
        let piece = PIECE_BYTES as u64;
        let bytes = (inflight_max / LOCAL_STAGING_CLIENT_PART / piece * piece)
            .clamp(piece, LOCAL_STAGING_BYTES_MAX);
        let before = self.0.fetch_add(bytes, Ordering::Relaxed);
        // From here on dropping it gives the bytes back.
        let all = Arc::clone(&self.0);
        let made = file(bytes).map(|file| Staging { file, bytes, all });
        let made = made.inspect_err(|_| {
            self.0.fetch_sub(bytes, Ordering::Relaxed);
        })?;
        match before + bytes <= inflight_max / LOCAL_STAGING_PART {
            true => Ok(made),
            false => Err(NoStaging::Full),
        }
    }
}

fn file(bytes: u64) -> io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let file = memfd_create("kvmesh-staging", flags)?;
    ftruncate(&file, bytes)?;
    fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
    Ok(file)
}

impl Staging {
    /// For the client that it is for.
    pub(crate) fn file(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// Its size.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// A copy of a piece, where the blocks of its namespace are kept.
    pub(crate) fn copy(&self, room: &Room, at: u64, bytes: usize) -> Result<Bytes, NotCopied> {
        let all = self.bytes;
        let end = at.checked_add(bytes as u64);
        if end.is_none_or(|end| end > all) {
            return Err(NotCopied::Outside { bytes, at, all });
        }
        let mut slot: Slot = room.slot(bytes).ok_or(NotCopied::NoRoom(bytes))?;
        slot.read(self.file(), at, bytes)?;
        Ok(slot.freeze())
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        self.all.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
#[path = "staging_test.rs"]
mod staging_test;
