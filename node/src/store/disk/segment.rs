//! One segment: records one after the other, and at its end a seal once it takes no more.
//!
//! Invariants: what comes before a seal was durable before it; a segment without one may end
//! anywhere, and its bodies are verified before they are trusted.

use std::{io, sync::Arc};

use kvmesh_client::{
    Block,
    block::{Assembler, BlockError},
};
use kvmesh_directory::Checksum;

use super::{
    aligned::Aligned,
    io::SegmentFile,
    record::{ALIGN, Header, Malformed, Spot},
};

const SEAL: [u8; 8] = *b"kvmbseal";

/// Who holds it can read it, also after it was removed.
#[derive(Clone)]
pub(super) struct Segment {
    pub(super) store: [u8; 16],
    pub(super) number: u64,
    pub(super) file: Arc<dyn SegmentFile>,
}

/// A record that is not what it should be.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReadError {
    /// The disk failed.
    #[error("the disk cannot be read")]
    Io(#[from] io::Error),
    /// Its header is wrong.
    #[error(transparent)]
    Header(#[from] Malformed),
    /// Its bytes are wrong.
    #[error(transparent)]
    Body(#[from] BlockError),
}

impl Segment {
    pub(super) fn spot(&self, offset: u64) -> Spot {
        Spot {
            store: self.store,
            segment: self.number,
            offset,
        }
    }

    /// Bytes for records: all but the seal.
    pub(super) fn room(&self) -> u64 {
        self.file.bytes().saturating_sub(ALIGN)
    }

    /// Reads and verifies the record at an offset; `bytes` is how long it is.
    pub(super) fn record(&self, offset: u64, bytes: u64) -> Result<(Header, Block), ReadError> {
        let mut raw = Aligned::zeroed(bytes);
        self.file.read(&mut raw, offset)?;
        let header = Header::decode(&self.spot(offset), &raw)?;
        if header.record_bytes() != bytes {
            return Err(Malformed::Impossible.into());
        }
        let raw = raw.into_bytes();
        let mut block = Assembler::new(header.meta.clone(), true)?;
        let mut from = header.bytes() as usize;
        for index in 0..header.meta.piece_count() {
            let end = from + header.meta.piece_len(index);
            block.push(raw.slice(from..end))?;
            from = end;
        }
        Ok((header, block.finish()?))
    }

    /// Says that the segment takes no more records after `end`; all of it is durable then.
    pub(super) fn seal(&self, end: u64) -> io::Result<()> {
        self.file.sync()?;
        let mut raw = Aligned::zeroed(ALIGN);
        raw[..8].copy_from_slice(&SEAL);
        raw[8..24].copy_from_slice(&self.store);
        raw[24..32].copy_from_slice(&self.number.to_be_bytes());
        raw[32..40].copy_from_slice(&end.to_be_bytes());
        let checksum = Checksum::of(&raw[..40]);
        raw[40..56].copy_from_slice(&checksum.0);
        self.file.write(&raw, self.room())?;
        self.file.sync()
    }

    /// Where the records end, when the segment is sealed.
    pub(super) fn sealed(&self) -> io::Result<Option<u64>> {
        let mut raw = Aligned::zeroed(ALIGN);
        self.file.read(&mut raw, self.room())?;
        let mut want = Vec::with_capacity(32);
        want.extend_from_slice(&SEAL);
        want.extend_from_slice(&self.store);
        want.extend_from_slice(&self.number.to_be_bytes());
        let is_seal = raw[..32] == want[..] && Checksum::of(&raw[..40]).0 == raw[40..56];
        let end = raw[32..40].first_chunk().copied().map(u64::from_be_bytes);
        Ok(end.filter(|end| is_seal && *end <= self.room()))
    }
}
