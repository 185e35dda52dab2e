//! Which blocks one client on this host has leased. Pure.
//!
//! A leased block's bytes stay, also when it is evicted or deleted: the lease holds them. It
//! ends by release or with its connection, never by time; so a cap bounds what is held.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use kvmesh_client::Block;
use kvmesh_directory::limits::{LOCAL_CLIENT_PART, LOCAL_LEASED_PART};

use crate::store::{COPY_OVERHEAD_BYTES, arena::footprint};

/// What all clients hold together, and how much that may be.
#[derive(Debug, Clone)]
pub(super) struct Share {
    held: Arc<AtomicU64>,
    max: u64,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Grants {
    blocks: BTreeMap<u64, Arc<Block>>,
    held: u64,
    last: u64,
    share: Share,
}

impl Share {
    /// Of a node's memory for blocks.
    pub(super) fn of(memory_bytes: u64) -> Self {
        Self {
            held: Arc::default(),
            max: memory_bytes / LOCAL_LEASED_PART,
        }
    }

    fn take(&self, bytes: u64) -> bool {
        let before = self.held.fetch_add(bytes, Ordering::Relaxed);
        let fits = before + bytes <= self.max;
        if !fits {
            self.held.fetch_sub(bytes, Ordering::Relaxed);
        }
        fits
    }
}

impl Grants {
    pub(super) fn new(share: Share) -> Self {
        Self {
            blocks: BTreeMap::new(),
            held: 0,
            last: 0,
            share,
        }
    }

    /// Whether a block of this size may be leased.
    pub(super) fn has_room(&self, bytes: u64) -> bool {
        self.held + cost(bytes) <= self.share.max / LOCAL_CLIENT_PART
    }

    /// Leases a block; the lease's name. None: over the cap.
    pub(super) fn grant(&mut self, block: &Arc<Block>) -> Option<u64> {
        let bytes = block.meta.bytes;
        if !self.has_room(bytes) || !self.share.take(cost(bytes)) {
            return None;
        }
        self.held += cost(bytes);
        self.last += 1;
        self.blocks.insert(self.last, Arc::clone(block));
        Some(self.last)
    }

    /// Ends a lease; nothing, when it never was.
    pub(super) fn release(&mut self, lease: u64) {
        if let Some(block) = self.blocks.remove(&lease) {
            let bytes = cost(block.meta.bytes);
            self.held -= bytes;
            self.share.held.fetch_sub(bytes, Ordering::Relaxed);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.blocks.is_empty()
    }
}

impl Drop for Grants {
    fn drop(&mut self) {
        self.share.held.fetch_sub(self.held, Ordering::Relaxed);
    }
}

fn cost(bytes: u64) -> u64 {
    footprint(bytes) + COPY_OVERHEAD_BYTES
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    #[test]
    fn one_client_has_half_of_a_quarter_and_gives_it_back_when_it_goes() {
        let block = Arc::new(Block::of(&Bytes::from(vec![1; 1 << 20]), 0));
        let share = Share::of(64 << 20);
        let mut one = Grants::new(share.clone());
        let leases: Vec<u64> = std::iter::from_fn(|| one.grant(&block)).collect();
        assert_eq!(leases.len(), 7, "8 MiB, and each has its overhead");
        let mut others: Vec<Grants> = (0..3).map(|_| Grants::new(share.clone())).collect();
        let granted = others
            .iter_mut()
            .flat_map(|it| std::iter::from_fn(|| it.grant(&block)));
        assert_eq!(granted.count(), 8, "15 in all");
        one.release(leases[0]);
        one.release(leases[0]);
        assert!(one.grant(&block).is_some() && one.grant(&block).is_none());
        drop(others);
        drop(one);
        let left = share.held.load(Ordering::Relaxed);
        assert_eq!((left, Arc::strong_count(&block)), (0, 1));
    }
}
