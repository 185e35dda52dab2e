//! The disk tier: a log of segments.
//!
//! Invariants: every byte that is read was verified, header and pieces, and what is wrong is
//! a miss, counted and forgotten; what a write promised to be durable is found again after a
//! power cut; nothing waits for the disk without an end, and the queue to it is bounded. A
//! disk that fails, is full or hangs makes misses and refusals, no errors.
//!
//! Not here: which copies go to disk (`store`), and which may be served after a start: the
//! directory says.

mod aligned;
mod append;
mod files;
mod index;
mod io;
mod owner;
mod reclaim;
mod record;
mod recover;
mod segment;
mod shared;
mod start;
mod writer;

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use futures::future::BoxFuture;
use kvmesh_client::{Block, Ranges, ranges::Pieces};
use kvmesh_directory::{Hlc, LogIncarnation};
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, timeout_at},
};
use tracing::warn;

use self::{
    index::{Copied, Written},
    record::Header,
    segment::{ReadError, Segment},
    shared::{Shared, count},
    writer::Order,
};
use super::{
    pool::PoolError,
    tier::{BlockTier, Brief, CopyKey, Lookup, TierError, TierKind},
};

pub use reclaim::Reclaimer;
pub use start::{DiskSettings, Found, OpenError, Opened, Writer, open};

/// How much is on disk, and what was done there since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DiskUsage {
    /// Bytes of all segments.
    pub used: u64,
    /// What they may be: the budget, or what others leave of it on the file system.
    pub max: u64,
    /// Of copies, with their headers.
    pub live: u64,
    /// Copies, those that wait to be written included.
    pub copies: u64,
    /// Bytes written for blocks.
    pub written: u64,
    /// Bytes written again to make room.
    pub carried: u64,
    /// Bytes read for blocks.
    pub read: u64,
    /// Records that were not what they should be.
    pub corrupt: u64,
    /// Calls of the disk that failed.
    pub failures: u64,
    /// Blocks that were not taken: the queue was full, or the disk not to be had.
    pub skipped: u64,
    /// Records of before the start that were not whole.
    pub torn: u64,
    /// Syncs that somebody waited for.
    pub syncs: u64,
}

/// Why a block is not durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotDurable {
    /// Never on this node.
    #[error("this node has no disk for blocks: start it with disk_dir")]
    NoDisk,
    /// It cannot be now.
    #[error("the disk takes no blocks now: it is full, or failed lately")]
    Refused,
    /// Not in time.
    #[error("the disk took too long")]
    OutOfTime,
    /// It was tried.
    #[error("the block could not be written to disk")]
    Failed,
}

/// See the module. Clones share it.
#[derive(Clone)]
pub struct DiskTier {
    shared: Arc<Shared>,
    orders: mpsc::Sender<Order>,
}

impl DiskTier {
    /// Takes a block to be written when there is room for it; whether it is on disk, or on
    /// its way there.
    #[must_use]
    pub fn offer(&self, key: CopyKey, block: &Arc<Block>) -> bool {
        let listed = self.shared.state().index.get(&key).is_some();
        let taken = listed || self.queue(key, block);
        if !taken {
            count(&self.shared.counts.skipped, 1);
        }
        taken
    }

    fn queue(&self, key: CopyKey, block: &Arc<Block>) -> bool {
        if !self.takes_more() {
            return false;
        }
        let Some(room) = self.shared.queue_gate.try_enter(block.meta.bytes) else {
            return false;
        };
        let Ok(order) = self.orders.try_reserve() else {
            return false;
        };
        match self.shared.state().index.wait(key, Arc::clone(block)) {
            Some(ticket) => order.send(Order::Write(ticket, room)),
            None => drop(order),
        }
        true
    }

    fn takes_more(&self) -> bool {
        let listed = self.shared.state().index.len() < self.shared.shape.copies_max;
        if !listed {
            self.shared.crowded.notify_one();
        }
        listed && !self.shared.is_resting()
    }

    /// Returns once a block is durable.
    ///
    /// # Errors
    /// When it is not, or not in time; it may be on its way then.
    pub async fn make_durable(
        &self,
        key: CopyKey,
        block: &Arc<Block>,
        until: Instant,
    ) -> Result<(), NotDurable> {
        if self.shared.state().index.get(&key).is_none() {
            self.order(key, block, until).await?;
        }
        self.synced(key, until).await
    }

    async fn order(
        &self,
        key: CopyKey,
        block: &Arc<Block>,
        until: Instant,
    ) -> Result<(), NotDurable> {
        if !self.takes_more() {
            return Err(NotDurable::Refused);
        }
        let gate = &self.shared.queue_gate;
        let room = gate.enter(block.meta.bytes, until).await;
        let room = room.ok_or(NotDurable::OutOfTime)?;
        let order = timeout_at(until, self.orders.reserve()).await;
        let order = order.map_err(|_| NotDurable::OutOfTime)?;
        let order = order.map_err(|_| NotDurable::Refused)?;
        if let Some(ticket) = self.shared.state().index.wait(key, Arc::clone(block)) {
            order.send(Order::Write(ticket, room));
        }
        Ok(())
    }

    /// Returns once a copy that is listed is durable.
    ///
    /// # Errors
    /// When it is not, or not in time.
    pub async fn synced(&self, key: CopyKey, until: Instant) -> Result<(), NotDurable> {
        match self.is_sealed(&key) {
            None => return Err(self.failed()),
            Some(true) => return Ok(()),
            Some(false) => {}
        }
        let (told, done) = oneshot::channel();
        let sent = timeout_at(until, self.orders.send(Order::Sync(told))).await;
        sent.map_err(|_| NotDurable::OutOfTime)?
            .map_err(|_| NotDurable::Refused)?;
        match timeout_at(until, done).await {
            Err(_) => Err(NotDurable::OutOfTime),
            Ok(Err(_)) => Err(NotDurable::Refused),
            // When the sync failed, it is not listed any more.
            Ok(Ok(())) if self.is_written(&key) => Ok(()),
            Ok(Ok(())) => Err(self.failed()),
        }
    }

    fn is_written(&self, key: &CopyKey) -> bool {
        let state = self.shared.state();
        matches!(state.index.get(key), Some(Copied::Written(_)))
    }

    /// Why a copy is not listed any more that was to be written.
    fn failed(&self) -> NotDurable {
        match self.shared.is_resting() {
            true => NotDurable::Refused,
            false => NotDurable::Failed,
        }
    }

    /// Whether a copy is in a segment that is durable as a whole. None: it is not listed.
    fn is_sealed(&self, key: &CopyKey) -> Option<bool> {
        let state = self.shared.state();
        match state.index.get(key)? {
            Copied::Waiting(..) => Some(false),
            Copied::Written(written) => {
                let books = state.index.segments().get(&written.place.segment);
                Some(books.is_some_and(|books| books.closed))
            }
        }
    }

    /// Whether a copy is on disk, or on its way there.
    #[must_use]
    pub fn has(&self, key: &CopyKey) -> bool {
        self.shared.state().index.get(key).is_some()
    }

    /// When a written copy was put, and in which log of the region.
    #[must_use]
    pub fn written(&self, key: &CopyKey) -> Option<(Hlc, LogIncarnation)> {
        match self.shared.state().index.get(key)? {
            Copied::Written(written) => Some((written.brief.put_hlc, written.log)),
            Copied::Waiting(..) => None,
        }
    }

    /// Whether readers leave turns of the disk for what nobody waits for.
    #[must_use]
    pub fn has_turns(&self) -> bool {
        self.shared.reads.is_half_free()
    }

    /// Copies that were lost since this was asked last.
    #[must_use]
    pub fn departed(&self) -> Vec<CopyKey> {
        std::mem::take(&mut self.shared.state().departed)
    }

    /// Copies that are in a segment.
    #[must_use]
    pub fn copies_of(&self, segment: u64) -> Vec<CopyKey> {
        let copies = self.shared.state().index.copies_of(segment);
        copies.into_iter().map(|(key, _)| key).collect()
    }

    /// Forgets a copy.
    pub fn forget(&self, key: &CopyKey) {
        if self.shared.state().index.remove(key) {
            self.shared.crowded.notify_one();
        }
    }

    /// Gives a copy another number; no byte on disk changes. None: it is not here.
    #[must_use]
    pub fn renamed(&self, old: &CopyKey, new: CopyKey) -> Option<Brief> {
        let mut state = self.shared.state();
        let brief = state.index.get(old)?.brief();
        state.index.rename(old, new).then_some(brief)
    }

    /// The region's log, which records name from now on.
    pub fn set_log(&self, log: LogIncarnation) {
        self.shared.set_log(log);
    }

    /// See [`DiskUsage`].
    #[must_use]
    pub fn usage(&self) -> DiskUsage {
        let counts = &self.shared.counts;
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let state = self.shared.state();
        DiskUsage {
            used: state.index.file_bytes(),
            max: self.shared.ceiling(),
            live: state.index.live_bytes(),
            copies: state.index.len() as u64,
            written: of(&counts.written),
            carried: of(&counts.carried),
            read: of(&counts.read),
            corrupt: of(&counts.corrupt),
            failures: of(&counts.failures),
            skipped: of(&counts.skipped),
            torn: of(&counts.torn),
            syncs: of(&counts.syncs),
        }
    }

    async fn read(&self, key: CopyKey) -> Lookup {
        let (segment, written) = match self.place(&key) {
            Ok(place) => place,
            Err(Lookup::Hit(waiting)) => return Lookup::Hit(waiting),
            Err(other) => return other,
        };
        let place = written.place;
        let reading = move || {
            let (header, block) = segment.record(place.offset, place.bytes)?;
            Ok((header, Arc::new(block), place.bytes))
        };
        self.verified(key, written, reading).await
    }

    /// The pieces of a copy that ranges touch, which it has; no other piece is read.
    pub async fn pieces(&self, key: CopyKey, ranges: &Ranges) -> Lookup<Pieces> {
        let (segment, written) = match self.place(&key) {
            Ok(place) => place,
            Err(Lookup::Hit(waiting)) => return Lookup::Hit(Pieces::of(&waiting, ranges)),
            Err(Lookup::Miss) => return Lookup::Miss,
            Err(Lookup::Busy) => return Lookup::Busy,
        };
        let (place, bytes) = (written.place, written.brief.bytes);
        if ranges.check(bytes).is_err() {
            return Lookup::Busy;
        }
        let ranges = ranges.clone();
        let reading = move || segment.pieces(place.offset, (place.bytes, bytes), &ranges);
        self.verified(key, written, reading).await
    }

    /// Where a copy is to be read; else what is known without it: the block that waits to be
    /// written, or that there is none.
    fn place(&self, key: &CopyKey) -> Result<(Segment, Written), Lookup> {
        let state = self.shared.state();
        match state.index.get(key) {
            None => Err(Lookup::Miss),
            Some(Copied::Waiting(_, block)) => Err(Lookup::Hit(Arc::clone(block))),
            Some(Copied::Written(written)) => {
                let segment = state.open.get(&written.place.segment);
                let segment = segment.cloned().ok_or(Lookup::Miss)?;
                Ok((segment, *written))
            }
        }
    }

    /// Reads with `reading`, that says how many bytes it read; what is not the copy that is
    /// listed is counted and forgotten.
    async fn verified<T: Send + 'static>(
        &self,
        key: CopyKey,
        written: Written,
        reading: impl FnOnce() -> Result<(Header, T, u64), ReadError> + Send + 'static,
    ) -> Lookup<T> {
        let place = written.place;
        match self.shared.reads.run(reading).await {
            Ok((header, found, read))
                if header.name == key.name && Brief::of(&header.meta) == written.brief =>
            {
                count(&self.shared.counts.read, read);
                self.shared.state().index.read(&key);
                Lookup::Hit(found)
            }
            Ok(_) => {
                self.shared.corrupt(place);
                Lookup::Miss
            }
            Err(PoolError::Failed(error)) => {
                warn!(%error, ?place, "a record on disk is not what it was");
                self.shared.corrupt(place);
                Lookup::Miss
            }
            Err(PoolError::Busy | PoolError::Stuck) => Lookup::Busy,
        }
    }
}

impl BlockTier for DiskTier {
    fn kind(&self) -> TierKind {
        TierKind::Disk
    }

    fn get(&self, key: CopyKey) -> BoxFuture<'_, Lookup> {
        Box::pin(self.read(key))
    }

    fn put(&self, key: CopyKey, block: Arc<Block>) -> BoxFuture<'_, Result<(), TierError>> {
        Box::pin(async move {
            match self.offer(key, &block) {
                true => Ok(()),
                false => Err(TierError::Busy(TierKind::Disk)),
            }
        })
    }

    fn remove(&self, key: CopyKey) -> BoxFuture<'_, ()> {
        Box::pin(async move { self.forget(&key) })
    }

    fn rename(&self, old: CopyKey, new: CopyKey) -> BoxFuture<'_, Option<Brief>> {
        Box::pin(async move { self.renamed(&old, new) })
    }
}

#[cfg(test)]
mod disk_test;
#[cfg(test)]
mod faulty_io;
