//! What a drill puts: chains of blocks whose every byte follows from their numbers.

use kvmesh_client::{
    Block,
    client::{Chain, FetchedBlock, PutBlock},
};
use kvmesh_directory::{Description, Part};

use crate::replay::content;

/// Blocks of a chain.
pub(super) const BLOCKS: u32 = 4;

/// Of one drill.
#[derive(Debug, Clone, Copy)]
pub(super) struct Material {
    /// Makes names that no other drill has.
    pub(super) run: u64,
    pub(super) block_bytes: usize,
}

impl Material {
    fn hash(self, chain: u64, depth: u32) -> [u8; 32] {
        content::hash(&format!("drill {:016x} {chain} {depth}", self.run))
    }

    pub(super) fn chain(self, number: u64) -> anyhow::Result<Chain> {
        Ok(Chain::new(
            (0..BLOCKS).map(|depth| self.hash(number, depth)),
        )?)
    }

    pub(super) fn blocks(self, number: u64) -> Vec<PutBlock> {
        let block = |depth| {
            let hash = self.hash(number, depth);
            PutBlock {
                hash: hash.to_vec().into(),
                part: Part::default(),
                block: Block::of(&content::bytes(&hash, self.block_bytes), depth),
            }
        };
        (0..BLOCKS).map(block).collect()
    }

    /// Whether a block of a chain is as it was put.
    pub(super) fn is_exact(self, number: u64, got: &FetchedBlock) -> bool {
        let hash = self.hash(number, got.index);
        content::is_exact(&hash, self.block_bytes, &got.block.pieces)
    }

    pub(super) fn description(self, what: &str) -> Description {
        Description {
            model: format!("drill-{what}"),
            dtype: "bytes".to_owned(),
            layout: "opaque".to_owned(),
            block_tokens: 16,
            hash_width: 32,
            short_hashes: false,
            shard_count: 1,
            group_count: 1,
            tenant: String::new(),
            salt: self.run.to_be_bytes().to_vec(),
            residency: Vec::new(),
        }
    }

    /// A namespace's alias.
    pub(super) fn alias(self, what: &str) -> String {
        format!("drill-{what}-{:08x}", self.run >> 32)
    }
}
