//! What the tour puts: chains of blocks whose every byte is known.

use kvmesh_client::{
    Block,
    client::{Chain, PutBlock},
};
use kvmesh_directory::{Description, Part};

use crate::{chain::Chainer, replay::content};

pub(super) const BLOCKS: usize = 16;
pub(super) const BLOCK_BYTES: usize = 128 << 10;

/// The blocks of a chain that is like no other one.
pub(super) fn made(number: usize) -> anyhow::Result<(Chain, Vec<PutBlock>)> {
    let mut chainer = Chainer::new(32);
    let block = |depth: usize| {
        let bytes = content::bytes(&(number * BLOCKS + depth).to_le_bytes(), BLOCK_BYTES);
        PutBlock {
            hash: chainer.next(&bytes),
            part: Part::default(),
            block: Block::of(&bytes, depth as u32),
        }
    };
    let blocks: Vec<PutBlock> = (0..BLOCKS).map(block).collect();
    let chain = Chain::new(blocks.iter().map(|block| &block.hash))?;
    Ok((chain, blocks))
}

/// The tour's namespace.
pub(super) fn description() -> Description {
    Description {
        model: "demo".to_owned(),
        dtype: "bytes".to_owned(),
        layout: "opaque".to_owned(),
        block_tokens: 16,
        hash_width: 32,
        short_hashes: false,
        shard_count: 1,
        group_count: 1,
        tenant: String::new(),
        salt: Vec::new(),
        residency: Vec::new(),
    }
}
