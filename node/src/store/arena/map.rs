//! Memory that is mapped once and given out in slots; the one file of the node with `unsafe`.
//!
//! A map is private, or shared with those who get its descriptor: these can only read.
//!
//! Invariants, on which every `unsafe` here rests: the mapping lives as long as anything that
//! points into it (each slot holds the map); two slots never overlap ([`Granules`] gives no
//! granule out twice, and a slot gives its own back only when it is dropped); bytes are read
//! only where they were written, so nobody reads what another block left behind.

#![allow(unsafe_code, reason = "this is the memory-mapping module")]

use std::{
    ffi::c_void,
    io,
    mem::MaybeUninit,
    os::fd::BorrowedFd,
    ptr::{self, NonNull},
    slice,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use kvmesh_directory::limits::PIECE_BYTES;
use rustix::{
    io::pread,
    mm::{Advice, MapFlags, ProtFlags, madvise, mmap, mmap_anonymous, munmap},
};

use super::granules::{GRANULE_BYTES, Granules};

/// See the module.
#[derive(Debug)]
pub(super) struct Map {
    base: NonNull<u8>,
    bytes: usize,
    granules: Mutex<Granules>,
}

// SAFETY: `base` is only an address; what it points to is reached through slots, which do
// not overlap.
unsafe impl Send for Map {}
// SAFETY: as above; the books are behind a lock.
unsafe impl Sync for Map {}

impl Map {
    /// Maps at least `bytes`, in whole pieces. No page is touched yet.
    pub(super) fn new(bytes: u64, huge_pages: bool) -> io::Result<Self> {
        let chunks =
            usize::try_from(bytes.div_ceil(PIECE_BYTES as u64)).map_err(io::Error::other)?;
        let bytes = chunks.max(1).saturating_mul(PIECE_BYTES);
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        // SAFETY: a new mapping, at an address that the kernel chooses.
        let base = unsafe { mmap_anonymous(ptr::null_mut(), bytes, protection, flags) }?;
        let map = Self::of(base, bytes)?;
        if huge_pages {
            map.advise(0, bytes, Advice::LinuxHugepage)?;
        }
        Ok(map)
    }

    /// Maps a file in memory that has `bytes`, in whole pieces, and that nobody else knows yet;
    /// the caller seals it, so that it keeps its size and nobody else writes it.
    pub(super) fn shared(file: BorrowedFd<'_>, bytes: usize) -> io::Result<Self> {
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        let flags = MapFlags::SHARED;
        // SAFETY: a new mapping, at an address that the kernel chooses.
        let base = unsafe { mmap(ptr::null_mut(), bytes, protection, flags, file, 0) }?;
        Self::of(base, bytes)
    }

    fn of(base: *mut c_void, bytes: usize) -> io::Result<Self> {
        Ok(Self {
            base: NonNull::new(base.cast()).ok_or_else(|| io::Error::other("mapped at null"))?,
            bytes,
            granules: Mutex::new(Granules::new(bytes / PIECE_BYTES)),
        })
    }

    /// Gives the kernel advice about a part; beyond the end there is nothing to say.
    fn advise(&self, from: usize, bytes: usize, advice: Advice) -> io::Result<()> {
        let from = from.min(self.bytes);
        let bytes = bytes.min(self.bytes - from);
        // SAFETY: the part is within the mapping; huge pages and populate do not change what
        // is in it, and `trim` lets go of chunks that no slot is in.
        unsafe { madvise(self.at(from).cast::<c_void>(), bytes, advice) }?;
        Ok(())
    }

    /// Gives pages back to the system: those of free chunks, as far as the books want it.
    pub(super) fn trim(&self) {
        // The lock keeps the chunk free meanwhile.
        let mut granules = self.granules();
        while let Some(chunk) = granules.spare() {
            let from = chunk * PIECE_BYTES;
            if self
                .advise(from, PIECE_BYTES, Advice::LinuxDontNeed)
                .is_err()
            {
                return;
            }
        }
    }

    /// Makes pages of a part present, so that nobody waits for them later.
    pub(super) fn populate(&self, from: usize, bytes: usize) -> io::Result<()> {
        self.advise(from, bytes, Advice::LinuxPopulateWrite)
    }

    fn at(&self, offset: usize) -> *mut u8 {
        debug_assert!(offset <= self.bytes);
        // SAFETY: within the mapping, or one past its end.
        unsafe { self.base.as_ptr().add(offset) }
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn granules(&self) -> MutexGuard<'_, Granules> {
        self.granules.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether bytes lie here.
    pub(super) fn contains(&self, bytes: &[u8]) -> bool {
        self.offset(bytes).is_some()
    }

    /// Where bytes lie, from the start on. None: not here.
    pub(super) fn offset(&self, bytes: &[u8]) -> Option<usize> {
        let (base, at) = (self.base.as_ptr().addr(), bytes.as_ptr().addr());
        at.checked_sub(base).filter(|offset| *offset < self.bytes)
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        // SAFETY: every slot holds the map, so none is left. An error would leave the
        // addresses mapped, which harms nobody.
        let _ = unsafe { munmap(self.base.as_ptr().cast(), self.bytes) };
    }
}

/// Room for one piece, to be filled from the front. Given back when the last who reads it
/// lets go.
#[derive(Debug)]
pub(crate) struct Slot {
    map: Arc<Map>,
    first: usize,
    count: usize,
    filled: usize,
}

impl Slot {
    /// Room for `bytes`, at most a piece. None: there is none.
    pub(super) fn new(map: &Arc<Map>, bytes: usize) -> Option<Self> {
        let count = bytes.max(1).div_ceil(GRANULE_BYTES);
        let first = map.granules().take(count)?;
        Some(Self {
            map: Arc::clone(map),
            first,
            count,
            filled: 0,
        })
    }

    /// Appends bytes. False: they do not fit, and none were taken.
    #[must_use]
    pub(crate) fn push(&mut self, bytes: &[u8]) -> bool {
        if bytes.len() > self.count * GRANULE_BYTES - self.filled {
            return false;
        }
        let to = self.map.at(self.first * GRANULE_BYTES + self.filled);
        // SAFETY: the room was checked; the slot is nobody else's, so `bytes` do not overlap it.
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len()) };
        self.filled += bytes.len();
        true
    }

    /// Appends what a file has from a byte on.
    ///
    /// # Errors
    /// When it cannot be read, does not have so much, or it does not fit.
    pub(crate) fn read(&mut self, file: BorrowedFd<'_>, at: u64, bytes: usize) -> io::Result<()> {
        if bytes > self.count * GRANULE_BYTES - self.filled {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let to = self.map.at(self.first * GRANULE_BYTES + self.filled);
        // SAFETY: the room was checked; the slot is nobody else's, and what was pushed ends before.
        let mut rest = unsafe { slice::from_raw_parts_mut(to.cast::<MaybeUninit<u8>>(), bytes) };
        let mut at = at;
        while !rest.is_empty() {
            let (got, left) = pread(file, rest, at)?;
            if got.is_empty() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            at += got.len() as u64;
            rest = left;
        }
        self.filled += bytes;
        Ok(())
    }

    /// What was pushed.
    pub(crate) fn freeze(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for Slot {
    fn as_ref(&self) -> &[u8] {
        let from = self.map.at(self.first * GRANULE_BYTES);
        // SAFETY: `filled` bytes were written from here on, and who can write more has `&mut`.
        unsafe { slice::from_raw_parts(from, self.filled) }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.map.granules().give(self.first, self.count);
        self.map.trim();
    }
}
