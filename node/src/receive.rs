//! Takes a block's pieces in as they come, into memory of their own, and verifies them.

use std::sync::Arc;

use bytes::Bytes;
use kvmesh_client::{
    Block, BlockMeta,
    block::{Assembler, BlockError},
};
use tokio::sync::mpsc::OwnedPermit;

use crate::store::arena::{NotCopied, Room, Staging};

/// A block on its way into this node.
#[derive(Debug)]
pub(crate) struct Receiving {
    assembler: Assembler,
    room: Option<Room>,
}

/// A piece as it comes.
#[derive(Debug)]
pub(crate) enum Piece {
    /// Over the network.
    Sent(Bytes),
    /// Through memory that its sender may still write.
    Staged(Staged),
}

/// Where a client on this host has put a piece. When this is dropped, it may put another there.
#[derive(Debug)]
pub(crate) struct Staged {
    staging: Arc<Staging>,
    at: u64,
    taken: Option<OwnedPermit<u64>>,
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
    /// It cannot be copied.
    #[error(transparent)]
    Staged(#[from] NotCopied),
}

impl Receiving {
    /// Expects the pieces of an announced block; they go where its namespace has room.
    pub(crate) fn new(meta: BlockMeta, room: Option<Room>) -> Result<Self, BlockError> {
        Ok(Self {
            assembler: Assembler::new(meta, true)?,
            room,
        })
    }

    /// Takes the next piece.
    pub(crate) fn take(&mut self, piece: Piece) -> Result<(), ReceiveError> {
        match piece {
            Piece::Sent(piece) => self.push(&piece),
            Piece::Staged(staged) => {
                let bytes = self.assembler.next_len();
                let room = self.room.as_ref().ok_or(ReceiveError::NoRoom(bytes))?;
                let own = staged.staging.copy(room, staged.at, bytes)?;
                // Of the copy: what is in staging may be something else by now.
                Ok(self.assembler.push(own)?)
            }
        }
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

impl Staged {
    /// A piece that begins at a byte; `taken` is told of that place.
    pub(crate) fn new(staging: &Arc<Staging>, at: u64, taken: OwnedPermit<u64>) -> Self {
        Self {
            staging: Arc::clone(staging),
            at,
            taken: Some(taken),
        }
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        if let Some(taken) = self.taken.take() {
            taken.send(self.at);
        }
    }
}
