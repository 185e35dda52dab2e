//! One segment: records one after the other, and at its end a seal once it takes no more.
//!
//! Invariants: what comes before a seal was durable before it, and behind it is nothing; a
//! segment without one may end anywhere, and its bodies are verified before they are trusted.

use std::{io, sync::Arc};

use kvmesh_client::{
    Block, Ranges,
    block::{Assembler, BlockError},
    ranges::{Pieces, PiecesAssembler, PiecesError},
};
use kvmesh_directory::{Checksum, limits::PIECE_BYTES};

use super::{
    aligned::Aligned,
    io::SegmentFile,
    record::{ALIGN, Header, Malformed, Spot, aligned},
};

const _: () = assert!((PIECE_BYTES as u64).is_multiple_of(ALIGN));

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
    /// Those of its bytes that were read are wrong.
    #[error(transparent)]
    Pieces(#[from] PiecesError),
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

    /// As [`Self::record`], of the pieces of its block that ranges touch, which is of `block`
    /// bytes; no other piece is read. Also says how many bytes were.
    pub(super) fn pieces(
        &self,
        offset: u64,
        (bytes, block): (u64, u64),
        ranges: &Ranges,
    ) -> Result<(Header, Pieces, u64), ReadError> {
        let mut raw = Aligned::zeroed(bytes.saturating_sub(aligned(block)));
        self.file.read(&mut raw, offset)?;
        let header = Header::decode(&self.spot(offset), &raw)?;
        if header.record_bytes() != bytes || header.meta.bytes != block {
            return Err(Malformed::Impossible.into());
        }
        let (body, mut read) = (offset + header.bytes(), raw.len() as u64);
        let wanted = ranges.touch(block);
        let mut pieces = PiecesAssembler::new(header.meta.clone(), ranges, &wanted)?;
        for run in wanted.chunk_by(|one, next| one + 1 == *next) {
            let lens = run.iter().map(|at| header.meta.piece_len(*at as usize));
            let all = lens.clone().sum::<usize>() as u64;
            let mut raw = Aligned::zeroed(aligned(all));
            // Pieces begin on `ALIGN`, as the body does.
            let first = u64::from(run[0]) * PIECE_BYTES as u64;
            self.file.read(&mut raw, body + first)?;
            read += raw.len() as u64;
            let mut raw = raw.into_bytes();
            for len in lens {
                pieces.push(raw.split_to(len))?;
            }
        }
        Ok((header, pieces.finish()?, read))
    }

    /// Says that the segment takes no more records after `end`, and gives the room behind back;
    /// all of it is durable then. Power that is cut before the file is leaves one without a
    /// seal, since that is looked for at the end only.
    pub(super) fn seal(&self, end: u64) -> io::Result<()> {
        self.file.sync()?;
        self.file.write(&self.seal_page(end), end)?;
        self.file.sync()?;
        match end < self.room() {
            true => self.file.resize(end + ALIGN),
            false => Ok(()),
        }
    }

    pub(super) fn seal_page(&self, end: u64) -> Aligned {
        let mut raw = Aligned::zeroed(ALIGN);
        raw[..8].copy_from_slice(&SEAL);
        raw[8..24].copy_from_slice(&self.store);
        raw[24..32].copy_from_slice(&self.number.to_be_bytes());
        raw[32..40].copy_from_slice(&end.to_be_bytes());
        let checksum = Checksum::of(&raw[..40]);
        raw[40..56].copy_from_slice(&checksum.0);
        raw
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
