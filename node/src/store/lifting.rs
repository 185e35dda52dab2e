//! What the device's memory does for the other floors: what is hot in memory is copied up to
//! it, and stays there when memory lets it go; what only the device has comes back when it is
//! read, and moves down when the device is short.
//!
//! Lock order: leases, ledger, and the device's books last. The device is called without a
//! lock; what was true before may not be true after, so it is looked at again.

use std::sync::Arc;

use futures::FutureExt;
use kvmesh_client::{Block, Ranges, ranges::Pieces};

use super::{
    BlockTier, CopyKey, Ledger, Lookup, Store,
    gpu::{GpuTier, GpuUsage, Heat},
};

/// A copy that was used in so many later seconds is copied to the device.
const HOT_USES: u8 = 1;

/// What went while the device was tended.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Lifted {
    /// Only the device had these, and nothing had room for them.
    pub evicted: Vec<CopyKey>,
    /// Only the device had these, and gave them back damaged.
    pub lost: Vec<CopyKey>,
}

/// What can be done about the coldest copy on a device that is short.
enum Coldest {
    /// It was dropped: another floor has it.
    Dropped,
    /// Only the device has it.
    Only(CopyKey),
    /// It stays: it is as warm as what is to come.
    Stays,
}

impl Store {
    /// With a device's memory beside the host's.
    #[must_use]
    pub fn with_gpu(self, gpu: GpuTier) -> Self {
        Self {
            gpu: Some(gpu),
            ..self
        }
    }

    /// Whether there is a device for blocks.
    #[must_use]
    pub fn has_gpu(&self) -> bool {
        self.gpu.is_some()
    }

    /// How much is on the device. None: there is none.
    #[must_use]
    pub fn gpu_usage(&self) -> Option<GpuUsage> {
        self.gpu.as_ref().map(GpuTier::usage)
    }

    pub(super) fn on_gpu(&self, key: &CopyKey) -> bool {
        self.gpu.as_ref().is_some_and(|gpu| gpu.has(key))
    }

    fn on_disk(&self, key: &CopyKey) -> bool {
        self.disk.as_ref().is_some_and(|disk| disk.has(key))
    }

    /// Forgets a copy that no floor has any more; whether that is so.
    pub(super) fn nowhere(&self, ledger: &mut Ledger, key: CopyKey) -> bool {
        !self.on_gpu(&key) && !self.on_disk(&key) && ledger.gone_below(key)
    }

    /// Has a copy that memory has, and that is hot, copied to the device.
    pub(super) fn wish(&self, key: CopyKey) {
        let Some(gpu) = &self.gpu else {
            return;
        };
        let uses = self.ledger().held(key).map(|held| held.uses);
        if uses.is_some_and(|uses| uses >= HOT_USES) {
            gpu.wish(key);
        }
    }

    /// A copy that memory does not have.
    pub(super) async fn read_below(&self, key: CopyKey, promotes: bool) -> Lookup {
        let busy = match self.read_gpu(key).await {
            Lookup::Hit(block) => return Lookup::Hit(block),
            other => matches!(other, Lookup::Busy),
        };
        if let Some(block) = self.ahead.join(&key).await {
            return Lookup::Hit(block);
        }
        let found = match &self.disk {
            Some(disk) => disk.get(key).await,
            None => Lookup::Miss,
        };
        if let (Lookup::Hit(block), true) = (&found, promotes) {
            self.promote(key, block);
        }
        self.or_gone(key, busy, found)
    }

    /// The pieces that ranges touch of a copy that memory does not have. For them the disk
    /// reads no more; a copy that they were wanted of before comes back to memory whole,
    /// later.
    pub(super) async fn pieces_below(&self, key: CopyKey, ranges: &Ranges) -> Lookup<Pieces> {
        let busy = match self.read_gpu(key).await {
            Lookup::Hit(block) => return Lookup::Hit(Pieces::of(&block, ranges)),
            other => matches!(other, Lookup::Busy),
        };
        let found = match &self.disk {
            Some(disk) => disk.pieces(key, ranges).await,
            None => Lookup::Miss,
        };
        let uses = self.ledger().held(key).map(|held| held.uses);
        if uses.is_some_and(|uses| uses >= HOT_USES) {
            self.read_ahead(&[key], true);
        }
        self.or_gone(key, busy, found)
    }

    async fn read_gpu(&self, key: CopyKey) -> Lookup {
        let Some(gpu) = &self.gpu else {
            return Lookup::Miss;
        };
        let found = gpu.get(key).await;
        if let Lookup::Hit(block) = &found {
            self.promote(key, block);
        }
        found
    }

    /// What was found in the end; a copy that no floor has is forgotten, unless one was `busy`.
    fn or_gone<T>(&self, key: CopyKey, busy: bool, found: Lookup<T>) -> Lookup<T> {
        match found {
            Lookup::Miss if busy => return Lookup::Busy,
            Lookup::Miss => {}
            other => return other,
        }
        let mut ledger = self.ledger();
        self.nowhere(&mut ledger, key);
        // One that is listed yet has moved from one floor to another meanwhile.
        match ledger.held(key) {
            Some(_) => Lookup::Busy,
            None => Lookup::Miss,
        }
    }

    /// Waits until there is something to do for the device.
    pub async fn gpu_wished(&self) {
        match &self.gpu {
            Some(gpu) => gpu.wished().await,
            None => std::future::pending().await,
        }
    }

    /// Copies one hot copy to the device, and makes room for it there. None: there is nothing
    /// to do.
    pub async fn lift(&self) -> Option<Lifted> {
        let gpu = self.gpu.as_ref()?;
        gpu.tend().await;
        let key = gpu.next_wish()?;
        let mut lifted = Lifted::default();
        if let Some(Lookup::Hit(block)) = self.tier.get(key).now_or_never()
            && self.room_on(gpu, key, block.meta.bytes, &mut lifted).await
        {
            // What is not taken is in memory yet, and may be wished for again.
            let _ = gpu.put(key, block).await;
            // It may have been let go before the device knew of it.
            if !self.holds(key) {
                gpu.forget(&key);
            }
        }
        gpu.tend().await;
        Some(lifted)
    }

    /// Makes room on the device for a copy, by what is colder.
    async fn room_on(&self, gpu: &GpuTier, key: CopyKey, bytes: u64, lifted: &mut Lifted) -> bool {
        if bytes > gpu.usage().max {
            return false;
        }
        while !gpu.fits(bytes) {
            let used = gpu.usage().used;
            let went = match self.coldest(gpu, key) {
                Coldest::Stays => false,
                Coldest::Dropped => true,
                Coldest::Only(victim) => self.move_down(gpu, victim, lifted).await,
            };
            if !went {
                return false;
            }
            gpu.tend().await;
            // Somebody reads it yet, or the device does not answer: no more goes in vain.
            if gpu.usage().used >= used {
                return false;
            }
        }
        true
    }

    /// Drops the coldest copy on the device, if it is colder than one that is to come and
    /// another floor has it.
    fn coldest(&self, gpu: &GpuTier, comes: CopyKey) -> Coldest {
        let ledger = self.ledger();
        let Some(heat) = ledger.held(comes).map(Heat::of) else {
            return Coldest::Stays;
        };
        while let Some((known, coldest)) = gpu.coldest() {
            let Some(held) = ledger.held(coldest) else {
                gpu.forget(&coldest);
                return Coldest::Dropped;
            };
            // It was used since the device was told.
            let warmth = Heat::of(held);
            if warmth > known {
                gpu.warm(&coldest, warmth);
                continue;
            }
            if !heat.displaces(known) {
                return Coldest::Stays;
            }
            if !held.in_memory && !self.on_disk(&coldest) {
                return Coldest::Only(coldest);
            }
            gpu.forget(&coldest);
            return Coldest::Dropped;
        }
        Coldest::Stays
    }

    /// Moves a copy that only the device has to disk, or to what memory has free; else it
    /// goes, unless somebody leased it. False: it stays.
    async fn move_down(&self, gpu: &GpuTier, key: CopyKey, lifted: &mut Lifted) -> bool {
        let block = match gpu.get(key).await {
            Lookup::Hit(block) => block,
            Lookup::Miss => {
                let lost = self.nowhere(&mut self.ledger(), key);
                lifted.lost.extend(lost.then_some(key));
                return true;
            }
            Lookup::Busy => return false,
        };
        let taken = {
            // Under the lock, so that nothing is written for a copy that was let go meanwhile.
            let ledger = self.ledger();
            let disk = self.disk.as_ref().filter(|_| ledger.held(key).is_some());
            disk.is_some_and(|disk| disk.offer(key, &block))
        };
        if !taken {
            self.promote_over(key, &block, |_| false);
        }
        let mut ledger = self.ledger();
        let saved = ledger.held(key).is_none_or(|held| held.in_memory) || self.on_disk(&key);
        if !saved && ledger.is_fixed(key) {
            gpu.warm(&key, Heat::just_used(self.now()));
            return false;
        }
        if !saved {
            ledger.remove(key);
            lifted.evicted.push(key);
        }
        gpu.forget(&key);
        true
    }

    /// A block that only the device has. None: it has not, or not now.
    pub(super) async fn only_on_gpu(&self, key: CopyKey) -> Option<Arc<Block>> {
        let gpu = self.gpu.as_ref().filter(|_| !self.on_disk(&key))?;
        match gpu.get(key).await {
            Lookup::Hit(block) => Some(block),
            Lookup::Miss | Lookup::Busy => None,
        }
    }
}

#[cfg(test)]
#[path = "lifting_test.rs"]
mod lifting_test;
