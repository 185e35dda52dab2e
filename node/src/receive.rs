//! Takes a block's pieces in as they come, into memory of their own, and verifies them.

use bytes::Bytes;
use kvmesh_client::{
    Block, BlockMeta,
    block::{Assembler, BlockError},
};

/// A block on its way into this node.
#[derive(Debug)]
pub(crate) struct Receiving(Assembler);

impl Receiving {
    /// Expects the pieces of an announced block.
    pub(crate) fn new(meta: BlockMeta) -> Result<Self, BlockError> {
        Assembler::new(meta, true).map(Self)
    }

    /// Takes the next piece. It is copied: a slice of a network buffer would keep more
    /// memory alive than is counted for it.
    pub(crate) fn push(&mut self, piece: &Bytes) -> Result<(), BlockError> {
        self.0.push(Bytes::copy_from_slice(piece))
    }

    pub(crate) fn is_whole(&self) -> bool {
        self.0.is_whole()
    }

    pub(crate) fn finish(self) -> Result<Block, BlockError> {
        self.0.finish()
    }
}
