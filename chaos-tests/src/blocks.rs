//! Blocks whose bytes follow from their place, and which of them are acknowledged.

use std::sync::{Mutex, PoisonError};

use anyhow::{Result, ensure};
use bytes::Bytes;
use kvmesh_client::{
    Block,
    client::{Chain, FetchedBlock, PutBlock},
};
use kvmesh_directory::{Description, Part};
use rand::{RngCore, SeedableRng, rngs::SmallRng};

/// Blocks of every chain.
pub(crate) const CHAIN_BLOCKS: u32 = 16;
const HASH_BYTES: usize = 32;

/// The namespace that the chains are in.
pub(crate) fn description() -> Description {
    Description {
        model: "rolling-kill".to_owned(),
        dtype: "bf16".to_owned(),
        layout: "nhd".to_owned(),
        block_tokens: 16,
        hash_width: HASH_BYTES as u32,
        short_hashes: false,
        shard_count: 1,
        group_count: 1,
        tenant: "chaos".to_owned(),
        salt: Vec::new(),
        residency: Vec::new(),
    }
}

/// Makes chains by number; all blocks have this size.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Blocks {
    pub(crate) bytes: usize,
}

impl Blocks {
    fn rng(chain: u64, index: u32) -> SmallRng {
        SmallRng::seed_from_u64(chain * u64::from(CHAIN_BLOCKS) + u64::from(index))
    }

    fn hash_and_bytes(self, chain: u64, index: u32) -> (Bytes, Bytes) {
        let mut rng = Self::rng(chain, index);
        let (mut hash, mut block) = (vec![0; HASH_BYTES], vec![0; self.bytes]);
        rng.fill_bytes(&mut hash);
        rng.fill_bytes(&mut block);
        (hash.into(), block.into())
    }

    /// The names of a chain.
    pub(crate) fn chain(self, chain: u64) -> Result<Chain> {
        let hashes = (0..CHAIN_BLOCKS).map(|index| {
            let mut hash = [0; HASH_BYTES];
            Self::rng(chain, index).fill_bytes(&mut hash);
            hash
        });
        Ok(Chain::new(hashes)?)
    }

    /// The blocks of a chain, as they are put.
    pub(crate) fn to_put(self, chain: u64) -> Vec<PutBlock> {
        let block = |index| {
            let (hash, bytes) = self.hash_and_bytes(chain, index);
            PutBlock {
                hash,
                part: Part::default(),
                block: Block::of(&bytes, index),
            }
        };
        (0..CHAIN_BLOCKS).map(block).collect()
    }

    /// Whether these are all blocks of a chain, with their bytes.
    pub(crate) fn check(self, chain: u64, fetched: &[FetchedBlock]) -> Result<()> {
        let got = fetched.len();
        ensure!(
            got == CHAIN_BLOCKS as usize,
            "{got} of {CHAIN_BLOCKS} blocks of chain {chain} came"
        );
        let mut fetched: Vec<&FetchedBlock> = fetched.iter().collect();
        fetched.sort_by_key(|block| block.index);
        for (index, block) in (0..).zip(fetched) {
            let (_, want) = self.hash_and_bytes(chain, index);
            let got = block.block.pieces.concat();
            ensure!(
                block.index == index && got == want,
                "block {index} of chain {chain} has other bytes"
            );
        }
        Ok(())
    }
}

/// Chains of which every block is acknowledged.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    acked: Mutex<Vec<u64>>,
}

impl Ledger {
    pub(crate) fn note(&self, chain: u64) {
        self.acked
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(chain);
    }

    pub(crate) fn all(&self) -> Vec<u64> {
        self.acked
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// One of them; none while there is none.
    pub(crate) fn any(&self) -> Option<u64> {
        let acked = self.acked.lock().unwrap_or_else(PoisonError::into_inner);
        let at = kvmesh_client::random::in_range(0..acked.len().max(1));
        acked.get(at).copied()
    }
}

#[cfg(test)]
mod tests {
    use kvmesh_client::client::Path;

    use super::*;

    fn fetched(blocks: Blocks, chain: u64) -> Vec<FetchedBlock> {
        let block = |put: PutBlock| FetchedBlock {
            index: put.block.meta.depth,
            part: put.part,
            block: put.block,
            region: "us-east".parse().unwrap(),
            path: Path::Node,
        };
        blocks.to_put(chain).into_iter().map(block).collect()
    }

    #[test]
    fn wrong_and_missing_blocks_are_found() {
        let blocks = Blocks { bytes: 100 };
        let mut whole = fetched(blocks, 7);
        whole.reverse();
        blocks.check(7, &whole).unwrap();
        assert!(blocks.check(8, &whole).is_err());
        assert!(blocks.check(7, &whole[1..]).is_err());
        let names = blocks.chain(7).unwrap();
        assert_eq!(names.hash(3), blocks.to_put(7)[3].hash);
        whole[0].block = fetched(blocks, 7)[0].block.clone();
        assert!(blocks.check(7, &whole).is_err());
    }
}
