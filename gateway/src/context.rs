//! What every call of one gateway shares.

use std::{sync::Arc, time::Duration};

use kvmesh_client::Problem;
use kvmesh_directory::{RegionId, limits::BLOCK_BYTES_MAX};
use kvmesh_process::Environment;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, timeout_at},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    fill::Fills, flight::Flights, meters::Meters, peers::Peers, pending::Pending,
    prefetch::Prefetches, prefill::Prefill, settings::Settings, views::Views, watch::WATCHES_MAX,
};

/// When a caller that found a limit used up should try again.
pub(crate) const RETRY_AFTER: Duration = Duration::from_millis(200);

/// One gateway.
pub(crate) struct Gateway {
    pub(crate) settings: Settings,
    pub(crate) region: RegionId,
    pub(crate) environment: Environment,
    pub(crate) views: Views,
    pub(crate) peers: Peers,
    pub(crate) meters: Meters,
    pub(crate) tasks: TaskTracker,
    /// Puts under way here.
    pub(crate) pending: Pending,
    /// Fetches under way here.
    pub(crate) flights: Flights,
    /// Fetched blocks on their way into this region.
    pub(crate) fills: Fills,
    /// Bytes of gets, of fetches, and of puts that are in memory.
    pub(crate) get_bytes: Budget,
    pub(crate) fetch_bytes: Budget,
    pub(crate) put_bytes: Budget,
    /// How fast engines prefill.
    pub(crate) prefill: Prefill,
    pub(crate) prefetches: Prefetches,
    /// Room for watches.
    pub(crate) watches: Arc<Semaphore>,
    /// Ends what would go on for long.
    pub(crate) stop: CancellationToken,
    calls: Arc<Semaphore>,
}

impl Gateway {
    pub(crate) fn new(
        settings: Settings,
        region: RegionId,
        environment: Environment,
        views: Views,
        fills: Fills,
        tasks: TaskTracker,
        stop: CancellationToken,
    ) -> Self {
        let memory = Duration::from_millis(settings.failure_memory_ms);
        let bytes = settings.inflight_bytes_max;
        Self {
            peers: Peers::new(&environment.channels, &region, memory),
            region,
            views,
            meters: Meters::new(Arc::clone(&environment.instance)),
            prefill: Prefill::default(),
            prefetches: Prefetches::new(&environment.instance, environment.clock.millis()),
            watches: Arc::new(Semaphore::new(WATCHES_MAX)),
            stop,
            environment,
            tasks,
            pending: Pending::default(),
            flights: Flights::default(),
            fills,
            get_bytes: Budget::new("inflight_bytes_max (gets)", bytes),
            fetch_bytes: Budget::new("inflight_bytes_max (fetches)", bytes),
            put_bytes: Budget::new("inflight_bytes_max (puts)", bytes),
            calls: Arc::new(Semaphore::new(settings.calls_max)),
            settings,
        }
    }

    /// Admits one more call, or says that there are too many.
    pub(crate) fn admit(&self) -> Result<OwnedSemaphorePermit, Problem> {
        let room = Arc::clone(&self.calls).try_acquire_owned();
        room.map_err(|_| exhausted("calls_max"))
    }

    /// How long an owner may take to answer about so many bytes.
    pub(crate) fn owner_timeout(&self, bytes: u64) -> Duration {
        Duration::from_millis(self.settings.owner_timeout_ms) + transfer_time(bytes)
    }
}

/// Of bytes at 100 MB/s.
fn transfer_time(bytes: u64) -> Duration {
    Duration::from_micros(bytes / 100)
}

pub(crate) fn exhausted(limit: &str) -> Problem {
    Problem::Exhausted {
        limit: limit.to_owned(),
        retry_after: RETRY_AFTER,
    }
}

/// Bytes that may be in memory for one purpose, counted in units of 4 KiB.
#[derive(Debug, Clone)]
pub(crate) struct Budget {
    name: &'static str,
    units: Arc<Semaphore>,
}

const UNIT_BYTES: u64 = 4_096;
const _: () = assert!(BLOCK_BYTES_MAX / UNIT_BYTES < u32::MAX as u64);

/// Bytes taken from a [`Budget`], until dropped.
pub(crate) type Share = OwnedSemaphorePermit;

impl Budget {
    /// `bytes` is at least the size of the largest block.
    pub(crate) fn new(name: &'static str, bytes: u64) -> Self {
        let units = usize::try_from(bytes / UNIT_BYTES).unwrap_or(usize::MAX);
        Self {
            name,
            units: Arc::new(Semaphore::new(units.min(Semaphore::MAX_PERMITS))),
        }
    }

    fn units_of(bytes: u64) -> u32 {
        let units = bytes.min(BLOCK_BYTES_MAX).div_ceil(UNIT_BYTES).max(1);
        u32::try_from(units).unwrap_or(u32::MAX)
    }

    /// Takes bytes if they are free; at most the size of one block counts.
    pub(crate) fn take_now(&self, bytes: u64) -> Result<Share, Problem> {
        let units = Arc::clone(&self.units).try_acquire_many_owned(Self::units_of(bytes));
        units.map_err(|_| exhausted(self.name))
    }

    /// Waits for bytes to be free.
    pub(crate) async fn take(&self, bytes: u64, until: Instant) -> Result<Share, Problem> {
        let units = Arc::clone(&self.units).acquire_many_owned(Self::units_of(bytes));
        match timeout_at(until, units).await {
            Ok(Ok(share)) => Ok(share),
            Ok(Err(_)) | Err(_) => Err(exhausted(self.name)),
        }
    }
}
