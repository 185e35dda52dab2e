//! What the log needs from a disk. Calls block; `pool` makes them elsewhere.

use std::{io, sync::Arc};

/// How many bytes a file system has for its users.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Space {
    pub(super) total: u64,
    pub(super) free: u64,
}

impl Space {
    /// Bytes that are in use.
    pub(super) fn used(self) -> u64 {
        self.total.saturating_sub(self.free)
    }
}

/// The files of a store, one for each segment.
pub(super) trait Files: Send + Sync {
    /// Numbers of the segments, ascending.
    fn list(&self) -> io::Result<Vec<u64>>;
    /// A new segment of so many bytes, all zero. Its existence is durable on return.
    fn create(&self, segment: u64, bytes: u64) -> io::Result<Arc<dyn SegmentFile>>;
    /// A segment that exists.
    fn open(&self, segment: u64) -> io::Result<Arc<dyn SegmentFile>>;
    /// Removes a segment; who has it open can still read it.
    fn remove(&self, segment: u64) -> io::Result<()>;
    /// Of the file system.
    fn space(&self) -> io::Result<Space>;
}

/// One segment. Offsets, lengths and memory are aligned to `ALIGN`.
pub(super) trait SegmentFile: Send + Sync {
    /// How long it is.
    fn bytes(&self) -> u64;
    /// Fills `into` from an offset; an end before that is an error.
    fn read(&self, into: &mut [u8], offset: u64) -> io::Result<()>;
    /// Writes all of `from`.
    fn write(&self, from: &[u8], offset: u64) -> io::Result<()>;
    /// Cuts it off, or makes it longer by zeros that have their room. How long it is is durable
    /// on return.
    fn resize(&self, bytes: u64) -> io::Result<()>;
    /// What was written is durable on return.
    fn sync(&self) -> io::Result<()>;
}
