//! What is known of the links to other regions: round trips as region-sync's probes say, and
//! bandwidths and times to the first byte as this gateway's own fetches showed.
//!
//! The one place where the two meet; the rules are in `directory/src/cost.rs`. Soft state of
//! one gateway.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kvmesh_client::follow::Link;
use kvmesh_directory::{
    RegionId,
    cost::{Configured, LinkCost, Links as Measured, Transfer, Z95},
};
use tokio::time::{Duration, Instant};

use crate::meters::Meters;

/// See the module.
pub(crate) struct Links {
    begun: Instant,
    measured: Mutex<Measured>,
    meters: Meters,
}

/// Times one fetch, whose lanes share it. What it showed counts when it is dropped, whether all
/// came or not.
pub(crate) struct Timing {
    links: Arc<Links>,
    region: RegionId,
    configured: Configured,
    lanes: u32,
    clock: Mutex<Clock>,
}

struct Clock {
    begun: Instant,
    /// When the first and the newest bytes came.
    came: Option<(Instant, Instant)>,
    /// Bytes after the first ones.
    bytes: u64,
    /// Lanes waited here for room, since the first bytes came; all of them together.
    waited: Duration,
}

impl Links {
    pub(crate) fn new(meters: Meters) -> Self {
        Self {
            begun: Instant::now(),
            measured: Mutex::default(),
            meters,
        }
    }

    /// What to expect of a link now.
    pub(crate) fn cost(&self, region: &RegionId, link: &Link) -> LinkCost {
        self.lock().cost(self.now(), region, &link.configured)
    }

    /// Whether a small fetch is worth its bytes, to know a link that nobody has used for long.
    pub(crate) fn wants_probe(&self, region: &RegionId) -> bool {
        self.lock().wants_probe(self.now(), region)
    }

    /// Begins to time a fetch over so many lanes.
    pub(crate) fn time(self: &Arc<Self>, region: &RegionId, link: &Link, lanes: usize) -> Timing {
        Timing {
            links: Arc::clone(self),
            region: region.clone(),
            configured: link.configured,
            lanes: u32::try_from(lanes).unwrap_or(u32::MAX).max(1),
            clock: Mutex::new(Clock {
                begun: Instant::now(),
                came: None,
                bytes: 0,
                waited: Duration::ZERO,
            }),
        }
    }

    fn transferred(&self, region: &RegionId, configured: &Configured, transfer: Transfer) {
        let now = self.now();
        let cost = {
            let mut measured = self.lock();
            measured.transferred(now, region, configured, transfer);
            measured.cost(now, region, configured)
        };
        self.meters.transferred(region, transfer.bytes);
        let first_byte = cost.first_byte;
        let bandwidth = cost.bandwidth;
        for (quantile, z) in [("0.5", 0.0), ("0.95", Z95)] {
            self.meters.link(
                region,
                quantile,
                first_byte.quantile(z),
                bandwidth.quantile(-z),
            );
        }
    }

    fn now(&self) -> f64 {
        self.begun.elapsed().as_secs_f64()
    }

    fn lock(&self) -> MutexGuard<'_, Measured> {
        self.measured.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Timing {
    /// So many bytes came.
    pub(crate) fn came(&self, bytes: usize) {
        let now = Instant::now();
        let mut clock = self.clock.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut clock.came {
            None => clock.came = Some((now, now)),
            Some((_, newest)) => {
                *newest = now;
                clock.bytes += bytes as u64;
            }
        }
    }

    /// The first bytes are not waited for any more: they take longer than until now.
    pub(crate) fn late(&self) {
        let clock = self.clock.lock().unwrap_or_else(PoisonError::into_inner);
        let transfer = Transfer {
            first_byte: clock.begun.elapsed().as_secs_f64(),
            rtt: self.configured.rtt.median,
            bytes: 0,
            took: 0.0,
        };
        drop(clock);
        let links = &self.links;
        (links.lock()).transferred(links.now(), &self.region, &self.configured, transfer);
    }

    /// A lane was not read for so long.
    pub(crate) fn paused(&self, time: Duration) {
        let mut clock = self.clock.lock().unwrap_or_else(PoisonError::into_inner);
        match clock.came {
            None => clock.begun += time / self.lanes,
            Some(_) => clock.waited += time,
        }
    }
}

impl Drop for Timing {
    fn drop(&mut self) {
        let clock = self.clock.get_mut().unwrap_or_else(PoisonError::into_inner);
        let Some((first, newest)) = clock.came else {
            return;
        };
        let took = newest.duration_since(first);
        let transfer = Transfer {
            first_byte: first.duration_since(clock.begun).as_secs_f64(),
            rtt: self.configured.rtt.median,
            bytes: clock.bytes,
            took: took.saturating_sub(clock.waited / self.lanes).as_secs_f64(),
        };
        self.links
            .transferred(&self.region, &self.configured, transfer);
    }
}
