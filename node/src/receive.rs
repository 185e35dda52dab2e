//! Takes a block's pieces in as they come, into memory of their own, and verifies them.

use bytes::Bytes;
use kvmesh_client::{
    Block, BlockMeta,
    block::{Assembler, BlockError},
};

use crate::store::arena::Room;

/// A block on its way into this node.
#[derive(Debug)]
pub(crate) struct Receiving {
    assembler: Assembler,
    room: Option<Room>,
}

/// Why a piece was not taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReceiveError {
    /// It is not what was announced.
    #[error(transparent)]
    Block(#[from] BlockError),
    /// What was evicted is still being read.
    #[error("no memory is free for a piece of {0} bytes")]
    NoRoom(usize),
}

impl Receiving {
    /// Expects the pieces of an announced block; they go where its namespace has room.
    pub(crate) fn new(meta: BlockMeta, room: Option<Room>) -> Result<Self, BlockError> {
        Ok(Self {
            assembler: Assembler::new(meta, true)?,
            room,
        })
    }

    /// Takes the next piece. It is copied: a slice of a network buffer would keep more
    /// memory alive than is counted for it.
    pub(crate) fn push(&mut self, piece: &Bytes) -> Result<(), ReceiveError> {
        let own = match &self.room {
            // Not what was announced: that is said instead of kept.
            _ if piece.len() != self.assembler.next_len() => piece.clone(),
            Some(room) => room
                .keep(piece)
                .ok_or_else(|| ReceiveError::NoRoom(piece.len()))?,
            None => Bytes::copy_from_slice(piece),
        };
        Ok(self.assembler.push(own)?)
    }

    pub(crate) fn is_whole(&self) -> bool {
        self.assembler.is_whole()
    }

    pub(crate) fn finish(self) -> Result<Block, BlockError> {
        self.assembler.finish()
    }
}
