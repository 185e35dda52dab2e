//! The GPU tier: blocks in the memory of a device.
//!
//! Invariants: every byte that is read was verified; the blocks on the device never take more
//! than the budget, those on their way in and out included; no thread that must not wait calls
//! the device, and every call has an end. A device that fails, is full or hangs makes misses
//! and refusals, no errors.
//!
//! Not here: which copies go to the device and which leave it (`lifting`).

mod books;
#[cfg(feature = "gpu")]
mod candle;
mod device;
#[cfg(test)]
pub(super) mod faulty_device;

use std::{
    collections::BTreeSet,
    io,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use futures::future::BoxFuture;
use kvmesh_client::{
    Block, BlockMeta,
    block::{Assembler, BlockError},
};
use tokio::{
    sync::Notify,
    time::{Duration, Instant},
};
use tracing::warn;

use self::books::{Books, Budget, Room};
use super::{
    pool::{Pool, PoolError},
    tier::{BlockTier, Brief, CopyKey, Lookup, TierError, TierKind},
};

pub(super) use books::Heat;
pub use device::{BUILT, Device, DeviceError, OnDevice, first};

/// Copies to and from the device at a time.
const COPIES: usize = 4;
/// A device that takes longer for one copy has failed.
const CALL_MAX: Duration = Duration::from_secs(5);
/// For so long the device is left alone after it failed.
const REST: Duration = Duration::from_secs(5);
/// After so many failures and no success between them, nothing on the device is believed to
/// be there any more.
const FAILURES_MAX: u32 = 3;
/// Copies that wait to be copied to the device.
const WISHES_MAX: usize = 1_024;

/// How much is on the device, and what was done there since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct GpuUsage {
    /// Bytes of blocks on the device, on their way there, or on their way off it.
    pub used: u64,
    /// The budget.
    pub max: u64,
    /// Copies on the device.
    pub copies: u64,
    /// Bytes copied to the device.
    pub copied_in: u64,
    /// Bytes copied from it.
    pub copied_out: u64,
    /// Blocks that came back with other bytes.
    pub corrupt: u64,
    /// Calls of the device that failed.
    pub failures: u64,
    /// Blocks that were not taken: there was no room or no turn, or the device rested.
    pub skipped: u64,
}

#[derive(Debug, Default)]
struct Counts {
    copied_in: AtomicU64,
    copied_out: AtomicU64,
    corrupt: AtomicU64,
    failures: AtomicU64,
    skipped: AtomicU64,
}

fn count(counter: &AtomicU64, by: u64) {
    counter.fetch_add(by, Ordering::Relaxed);
}

/// A block on the device. Its room is free when its bytes have left.
struct Resident {
    bytes: Box<dyn OnDevice>,
    meta: BlockMeta,
    _room: Room,
}

#[derive(Default)]
struct State {
    books: Books<Resident>,
    wishes: BTreeSet<CopyKey>,
    /// Copies that were given up, bounded by those that were listed.
    departed: Vec<CopyKey>,
    rests_until: Option<Instant>,
    failures: u32,
}

/// How long the device may take, and how often it is asked.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    pub(super) copies: usize,
    pub(super) call_max: Duration,
    pub(super) rest: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            copies: COPIES,
            call_max: CALL_MAX,
            rest: REST,
        }
    }
}

struct Shared {
    device: Arc<dyn Device>,
    pool: Pool,
    rest: Duration,
    budget: Arc<Budget>,
    counts: Counts,
    /// Something is wished for, or to leave the device.
    wished: Notify,
    /// The innermost lock of a node, and held for no call of the device.
    state: Mutex<State>,
}

/// Why a block did not come back.
#[derive(Debug, thiserror::Error)]
enum ReadError {
    #[error(transparent)]
    Device(#[from] DeviceError),
    #[error(transparent)]
    Corrupt(#[from] BlockError),
}

impl From<io::Error> for ReadError {
    fn from(error: io::Error) -> Self {
        Self::Device(error.into())
    }
}

impl Resident {
    fn read(&self) -> Result<Block, ReadError> {
        let mut block = Assembler::new(self.meta.clone(), true)?;
        for piece in self.bytes.copy_out()? {
            block.push(piece)?;
        }
        Ok(block.finish()?)
    }
}

/// See the module. Clones share it.
#[derive(Clone)]
pub struct GpuTier(Arc<Shared>);

impl GpuTier {
    /// Over a device, for so many bytes of blocks.
    #[must_use]
    pub fn new(device: Arc<dyn Device>, bytes_max: u64) -> Self {
        Self::with_patience(device, bytes_max, Patience::default())
    }

    pub(super) fn with_patience(device: Arc<dyn Device>, max: u64, patience: Patience) -> Self {
        Self(Arc::new(Shared {
            device,
            pool: Pool::new(patience.copies, patience.call_max),
            rest: patience.rest,
            budget: Arc::new(Budget::new(max)),
            counts: Counts::default(),
            wished: Notify::new(),
            state: Mutex::default(),
        }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a copy is on the device.
    #[must_use]
    pub fn has(&self, key: &CopyKey) -> bool {
        self.state().books.get(key).is_some()
    }

    /// Forgets a copy; its bytes leave the device when [`Self::tend`] is called.
    pub fn forget(&self, key: &CopyKey) {
        let mut state = self.state();
        state.wishes.remove(key);
        if state.books.remove(key) {
            self.0.wished.notify_one();
        }
    }

    /// Frees what was forgotten, when there is a turn.
    pub async fn tend(&self) {
        if !self.state().books.has_leaving() {
            return;
        }
        let tier = self.clone();
        let freeing = move || {
            let leaving = tier.state().books.leaving();
            drop(leaving);
            Ok::<_, DeviceError>(())
        };
        if let Err(PoolError::Failed(_) | PoolError::Stuck) = self.0.pool.run(freeing).await {
            self.broke();
        }
    }

    /// Gives a copy another number. None: it is not here.
    #[must_use]
    pub fn renamed(&self, old: &CopyKey, new: CopyKey) -> Option<Brief> {
        self.state().books.rename(old, new)
    }

    /// Whether so many bytes fit beside what is there.
    pub(super) fn fits(&self, bytes: u64) -> bool {
        self.0.budget.fits(bytes)
    }

    pub(super) fn coldest(&self) -> Option<(Heat, CopyKey)> {
        self.state().books.coldest()
    }

    pub(super) fn warm(&self, key: &CopyKey, heat: Heat) {
        self.state().books.warm(key, heat);
    }

    /// Asks for a copy to be copied to the device, unless it is there or too many are asked for.
    pub(super) fn wish(&self, key: CopyKey) {
        let mut state = self.state();
        if state.wishes.len() < WISHES_MAX
            && !state.books.is_listed(&key)
            && state.wishes.insert(key)
        {
            self.0.wished.notify_one();
        }
    }

    pub(super) fn next_wish(&self) -> Option<CopyKey> {
        self.state().wishes.pop_first()
    }

    /// Waits until something is wished for, or to leave the device.
    pub async fn wished(&self) {
        self.0.wished.notified().await;
    }

    /// Copies that were given up since this was asked last.
    #[must_use]
    pub fn departed(&self) -> Vec<CopyKey> {
        std::mem::take(&mut self.state().departed)
    }

    /// See [`GpuUsage`].
    #[must_use]
    pub fn usage(&self) -> GpuUsage {
        let counts = &self.0.counts;
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        GpuUsage {
            used: self.0.budget.used(),
            max: self.0.budget.max(),
            copies: self.state().books.len() as u64,
            copied_in: of(&counts.copied_in),
            copied_out: of(&counts.copied_out),
            corrupt: of(&counts.corrupt),
            failures: of(&counts.failures),
            skipped: of(&counts.skipped),
        }
    }

    /// The device failed: it is left alone for a while, and given up when it always fails.
    fn broke(&self) {
        count(&self.0.counts.failures, 1);
        let mut state = self.state();
        state.rests_until = Some(Instant::now() + self.0.rest);
        state.failures += 1;
        if state.failures >= FAILURES_MAX {
            state.failures = 0;
            let lost = state.books.clear();
            warn!(
                blocks = lost.len(),
                "the device is given up with all that was on it"
            );
            state.departed.extend(lost);
            self.0.wished.notify_one();
        }
    }

    fn worked(&self) {
        self.state().failures = 0;
    }

    fn is_resting(&self) -> bool {
        let until = self.state().rests_until;
        until.is_some_and(|until| until > Instant::now())
    }

    async fn read(&self, key: CopyKey) -> Lookup {
        if !self.has(&key) {
            return Lookup::Miss;
        }
        if self.is_resting() {
            return Lookup::Busy;
        }
        let tier = self.clone();
        // Taken there, so that who waits for a turn in vain is not who frees it.
        let reading = move || {
            let resident = tier.state().books.get(&key).cloned();
            resident.map(|resident| resident.read()).transpose()
        };
        match self.0.pool.run(reading).await {
            Ok(None) => Lookup::Miss,
            Ok(Some(block)) => {
                self.worked();
                count(&self.0.counts.copied_out, block.meta.bytes);
                Lookup::Hit(Arc::new(block))
            }
            Err(PoolError::Failed(ReadError::Corrupt(error))) => {
                warn!(%error, "a block on the device is not what it was");
                count(&self.0.counts.corrupt, 1);
                self.forget(&key);
                Lookup::Miss
            }
            Err(PoolError::Busy) => Lookup::Busy,
            // It may be there yet.
            Err(error @ (PoolError::Failed(_) | PoolError::Stuck)) => {
                warn!(%error, "a block could not be copied from the device");
                self.broke();
                Lookup::Busy
            }
        }
    }

    async fn keep(&self, key: CopyKey, block: Arc<Block>) -> Result<(), TierError> {
        let kept = self.try_keep(key, block).await;
        if kept.is_none() {
            count(&self.0.counts.skipped, 1);
        }
        kept.ok_or(TierError::Busy(TierKind::Gpu))
    }

    async fn try_keep(&self, key: CopyKey, block: Arc<Block>) -> Option<()> {
        if self.state().books.is_listed(&key) {
            return Some(());
        }
        if self.is_resting() {
            return None;
        }
        let bytes = block.meta.bytes;
        let room = self.0.budget.take(bytes)?;
        let Some(ticket) = self.state().books.expect(key, Brief::of(&block.meta)) else {
            return Some(());
        };
        let device = Arc::clone(&self.0.device);
        let copying = move || {
            device.copy_in(&block.pieces).map(|bytes| Resident {
                bytes,
                meta: block.meta.clone(),
                _room: room,
            })
        };
        match self.0.pool.run(copying).await {
            Ok(resident) => {
                self.worked();
                count(&self.0.counts.copied_in, bytes);
                self.state().books.arrived(ticket, resident);
                // When it was forgotten meanwhile, it is to leave again.
                self.0.wished.notify_one();
                Some(())
            }
            Err(error) => {
                self.state().books.failed(ticket);
                if !matches!(error, PoolError::Busy) {
                    warn!(%error, "a block could not be copied to the device");
                    self.broke();
                }
                None
            }
        }
    }
}

impl BlockTier for GpuTier {
    fn kind(&self) -> TierKind {
        TierKind::Gpu
    }

    fn get(&self, key: CopyKey) -> BoxFuture<'_, Lookup> {
        Box::pin(self.read(key))
    }

    fn put(&self, key: CopyKey, block: Arc<Block>) -> BoxFuture<'_, Result<(), TierError>> {
        Box::pin(self.keep(key, block))
    }

    fn remove(&self, key: CopyKey) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            self.forget(&key);
            self.tend().await;
        })
    }

    fn rename(&self, old: CopyKey, new: CopyKey) -> BoxFuture<'_, Option<Brief>> {
        Box::pin(async move { self.renamed(&old, new) })
    }
}

#[cfg(test)]
mod gpu_test;
