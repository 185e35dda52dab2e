//! Byte ranges of blocks, and the pieces that they touch. Pure.
//!
//! Invariants: ranges are ascending, not empty, do not overlap, end within the largest block,
//! and are [`RANGES_MAX`] at most. A piece is the least that can be verified alone, so that
//! ranges are widened to pieces on their way, and cut out where they are used.

mod pieces;

use std::{ops::Range, sync::Arc};

use kvmesh_directory::limits::{BLOCK_BYTES_MAX, PIECE_BYTES, RANGES_MAX};

pub use pieces::{Pieces, PiecesAssembler, PiecesError};

/// Which bytes of each block are wanted. Cheap to clone.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ranges {
    /// Empty: whole blocks.
    ranges: Arc<[Range<u64>]>,
}

/// Ranges that cannot be, or that a block does not have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RangesError {
    /// It ends where it begins.
    #[error("the range from {start} has no byte: leave it out")]
    Empty {
        /// Where it begins.
        start: u64,
    },
    /// It ends before it begins.
    #[error("the range from {start} ends before it, at {end}")]
    Backwards {
        /// Where it begins.
        start: u64,
        /// Where it ends.
        end: u64,
    },
    /// No block is so long.
    #[error("the range from {start} goes past {BLOCK_BYTES_MAX} bytes, the largest block")]
    TooLong {
        /// Where it begins.
        start: u64,
    },
    /// Two share a byte, or the later one comes first.
    #[error(
        "the range from {start} begins before the one before it ends, at {before}: name ranges in ascending order, and no byte twice"
    )]
    Overlap {
        /// Where it begins.
        start: u64,
        /// Where the one before it ends.
        before: u64,
    },
    /// Over the limit.
    #[error(
        "there are over {RANGES_MAX} ranges: split the get, or join ranges that are near one another"
    )]
    TooMany,
    /// The block is shorter.
    #[error("the range {start}..{end} goes past the block's end: it has {bytes} bytes")]
    PastEnd {
        /// Where the range begins.
        start: u64,
        /// Where it ends.
        end: u64,
        /// Bytes of the block.
        bytes: u64,
    },
}

impl Ranges {
    /// Of each block these bytes; none: all of them.
    ///
    /// # Errors
    /// When a range is empty, ends before it begins, begins before the one before it ends, or
    /// ends past the largest block; or when there are too many.
    pub fn new(ranges: impl IntoIterator<Item = Range<u64>>) -> Result<Self, RangesError> {
        let mut checked: Vec<Range<u64>> = Vec::new();
        for Range { start, end } in ranges {
            let before = checked.last().map_or(0, |before| before.end);
            match () {
                () if checked.len() == RANGES_MAX => return Err(RangesError::TooMany),
                () if start == end => return Err(RangesError::Empty { start }),
                () if end < start => return Err(RangesError::Backwards { start, end }),
                () if end > BLOCK_BYTES_MAX => return Err(RangesError::TooLong { start }),
                () if start < before => return Err(RangesError::Overlap { start, before }),
                () => checked.push(start..end),
            }
        }
        Ok(Self {
            ranges: checked.into(),
        })
    }

    /// Whether all bytes are wanted.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.ranges.is_empty()
    }

    /// The ranges; none: all bytes are wanted.
    #[must_use]
    pub fn as_slice(&self) -> &[Range<u64>] {
        &self.ranges
    }

    /// The ranges of a block of so many bytes.
    ///
    /// # Errors
    /// When the block is shorter than they are.
    pub fn of(&self, bytes: u64) -> Result<Vec<Range<u64>>, RangesError> {
        self.check(bytes)?;
        Ok(match self.is_whole() {
            true => std::iter::once(0..bytes).collect(),
            false => self.ranges.to_vec(),
        })
    }

    /// Whether a block of so many bytes has them.
    ///
    /// # Errors
    /// The last range, when it goes past the block's end.
    pub fn check(&self, bytes: u64) -> Result<(), RangesError> {
        match self.ranges.last() {
            Some(&Range { start, end }) if end > bytes => {
                Err(RangesError::PastEnd { start, end, bytes })
            }
            _ => Ok(()),
        }
    }

    /// Numbers of the pieces of a block of so many bytes that they touch, ascending.
    #[must_use]
    pub fn touch(&self, bytes: u64) -> Vec<u32> {
        let piece = PIECE_BYTES as u64;
        // At most `BLOCK_PIECES_MAX`.
        let all = bytes.min(BLOCK_BYTES_MAX).div_ceil(piece) as u32;
        if self.is_whole() {
            return (0..all).collect();
        }
        let mut touched: Vec<u32> = Vec::new();
        for range in &*self.ranges {
            let first = (range.start / piece) as u32;
            let behind = range.end.div_ceil(piece) as u32;
            let next = touched.last().map_or(0, |last| last + 1);
            touched.extend(first.max(next)..behind.min(all));
        }
        touched
    }

    /// Bytes of the pieces that they touch.
    #[must_use]
    pub fn touched_bytes(&self, bytes: u64) -> u64 {
        if self.is_whole() {
            return bytes;
        }
        let piece = PIECE_BYTES as u64;
        let len = |number: u32| (bytes - u64::from(number) * piece).min(piece);
        self.touch(bytes).into_iter().map(len).sum()
    }
}

#[cfg(test)]
#[path = "ranges_test.rs"]
mod ranges_test;
