//! A block on its way: what travels with it, and its pieces as they come.

use bytes::Bytes;
use kvmesh_directory::{
    Checksum, Hlc,
    limits::{BLOCK_BYTES_MAX, PIECE_BYTES},
};

use crate::encoding::Encoding;

/// What travels with a block through every tier, hop and region.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockMeta {
    /// Size of the whole block.
    pub bytes: u64,
    /// Over `pieces`.
    pub checksum: Checksum,
    /// Of each piece of [`PIECE_BYTES`], in order.
    pub pieces: Vec<Checksum>,
    /// Position in the chain, from 0.
    pub depth: u32,
    /// Stamped at the first put; 0: not stamped yet.
    pub put_hlc: Hlc,
    /// The lossy encoding that the bytes went through on their way from another region; checksums
    /// are those of what came of it. None: the bytes are those that were put.
    pub transcoded: Option<Encoding>,
}

/// Bytes that are not the block that they are said to be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BlockError {
    /// No block is empty.
    #[error("the block is empty: a block has at least one byte")]
    Empty,
    /// Over the limit.
    #[error("the block has {bytes} bytes, the limit is {BLOCK_BYTES_MAX}: use smaller blocks")]
    TooLarge {
        /// Size announced.
        bytes: u64,
    },
    /// Piece checksums do not fit the size.
    #[error("{got} piece checksums came with a block of {want} pieces")]
    PieceCount {
        /// Checksums announced.
        got: usize,
        /// Pieces that the size makes.
        want: usize,
    },
    /// The block's checksum is not the one over its piece checksums.
    #[error("the block's checksum is {got}, its piece checksums make {want}")]
    Root {
        /// Checksum announced.
        got: Checksum,
        /// Checksum over the pieces.
        want: Checksum,
    },
    /// A piece that should not have come, or of the wrong size.
    #[error("piece {index} has {got} bytes, expected {want}")]
    PieceSize {
        /// Position of the piece.
        index: usize,
        /// Its size.
        got: usize,
        /// Size expected; 0 when the block was whole already.
        want: usize,
    },
    /// A piece's bytes are not what was announced.
    #[error("piece {index} arrived with checksum {got}, expected {want}")]
    Piece {
        /// Position of the piece.
        index: usize,
        /// Checksum of the bytes.
        got: Checksum,
        /// Checksum announced.
        want: Checksum,
    },
    /// The end came before the last piece.
    #[error("the block ended after {got} of {want} pieces")]
    Truncated {
        /// Pieces that came.
        got: usize,
        /// Pieces of the block.
        want: usize,
    },
}

impl BlockMeta {
    /// Of bytes at hand.
    #[must_use]
    pub fn of(block: &[u8], depth: u32) -> Self {
        let pieces = Checksum::pieces_of(block);
        Self {
            bytes: block.len() as u64,
            checksum: Checksum::over(&pieces),
            pieces,
            depth,
            put_hlc: Hlc(0),
            transcoded: None,
        }
    }

    /// Whether size and checksums fit one another and the limits.
    ///
    /// # Errors
    /// What does not fit.
    pub fn check(&self) -> Result<(), BlockError> {
        if self.bytes == 0 {
            return Err(BlockError::Empty);
        }
        if self.bytes > BLOCK_BYTES_MAX {
            return Err(BlockError::TooLarge { bytes: self.bytes });
        }
        let want = self.piece_count();
        if self.pieces.len() != want {
            return Err(BlockError::PieceCount {
                got: self.pieces.len(),
                want,
            });
        }
        let want = Checksum::over(&self.pieces);
        if self.checksum != want {
            return Err(BlockError::Root {
                got: self.checksum,
                want,
            });
        }
        Ok(())
    }

    /// Pieces that the size makes.
    #[must_use]
    pub fn piece_count(&self) -> usize {
        (self.bytes as usize).div_ceil(PIECE_BYTES)
    }

    /// Size of a piece; 0 past the last one.
    #[must_use]
    pub fn piece_len(&self, index: usize) -> usize {
        let before = index.saturating_mul(PIECE_BYTES);
        (self.bytes as usize)
            .saturating_sub(before)
            .min(PIECE_BYTES)
    }
}

/// A whole block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    /// What travels with it.
    pub meta: BlockMeta,
    /// Its bytes, piece by piece.
    pub pieces: Vec<Bytes>,
}

impl Block {
    /// Of bytes at hand; the pieces share them.
    #[must_use]
    pub fn of(block: &Bytes, depth: u32) -> Self {
        let meta = BlockMeta::of(block, depth);
        let pieces = (0..meta.piece_count())
            .map(|index| {
                let start = index * PIECE_BYTES;
                block.slice(start..start + meta.piece_len(index))
            })
            .collect();
        Self { meta, pieces }
    }
}

/// Collects a block's pieces in order.
#[derive(Debug)]
pub struct Assembler {
    meta: BlockMeta,
    pieces: Vec<Bytes>,
    verify: bool,
}

impl Assembler {
    /// Expects the pieces of a block whose announcement was checked. Who only passes the
    /// bytes on does not `verify` them.
    ///
    /// # Errors
    /// When the announcement cannot be.
    pub fn new(meta: BlockMeta, verify: bool) -> Result<Self, BlockError> {
        meta.check()?;
        Ok(Self {
            pieces: Vec::with_capacity(meta.pieces.len()),
            meta,
            verify,
        })
    }

    /// The announcement.
    #[must_use]
    pub fn meta(&self) -> &BlockMeta {
        &self.meta
    }

    /// How many pieces it has.
    #[must_use]
    pub fn pieces(&self) -> usize {
        self.pieces.len()
    }

    /// How many bytes it has.
    #[must_use]
    pub fn taken(&self) -> u64 {
        self.pieces.iter().map(|piece| piece.len() as u64).sum()
    }

    /// Size of the next piece; 0 when the block is whole.
    #[must_use]
    pub fn next_len(&self) -> usize {
        self.meta.piece_len(self.pieces.len())
    }

    /// Takes the next piece.
    ///
    /// # Errors
    /// When it has the wrong size or, if pieces are verified, the wrong bytes.
    pub fn push(&mut self, piece: Bytes) -> Result<(), BlockError> {
        let index = self.pieces.len();
        let want = self.next_len();
        if piece.len() != want || want == 0 {
            return Err(BlockError::PieceSize {
                index,
                got: piece.len(),
                want,
            });
        }
        if self.verify {
            let (got, want) = (Checksum::of(&piece), self.meta.pieces[index]);
            if got != want {
                return Err(BlockError::Piece { index, got, want });
            }
        }
        self.pieces.push(piece);
        Ok(())
    }

    /// Whether the last piece has come.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.pieces.len() == self.meta.pieces.len()
    }

    /// The block.
    ///
    /// # Errors
    /// When pieces are missing.
    pub fn finish(self) -> Result<Block, BlockError> {
        if !self.is_whole() {
            let (got, want) = (self.pieces.len(), self.meta.pieces.len());
            return Err(BlockError::Truncated { got, want });
        }
        Ok(Block {
            meta: self.meta,
            pieces: self.pieces,
        })
    }
}
