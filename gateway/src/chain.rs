//! A chain as a call brought it: the engine's hashes, packed, and their canonical forms.

use bytes::{Bytes, BytesMut};
use kvmesh_directory::{BlockHash, BlockName, NamespaceId, Part};

/// Hashes of one sequence, in order.
#[derive(Debug, Clone)]
pub(crate) struct Chain {
    raw: Bytes,
    width: u32,
    hashes: Vec<BlockHash>,
}

impl Chain {
    /// `hashes` are the canonical forms of the hashes of `width` bytes in `raw`.
    pub(crate) fn new(raw: Bytes, width: u32, hashes: Vec<BlockHash>) -> Self {
        debug_assert_eq!(raw.len(), hashes.len() * width as usize);
        Self { raw, width, hashes }
    }

    pub(crate) fn len(&self) -> usize {
        self.hashes.len()
    }

    pub(crate) fn width(&self) -> u32 {
        self.width
    }

    /// Full name of a block.
    pub(crate) fn name(&self, namespace: NamespaceId, index: u32, part: Part) -> BlockName {
        BlockName {
            namespace,
            hash: self.hashes[index as usize],
            part,
        }
    }

    /// The hashes from one on.
    pub(crate) fn hashes_from(&self, start: usize) -> &[BlockHash] {
        &self.hashes[start..]
    }

    /// One hash as the engine made it.
    pub(crate) fn engine_hash(&self, index: u32) -> Bytes {
        let width = self.width as usize;
        let start = index as usize * width;
        self.raw.slice(start..start + width)
    }

    /// The first `len` hashes, packed.
    pub(crate) fn head(&self, len: usize) -> Bytes {
        self.raw.slice(..len * self.width as usize)
    }

    /// The hashes at `indexes`, packed.
    pub(crate) fn pick(&self, indexes: impl Iterator<Item = u32>) -> Bytes {
        let width = self.width as usize;
        let mut packed = BytesMut::new();
        for index in indexes {
            let start = index as usize * width;
            packed.extend_from_slice(&self.raw[start..start + width]);
        }
        packed.freeze()
    }
}
