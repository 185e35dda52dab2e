//! The host-memory tier.
//!
//! A block's pieces are copied into allocations of their own: a slice of a network buffer
//! would keep more memory alive than the ledger counts.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use futures::future::BoxFuture;
use kvmesh_client::Block;

use super::tier::{BlockTier, Brief, CopyKey, Lookup, TierError, TierKind};

/// Blocks in host memory. Bounded by the ledger over it.
#[derive(Debug, Default)]
pub struct MemoryTier {
    blocks: Mutex<HashMap<CopyKey, Arc<Block>>>,
}

impl MemoryTier {
    fn blocks(&self) -> MutexGuard<'_, HashMap<CopyKey, Arc<Block>>> {
        self.blocks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl BlockTier for MemoryTier {
    fn kind(&self) -> TierKind {
        TierKind::Memory
    }

    fn get(&self, key: CopyKey) -> BoxFuture<'_, Lookup> {
        Box::pin(async move {
            match self.blocks().get(&key) {
                Some(block) => Lookup::Hit(Arc::clone(block)),
                None => Lookup::Miss,
            }
        })
    }

    fn put(&self, key: CopyKey, block: Arc<Block>) -> BoxFuture<'_, Result<(), TierError>> {
        Box::pin(async move {
            self.blocks().insert(key, block);
            Ok(())
        })
    }

    fn remove(&self, key: CopyKey) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            let gone = self.blocks().remove(&key);
            drop(gone); // freed without the lock
        })
    }

    fn rename(&self, old: CopyKey, new: CopyKey) -> BoxFuture<'_, Option<Brief>> {
        Box::pin(async move {
            let mut blocks = self.blocks();
            let block = blocks.remove(&old)?;
            let brief = Brief::of(&block.meta);
            blocks.insert(new, block);
            Some(brief)
        })
    }

    fn replace<'a>(
        &'a self,
        key: CopyKey,
        old: &'a Arc<Block>,
        new: Arc<Block>,
    ) -> BoxFuture<'a, bool> {
        Box::pin(async move {
            match self.blocks().get_mut(&key) {
                Some(block) if Arc::ptr_eq(block, old) => {
                    *block = new;
                    true
                }
                _ => false,
            }
        })
    }
}
