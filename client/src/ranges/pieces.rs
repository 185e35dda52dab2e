//! The wanted pieces of one block as they come, each verified by itself.

use std::ops::Range;

use bytes::{Bytes, BytesMut};
use kvmesh_directory::{Checksum, limits::PIECE_BYTES};

use super::{Ranges, RangesError};
use crate::block::{Block, BlockError, BlockMeta};

/// Pieces that are not those that were asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PiecesError {
    /// The announcement cannot be, or a piece is wrong.
    #[error(transparent)]
    Block(#[from] BlockError),
    /// The block does not have the wanted bytes.
    #[error(transparent)]
    Range(#[from] RangesError),
    /// Others are announced than are wanted.
    #[error("pieces {sent:?} are announced, wanted are {wanted:?}")]
    NotAsked {
        /// Announced.
        sent: Vec<u32>,
        /// What the ranges touch.
        wanted: Vec<u32>,
    },
}

/// Pieces of a block, every byte of them verified unless its assembler was not to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pieces {
    /// Of the whole block.
    pub meta: BlockMeta,
    /// Which pieces, ascending.
    pub numbers: Vec<u32>,
    /// Their bytes, in the same order.
    pub pieces: Vec<Bytes>,
}

/// Collects the pieces of a block that ranges touch. It verifies what is wanted; of a sender
/// that sends whole blocks it passes over the rest.
#[derive(Debug)]
pub struct PiecesAssembler {
    meta: BlockMeta,
    wanted: Vec<u32>,
    /// All pieces of the block come, whatever is wanted.
    all: bool,
    verify: bool,
    /// Pieces that came.
    came: usize,
    pieces: Vec<Bytes>,
}

impl PiecesAssembler {
    /// Expects what `ranges` touch of a block. `sent` are the pieces that are announced; none:
    /// all of them.
    ///
    /// # Errors
    /// When the announcement cannot be, names other pieces than are wanted, or the block does
    /// not have the wanted bytes.
    pub fn new(meta: BlockMeta, ranges: &Ranges, sent: &[u32]) -> Result<Self, PiecesError> {
        meta.check()?;
        ranges.check(meta.bytes)?;
        let wanted = ranges.touch(meta.bytes);
        if !sent.is_empty() && sent != wanted {
            let sent = sent.to_vec();
            return Err(PiecesError::NotAsked { sent, wanted });
        }
        Ok(Self {
            pieces: Vec::with_capacity(wanted.len()),
            all: sent.is_empty(),
            verify: true,
            came: 0,
            wanted,
            meta,
        })
    }

    /// Whether it verifies: who passes pieces on leaves it to who gets them.
    #[must_use]
    pub fn verifying(self, verify: bool) -> Self {
        Self { verify, ..self }
    }

    /// Number of the piece that is to come next. None: no more is.
    fn next(&self) -> Option<usize> {
        match self.all {
            true => Some(self.came).filter(|next| *next < self.meta.pieces.len()),
            false => self.wanted.get(self.came).map(|next| *next as usize),
        }
    }

    /// Takes the next piece.
    ///
    /// # Errors
    /// When no piece is to come any more, or it is of the wrong size, or wanted and has the
    /// wrong bytes.
    pub fn push(&mut self, piece: Bytes) -> Result<(), PiecesError> {
        let next = self.next();
        let want = next.map_or(0, |next| self.meta.piece_len(next));
        let index = next.unwrap_or(self.meta.pieces.len());
        if piece.len() != want || want == 0 {
            let got = piece.len();
            return Err(BlockError::PieceSize { index, got, want }.into());
        }
        let wanted = self.wanted.get(self.pieces.len());
        if wanted.is_some_and(|wanted| *wanted as usize == index) {
            let want = self.meta.pieces[index];
            let got = match self.verify {
                true => Checksum::of(&piece),
                false => want,
            };
            if got != want {
                return Err(BlockError::Piece { index, got, want }.into());
            }
            self.pieces.push(piece);
        }
        self.came += 1;
        Ok(())
    }

    /// The pieces.
    ///
    /// # Errors
    /// When some are missing.
    pub fn finish(self) -> Result<Pieces, PiecesError> {
        let (got, want) = (self.pieces.len(), self.wanted.len());
        if got != want {
            return Err(BlockError::Truncated { got, want }.into());
        }
        Ok(Pieces {
            meta: self.meta,
            numbers: self.wanted,
            pieces: self.pieces,
        })
    }
}

impl From<Block> for Pieces {
    fn from(block: Block) -> Self {
        Self {
            numbers: (0..block.pieces.len() as u32).collect(),
            meta: block.meta,
            pieces: block.pieces,
        }
    }
}

impl Pieces {
    /// Those of a block that ranges touch; they share its bytes.
    #[must_use]
    pub fn of(block: &Block, ranges: &Ranges) -> Self {
        let numbers = ranges.touch(block.meta.bytes);
        let pieces = numbers
            .iter()
            .filter_map(|at| block.pieces.get(*at as usize));
        Self {
            meta: block.meta.clone(),
            pieces: pieces.cloned().collect(),
            numbers,
        }
    }

    /// Bytes of all of them.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.pieces.iter().map(|piece| piece.len() as u64).sum()
    }

    /// The block. None: pieces of it are missing.
    #[must_use]
    pub fn into_block(self) -> Option<Block> {
        let (meta, pieces) = (self.meta, self.pieces);
        (pieces.len() == meta.pieces.len()).then_some(Block { meta, pieces })
    }

    /// The bytes of a range as they lie, piece by piece. None: a piece of it is missing.
    #[must_use]
    pub fn slices(&self, range: &Range<u64>) -> Option<Vec<Bytes>> {
        let (piece, mut from) = (PIECE_BYTES as u64, range.start);
        let mut slices = Vec::new();
        while from < range.end {
            let number = u32::try_from(from / piece).ok()?;
            let bytes = &self.pieces[self.numbers.binary_search(&number).ok()?];
            let begins = u64::from(number) * piece;
            let end = range.end.min(begins + bytes.len() as u64);
            if end <= from {
                return None;
            }
            // Both lie within the piece.
            slices.push(bytes.slice((from - begins) as usize..(end - begins) as usize));
            from = end;
        }
        Some(slices)
    }

    /// The bytes of a range in one; copied only where they lie in several pieces. None: a
    /// piece of it is missing.
    #[must_use]
    pub fn cut(&self, range: &Range<u64>) -> Option<Bytes> {
        let slices = self.slices(range)?;
        Some(match &slices[..] {
            [only] => only.clone(),
            several => {
                let mut joined = BytesMut::with_capacity((range.end - range.start) as usize);
                several.iter().for_each(|it| joined.extend_from_slice(it));
                joined.freeze()
            }
        })
    }

    /// Copies the bytes of a range to where they belong, which is as long as the range. False:
    /// a piece of it is missing, or `into` is not so long; nothing was copied then.
    #[must_use]
    pub fn copy(&self, range: &Range<u64>, into: &mut [u8]) -> bool {
        let fits = into.len() as u64 == range.end - range.start;
        let Some(slices) = self.slices(range).filter(|_| fits) else {
            return false;
        };
        let mut rest = into;
        for slice in slices {
            let (here, behind) = rest.split_at_mut(slice.len());
            here.copy_from_slice(&slice);
            rest = behind;
        }
        true
    }
}
