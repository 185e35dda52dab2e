//! Memory of a node on this host: segments mapped to be read, and staging mapped to be written;
//! the one file of the client with `unsafe`.
//!
//! Invariants, on which every `unsafe` here rests: a mapping lives as long as any bytes of it
//! (each view holds it); the file is sealed against becoming shorter, so that every mapped byte
//! stays there; the node does not write where a lease is held, and each view holds one; nobody
//! has a reference into staging, and who writes it has the only one to its mapping.

#![allow(unsafe_code, reason = "this is the client's memory-mapping module")]

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    ptr::{self, NonNull},
    slice,
    sync::Arc,
};

use bytes::Bytes;
use rustix::{
    fs::{SealFlags, fcntl_get_seals, fstat},
    mm::{MapFlags, ProtFlags, mmap, munmap},
};

/// One segment.
#[derive(Debug)]
pub(super) struct Mapping {
    base: NonNull<u8>,
    bytes: usize,
}

// SAFETY: `base` is only an address; what it points to is only read.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps a whole segment of `bytes`, to be read. The descriptor is not needed any more then.
    pub(super) fn of(file: &OwnedFd, bytes: u64) -> io::Result<Self> {
        Self::mapped(file, bytes, SealFlags::FUTURE_WRITE, ProtFlags::READ)
    }

    fn mapped(
        file: &OwnedFd,
        bytes: u64,
        seals: SealFlags,
        protection: ProtFlags,
    ) -> io::Result<Self> {
        let sealed = seals | SealFlags::SHRINK | SealFlags::GROW;
        let size = u64::try_from(fstat(file)?.st_size).unwrap_or(0);
        if size != bytes || bytes == 0 || !fcntl_get_seals(file)?.contains(sealed) {
            let why = "a node's memory is not sealed, or not as long as it said";
            return Err(io::Error::new(io::ErrorKind::InvalidData, why));
        }
        let bytes = usize::try_from(bytes).map_err(io::Error::other)?;
        let flags = MapFlags::SHARED;
        // SAFETY: a new mapping, at an address that the kernel chooses.
        let base = unsafe { mmap(ptr::null_mut(), bytes, protection, flags, file.as_fd(), 0) }?;
        Ok(Self {
            base: NonNull::new(base.cast()).ok_or_else(|| io::Error::other("mapped at null"))?,
            bytes,
        })
    }

    /// A part that `lease` keeps as it is. None: it is not within the segment.
    pub(super) fn view<L: Send + Sync + 'static>(
        self: &Arc<Self>,
        offset: u64,
        bytes: usize,
        lease: L,
    ) -> Option<Bytes> {
        let offset = usize::try_from(offset).ok()?;
        let end = offset.checked_add(bytes)?;
        (end <= self.bytes).then(|| {
            Bytes::from_owner(View {
                mapping: Arc::clone(self),
                offset,
                bytes,
                _lease: lease,
            })
        })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: every view holds the mapping, so none is left. An error would leave the
        // addresses mapped, which harms nobody.
        let _ = unsafe { munmap(self.base.as_ptr().cast(), self.bytes) };
    }
}

/// Memory that blocks are put into, for a node to copy.
#[derive(Debug)]
pub(super) struct Staging(Mapping);

impl Staging {
    /// Maps all `bytes` of it, to be written. The descriptor is not needed any more then.
    pub(super) fn of(file: &OwnedFd, bytes: u64) -> io::Result<Self> {
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        Mapping::mapped(file, bytes, SealFlags::empty(), protection).map(Self)
    }

    /// Its size.
    pub(super) fn bytes(&self) -> u64 {
        self.0.bytes as u64
    }

    /// Copies bytes to a place. False: they do not fit there, and nothing was written.
    #[must_use]
    pub(super) fn fill(&mut self, at: u64, bytes: &[u8]) -> bool {
        let Ok(at) = usize::try_from(at) else {
            return false;
        };
        let end = at.checked_add(bytes.len());
        if end.is_none_or(|end| end > self.0.bytes) {
            return false;
        }
        // SAFETY: the place is within the mapping; `bytes` are not, since nobody has a
        // reference into it. The node asks the kernel for what is here, whenever it does.
        unsafe {
            let to = self.0.base.as_ptr().add(at);
            ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len());
        }
        true
    }
}

struct View<L> {
    mapping: Arc<Mapping>,
    offset: usize,
    bytes: usize,
    _lease: L,
}

impl<L> AsRef<[u8]> for View<L> {
    fn as_ref(&self) -> &[u8] {
        // SAFETY: the part is within the mapping, which was checked, and nobody writes it
        // while the lease is held.
        unsafe { slice::from_raw_parts(self.mapping.base.as_ptr().add(self.offset), self.bytes) }
    }
}
