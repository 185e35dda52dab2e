//! What a segment has, read back after a start. Nothing half-written is trusted.
//!
//! A sealed segment was durable as a whole: its headers are read, its bodies are verified by
//! who reads them. In one without a seal every body is verified; a header whose body is not
//! right is wiped, and the segment is sealed then. Where no header is, the next place is
//! tried: a damaged one costs its own record only. Either is cut to what it holds.

use std::io;

use super::{
    aligned::Aligned,
    record::{ALIGN, HEADER_BYTES_MAX, Header, Malformed},
    segment::{ReadError, Segment},
};

/// Bytes that are read at once where no header is found.
const STRIDE: u64 = 1 << 20;
const _: () = assert!(STRIDE >= HEADER_BYTES_MAX);

/// What a segment has.
#[derive(Debug, Default)]
pub(super) struct Recovered {
    /// Offsets and headers, ascending.
    pub(super) records: Vec<(u64, Header)>,
    /// Where they end.
    pub(super) end: u64,
    /// Records that were begun and are not whole.
    pub(super) torn: u64,
}

/// Reads a segment back, seals it and cuts it to what it holds.
pub(super) fn recover(segment: &Segment) -> io::Result<Recovered> {
    if let Some(end) = segment.sealed()? {
        let found = scan(segment, end)?;
        if end < segment.room() {
            // Segments once kept their size, with the seal at its end.
            segment.seal(end)?;
        }
        return Ok(Recovered { end, ..found });
    }
    let mut found = scan(segment, segment.room())?;
    let mut whole = Vec::with_capacity(found.records.len());
    for (offset, header) in found.records {
        match segment.record(offset, header.record_bytes()) {
            Ok(_) => whole.push((offset, header)),
            Err(ReadError::Io(error)) => return Err(error),
            Err(ReadError::Header(_) | ReadError::Body(_) | ReadError::Pieces(_)) => {
                found.torn += 1;
                segment.file.write(&Aligned::zeroed(ALIGN), offset)?;
            }
        }
    }
    let end = whole.last();
    let end = end.map_or(0, |(offset, header)| offset + header.record_bytes());
    segment.seal(end)?;
    Ok(Recovered {
        records: whole,
        end,
        ..found
    })
}

fn scan(segment: &Segment, end: u64) -> io::Result<Recovered> {
    let mut found = Recovered::default();
    let mut window = Window::default();
    let (mut offset, mut ahead) = (0, HEADER_BYTES_MAX);
    while offset < end {
        let raw = window.at(segment, offset, ahead)?;
        match Header::decode(&segment.spot(offset), raw) {
            Ok(header) if header.record_bytes() <= end - offset => {
                let next = offset + header.record_bytes();
                found.records.push((offset, header));
                (offset, ahead) = (next, HEADER_BYTES_MAX);
            }
            wrong => {
                // Zeros were never written; anything else that begins like a header was.
                if !matches!(wrong, Err(Malformed::NoHeader)) {
                    found.torn += 1;
                }
                (offset, ahead) = (offset + ALIGN, STRIDE);
            }
        }
    }
    Ok(found)
}

/// A part of a segment that was read.
#[derive(Default)]
struct Window {
    start: u64,
    raw: Option<Aligned>,
}

impl Window {
    /// The bytes from an offset on, as many as a header may have or as there are; where they
    /// must be read, `ahead` bytes are.
    fn at(&mut self, segment: &Segment, offset: u64, ahead: u64) -> io::Result<&[u8]> {
        let bytes = segment.file.bytes();
        let want = HEADER_BYTES_MAX.min(bytes - offset);
        let end = self
            .raw
            .as_ref()
            .map_or(0, |raw| self.start + raw.len() as u64);
        if self.raw.is_none() || offset < self.start || offset + want > end {
            let mut raw = Aligned::zeroed(ahead.max(want).min(bytes - offset));
            segment.file.read(&mut raw, offset)?;
            self.start = offset;
            self.raw = Some(raw);
        }
        let raw = self.raw.as_deref().unwrap_or_default();
        Ok(&raw[(offset - self.start) as usize..])
    }
}

#[cfg(test)]
#[path = "recover_test.rs"]
mod recover_test;
