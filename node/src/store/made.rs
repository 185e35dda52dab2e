//! Keys and blocks that follow from a number, for tests and benchmarks. A benchmark has this
//! file as a module of its own, under a parent that has `CopyKey`.

use std::sync::Arc;

use bytes::Bytes;
use kvmesh_client::{Block, BlockMeta};
use kvmesh_directory::{
    BlockHash, BlockName, Copy, CopyNumber, Hlc, Incarnation, NamespaceId, NodeId, Part,
};

use super::CopyKey;

/// A copy of the first start of node 1, all of one namespace.
pub(crate) fn key(number: u64) -> CopyKey {
    let mut hash = [0; 32];
    hash[..8].copy_from_slice(&number.to_be_bytes());
    let name = BlockName {
        namespace: NamespaceId([1; 16]),
        hash: BlockHash(hash),
        part: Part::default(),
    };
    let copy = Copy {
        node: NodeId(1),
        incarnation: Incarnation(1),
        copy: CopyNumber(number),
    };
    CopyKey { name, copy }
}

/// A block of so many bytes that look random; its clock is the number.
pub(crate) fn block(number: u64, bytes: u64) -> Arc<Block> {
    // An xorshift generator.
    let mut state = number.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(1);
    let mut raw = Vec::with_capacity(bytes as usize + 8);
    while (raw.len() as u64) < bytes {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        raw.extend_from_slice(&state.to_be_bytes());
    }
    raw.truncate(bytes as usize);
    let block = Block::of(&Bytes::from(raw), 0);
    Arc::new(Block {
        meta: BlockMeta {
            put_hlc: Hlc(number),
            ..block.meta
        },
        pieces: block.pieces,
    })
}
