//! How much may be under way at once, also when the settings change while the gateway runs.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use kvmesh_client::Problem;
use kvmesh_directory::limits::BLOCK_BYTES_MAX;
use tokio::{
    sync::{AcquireError, OwnedSemaphorePermit, Semaphore, TryAcquireError},
    time::{Instant, timeout_at},
};
use tokio_util::sync::CancellationToken;

use crate::context::{Gateway, exhausted};

/// A number of places, some of which are taken.
#[derive(Debug, Clone)]
pub(crate) struct Room {
    places: Arc<Semaphore>,
    total: Arc<AtomicUsize>,
}

impl Room {
    pub(crate) fn new(total: usize) -> Self {
        let total = total.min(Semaphore::MAX_PERMITS);
        Self {
            places: Arc::new(Semaphore::new(total)),
            total: Arc::new(AtomicUsize::new(total)),
        }
    }

    pub(crate) fn take_now(&self, places: u32) -> Result<OwnedSemaphorePermit, TryAcquireError> {
        Arc::clone(&self.places).try_acquire_many_owned(places)
    }

    async fn take(&self, places: u32) -> Result<OwnedSemaphorePermit, AcquireError> {
        Arc::clone(&self.places).acquire_many_owned(places).await
    }

    /// Makes more places, or fewer, for which it waits its turn. One call at a time.
    async fn resize(&self, total: usize) {
        let (old, new) = (
            self.total.load(Ordering::Relaxed),
            total.min(Semaphore::MAX_PERMITS),
        );
        if new >= old {
            self.places.add_permits(new - old);
        } else if let Ok(gone) = self
            .take(u32::try_from(old - new).unwrap_or(u32::MAX))
            .await
        {
            gone.forget();
        }
        self.total.store(new, Ordering::Relaxed);
    }
}

/// Bytes that may be in memory for one purpose, counted in units of 4 KiB.
#[derive(Debug, Clone)]
pub(crate) struct Budget {
    name: &'static str,
    units: Room,
}

const UNIT_BYTES: u64 = 4_096;
const _: () = assert!(BLOCK_BYTES_MAX / UNIT_BYTES < u32::MAX as u64);

/// Bytes taken from a [`Budget`], until dropped.
pub(crate) type Share = OwnedSemaphorePermit;

impl Budget {
    /// `bytes` is at least the size of the largest block.
    pub(crate) fn new(name: &'static str, bytes: u64) -> Self {
        Self {
            name,
            units: Room::new(total_units(bytes)),
        }
    }

    async fn resize(&self, bytes: u64) {
        self.units.resize(total_units(bytes)).await;
    }

    fn units_of(bytes: u64) -> u32 {
        let units = bytes.min(BLOCK_BYTES_MAX).div_ceil(UNIT_BYTES).max(1);
        u32::try_from(units).unwrap_or(u32::MAX)
    }

    /// Takes bytes if they are free; at most the size of one block counts.
    pub(crate) fn take_now(&self, bytes: u64) -> Result<Share, Problem> {
        let units = self.units.take_now(Self::units_of(bytes));
        units.map_err(|_| exhausted(self.name))
    }

    /// Whether at most a half of them are taken.
    pub(crate) fn is_half_free(&self) -> bool {
        let total = self.units.total.load(Ordering::Relaxed);
        self.units.places.available_permits() >= total / 2
    }

    /// Waits for bytes to be free.
    pub(crate) async fn take(&self, bytes: u64, until: Instant) -> Result<Share, Problem> {
        let units = self.units.take(Self::units_of(bytes));
        match timeout_at(until, units).await {
            Ok(Ok(share)) => Ok(share),
            Ok(Err(_)) | Err(_) => Err(exhausted(self.name)),
        }
    }
}

fn total_units(bytes: u64) -> usize {
    usize::try_from(bytes / UNIT_BYTES).unwrap_or(usize::MAX)
}

/// Follows the settings until `stop`.
pub(crate) async fn run(gateway: Arc<Gateway>, stop: CancellationToken) {
    let following = async {
        let mut settings = gateway.settings.clone();
        loop {
            settings.changed().await;
            let now = settings.now();
            gateway.calls.resize(now.calls_max).await;
            for budget in [&gateway.get_bytes, &gateway.fetch_bytes, &gateway.put_bytes] {
                budget.resize(now.inflight_bytes_max).await;
            }
            gateway.fills.bytes.resize(now.fill_queue_bytes).await;
        }
    };
    stop.run_until_cancelled(following).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_may_wait_sees_when_over_a_half_is_taken() {
        let budget = Budget::new("bytes", 10 * UNIT_BYTES);
        let half = budget.take_now(5 * UNIT_BYTES).unwrap();
        assert!(budget.is_half_free());
        let more = budget.take_now(1).unwrap();
        assert!(!budget.is_half_free());
        drop(half);
        assert!(budget.is_half_free());
        // Of a budget that shrank, what is taken counts by its new size.
        budget.resize(2 * UNIT_BYTES).await;
        let rest = budget.take_now(UNIT_BYTES).unwrap();
        assert!(!budget.is_half_free());
        drop((more, rest));
        assert!(budget.is_half_free());
    }

    #[tokio::test]
    async fn room_becomes_more_at_once_and_less_when_it_is_free() {
        let room = Room::new(2);
        let held = room.take_now(2).unwrap();
        room.resize(3).await;
        let third = room.take_now(1).unwrap();
        let narrower = room.resize(1);
        tokio::pin!(narrower);
        assert!(futures::poll!(&mut narrower).is_pending());
        drop((held, third));
        narrower.await;
        let one = room.take_now(1).unwrap();
        assert!(room.take_now(1).is_err());
        drop(one);
        room.resize(2).await;
        assert!(room.take_now(2).is_ok());
    }
}
