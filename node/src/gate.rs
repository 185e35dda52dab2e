//! Bounds the bytes of blocks that are on their way into memory.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, timeout_at},
};

/// Bytes of one permit: a semaphore counts 32 bits.
const UNIT_BYTES: u64 = 1_024;

/// Admits blocks while their bytes fit together. Who came first is served first.
#[derive(Debug, Clone)]
pub(crate) struct ByteGate {
    permits: Arc<Semaphore>,
    total: Arc<AtomicU32>,
}

impl ByteGate {
    pub(crate) fn new(bytes_max: u64) -> Self {
        let total = total_units(bytes_max);
        Self {
            permits: Arc::new(Semaphore::new(total as usize)),
            total: Arc::new(AtomicU32::new(total)),
        }
    }

    /// Room for a block that does not wait. None: there is none now.
    pub(crate) fn try_enter(&self, bytes: u64) -> Option<OwnedSemaphorePermit> {
        let permits = Arc::clone(&self.permits);
        permits.try_acquire_many_owned(self.units(bytes)).ok()
    }

    /// What can be in it at most.
    pub(crate) fn bytes_max(&self) -> u64 {
        u64::from(self.total.load(Ordering::Relaxed)) * UNIT_BYTES
    }

    fn units(&self, bytes: u64) -> u32 {
        let units = u32::try_from(bytes.div_ceil(UNIT_BYTES)).unwrap_or(u32::MAX);
        units.min(self.total.load(Ordering::Relaxed))
    }

    /// Room for a block; one that is larger than the gate takes all of it. None: not in time.
    pub(crate) async fn enter(&self, bytes: u64, until: Instant) -> Option<OwnedSemaphorePermit> {
        let permits = Arc::clone(&self.permits);
        let entering = permits.acquire_many_owned(self.units(bytes));
        timeout_at(until, entering).await.ok()?.ok()
    }

    /// Makes the gate wider, or narrower, for which it waits its turn. One call at a time.
    pub(crate) async fn resize(&self, bytes_max: u64) {
        let (old, new) = (self.total.load(Ordering::Relaxed), total_units(bytes_max));
        if new >= old {
            self.permits.add_permits((new - old) as usize);
            self.total.store(new, Ordering::Relaxed);
            return;
        }
        // First, so that no block waits for more than there will be.
        self.total.store(new, Ordering::Relaxed);
        match self.permits.acquire_many(old - new).await {
            Ok(gone) => gone.forget(),
            // Nobody closes it.
            Err(_) => self.total.store(old, Ordering::Relaxed),
        }
    }
}

fn total_units(bytes_max: u64) -> u32 {
    let units = u32::try_from(bytes_max / UNIT_BYTES).unwrap_or(u32::MAX);
    units.clamp(1, u32::MAX >> 3)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn soon() -> Instant {
        Instant::now() + Duration::from_millis(10)
    }

    #[tokio::test(start_paused = true)]
    async fn admits_what_fits_and_gives_up_in_time() {
        let gate = ByteGate::new(4 * UNIT_BYTES);
        let first = gate.enter(3 * UNIT_BYTES, soon()).await.unwrap();
        assert!(gate.enter(2 * UNIT_BYTES, soon()).await.is_none());
        assert!(gate.try_enter(2 * UNIT_BYTES).is_none());
        assert!(gate.try_enter(UNIT_BYTES).is_some());
        drop(first);
        assert!(gate.enter(u64::MAX, soon()).await.is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn becomes_wider_at_once_and_narrower_when_there_is_room() {
        let gate = ByteGate::new(4 * UNIT_BYTES);
        let first = gate.enter(4 * UNIT_BYTES, soon()).await.unwrap();
        gate.resize(6 * UNIT_BYTES).await;
        let second = gate.enter(2 * UNIT_BYTES, soon()).await.unwrap();
        let narrower = gate.resize(UNIT_BYTES);
        tokio::pin!(narrower);
        assert!(futures::poll!(&mut narrower).is_pending());
        drop((first, second));
        narrower.await;
        let whole = gate.enter(u64::MAX, soon()).await.unwrap();
        assert!(gate.enter(1, soon()).await.is_none());
        drop(whole);
        assert!(gate.enter(1, soon()).await.is_some());
    }
}
