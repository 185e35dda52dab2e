//! What memory and disk do for one another: claimed copies are written behind, what memory
//! evicts stays while the disk has it, what only the disk has comes back when it is read.
//! What a device does beside them is in `lifting`.
//!
//! Lock order: leases, ledger, and the disk's books last. Memory's tier answers at once, so
//! that it is asked under the ledger's lock and never disagrees with it for long.

use std::sync::Arc;

use futures::FutureExt;
use kvmesh_client::Block;
use kvmesh_directory::{Copy, Hlc, Incarnation, LogIncarnation};
use tokio::time::{Duration, Instant};

use super::{
    BlockTier, CopyKey, Ledger, Lookup, Store,
    disk::{DiskTier, DiskUsage, Found, NotDurable, Reclaimer},
    gpu::GpuTier,
    tier::Brief,
};

/// Of copies that were found on disk at the start: no start is this one.
pub const FOUND: Incarnation = Incarnation(0);

impl Store {
    /// An empty store over memory and a disk, and what was found there; `now_millis` since
    /// 1970.
    #[must_use]
    pub fn over_disk(
        tier: Arc<dyn BlockTier>,
        memory_bytes: u64,
        disk: DiskTier,
        found: &[Found],
        now_millis: u64,
    ) -> Self {
        let mut store = Self::new(tier, memory_bytes);
        store.disk = Some(disk);
        let now = Instant::now();
        let mut ledger = store.ledger();
        for it in found {
            // Its time runs since it was put, as far as the clock says.
            let age = now_millis.saturating_sub(it.brief.put_hlc.millis());
            let kept = now.checked_sub(Duration::from_millis(age)).unwrap_or(now);
            ledger.found(it.key, it.brief, kept);
        }
        drop(ledger);
        store
    }

    /// Whether a device has a copy that memory is to let go, or the disk has or takes it now.
    pub(super) fn saved(&self, key: CopyKey) -> bool {
        let on_gpu = self.on_gpu(&key);
        let Some(disk) = &self.disk else {
            return on_gpu;
        };
        match self.tier.get(key).now_or_never() {
            Some(Lookup::Hit(block)) => disk.offer(key, &block) || on_gpu,
            _ => on_gpu,
        }
    }

    /// Lets copies go out of memory that another floor has. The ledger is locked.
    pub(super) fn demoted(&self, keys: &[CopyKey]) {
        for key in keys {
            let _ = self.tier.remove(*key).now_or_never();
        }
    }

    /// Writes a claimed copy behind. The ledger is locked.
    pub(super) fn write_behind(&self, key: CopyKey) {
        // What finds no room now is offered once more when memory evicts it.
        let _ = self.saved(key);
    }

    /// Whether blocks can be durable here.
    #[must_use]
    pub fn has_disk(&self) -> bool {
        self.disk.is_some()
    }

    /// Returns once a copy is durable.
    ///
    /// # Errors
    /// When it is not, or not in time.
    pub async fn make_durable(&self, key: CopyKey, until: Instant) -> Result<(), NotDurable> {
        let disk = self.disk.as_ref().ok_or(NotDurable::NoDisk)?;
        match self.tier.get(key).await {
            Lookup::Hit(block) => disk.make_durable(key, &block, until).await,
            Lookup::Miss | Lookup::Busy => match self.only_on_gpu(key).await {
                Some(block) => disk.make_durable(key, &block, until).await,
                None => disk.synced(key, until).await,
            },
        }
    }

    /// Has memory keep what it did not have, when that makes only those go that another floor
    /// has.
    pub(super) fn promote(&self, key: CopyKey, block: &Arc<Block>) {
        self.promote_over(key, block, |victim| self.saved(victim));
    }

    /// As [`Self::promote`], of a copy that nobody has asked for yet.
    pub(super) fn promote_ahead(&self, key: CopyKey, block: &Arc<Block>) {
        self.promote_by(key, block, |ledger| {
            ledger.promote_ahead(key, |victim| self.saved(victim))
        });
    }

    /// As [`Self::promote`]; `saved` says what may go for it.
    pub(super) fn promote_over(
        &self,
        key: CopyKey,
        block: &Arc<Block>,
        saved: impl FnMut(CopyKey) -> bool,
    ) {
        self.promote_by(key, block, |ledger| ledger.promote(key, saved));
    }

    fn promote_by(
        &self,
        key: CopyKey,
        block: &Arc<Block>,
        promote: impl FnOnce(&mut Ledger) -> (Vec<CopyKey>, bool),
    ) {
        let Some(own) = self.own(key, block) else {
            return;
        };
        let mut ledger = self.ledger();
        let (demoted, promoted) = promote(&mut ledger);
        self.demoted(&demoted);
        if promoted {
            let _ = self.tier.put(key, own).now_or_never();
        }
    }

    /// A block in memory that the ledger counts. None: there is no room now.
    fn own(&self, key: CopyKey, block: &Arc<Block>) -> Option<Arc<Block>> {
        let Some(room) = self.room(key.name.namespace) else {
            return Some(tight(block));
        };
        let pieces: Option<Vec<_>> = block.pieces.iter().map(|it| room.keep(it)).collect();
        Some(Arc::new(Block {
            meta: block.meta.clone(),
            pieces: pieces?,
        }))
    }

    /// Forgets what disk and device lost; the copies that nothing has any more.
    #[must_use]
    pub fn departed(&self) -> Vec<CopyKey> {
        let disk = self.disk.as_ref().map(DiskTier::departed);
        let gpu = self.gpu.as_ref().map(GpuTier::departed);
        let mut departed: Vec<CopyKey> = disk.into_iter().chain(gpu).flatten().collect();
        if !departed.is_empty() {
            let mut ledger = self.ledger();
            departed.retain(|key| self.nowhere(&mut ledger, *key));
        }
        departed
    }

    /// Makes room on disk; the copies that had to go, or none: there is nothing to do.
    pub async fn reclaim(&self, reclaimer: &mut Reclaimer) -> Option<Vec<CopyKey>> {
        let disk = self.disk.as_ref()?;
        let fixed = |key: &CopyKey| self.ledger().is_fixed(*key);
        let segment = reclaimer.emptied(&fixed).await?;
        let evicted = {
            let mut ledger = self.ledger();
            let mut copies = disk.copies_of(segment);
            // Somebody leased one meanwhile: the next go carries it on.
            if copies.iter().any(|key| ledger.is_fixed(*key)) {
                return None;
            }
            copies.iter().for_each(|key| disk.forget(key));
            copies.retain(|key| self.nowhere(&mut ledger, *key));
            copies
        };
        reclaimer.discard(segment).await;
        Some(evicted)
    }

    /// When a copy that was found on disk was put, and in which log of the region. None: it
    /// is not such a copy, or not there any more.
    #[must_use]
    pub fn found(&self, key: CopyKey) -> Option<(Hlc, LogIncarnation)> {
        let disk = self
            .disk
            .as_ref()
            .filter(|_| key.copy.incarnation == FOUND)?;
        disk.written(&key)
    }

    /// Gives a copy another number, unclaimed. None: it went meanwhile.
    pub async fn renumber(&self, old: CopyKey, copy: Copy) -> Option<Brief> {
        let new = CopyKey { copy, ..old };
        let on_disk = self.disk.as_ref().and_then(|disk| disk.renamed(&old, new));
        let on_gpu = self.gpu.as_ref().and_then(|gpu| gpu.renamed(&old, new));
        let below = on_disk.or(on_gpu);
        let in_memory = self.tier.rename(old, new).await;
        let renumbered = in_memory.or(below).and_then(|brief| {
            let (mut leases, mut ledger) = (self.leases(), self.ledger());
            if ledger.is_pinned(old) {
                leases.renumbered(old, new);
            }
            let put_hlc = ledger.renumber(old, new, Instant::now())?;
            Some(Brief { put_hlc, ..brief })
        });
        if renumbered.is_none() {
            self.remove(old).await;
            self.remove(new).await;
        }
        renumbered
    }

    /// The region's log, which copies on disk name from now on.
    pub fn set_log(&self, log: impl FnOnce() -> Option<LogIncarnation>) {
        if let Some((disk, log)) = self.disk.as_ref().zip(log()) {
            disk.set_log(log);
        }
    }

    /// How much is on disk. None: there is no disk.
    #[must_use]
    pub fn disk_usage(&self) -> Option<DiskUsage> {
        self.disk.as_ref().map(DiskTier::usage)
    }
}

/// A block that keeps no more memory alive than the ledger counts: what was read from disk
/// shares one allocation with its header.
fn tight(block: &Arc<Block>) -> Arc<Block> {
    const SLACK_BYTES: u64 = 16 << 10;
    if block.meta.bytes / 8 > SLACK_BYTES {
        return Arc::clone(block);
    }
    let own = block
        .pieces
        .iter()
        .map(|piece| bytes::Bytes::copy_from_slice(piece));
    Arc::new(Block {
        meta: block.meta.clone(),
        pieces: own.collect(),
    })
}

#[cfg(test)]
#[path = "floors_test.rs"]
pub(super) mod floors_test;
