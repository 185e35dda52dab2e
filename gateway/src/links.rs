//! What is known of the links to other regions: round trips as region-sync's probes say, and
//! bandwidths and times to the first byte as this gateway's own fetches showed.
//!
//! The one place where the two meet; the rules are in `directory/src/cost.rs`. Soft state of
//! one gateway.

use std::sync::{Mutex, MutexGuard, PoisonError};

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

/// Times one fetch. What it showed counts when it is dropped, whether all came or not.
pub(crate) struct Timing<'a> {
    links: &'a Links,
    region: &'a RegionId,
    configured: Configured,
    begun: Instant,
    /// When the first and the newest bytes came.
    came: Option<(Instant, Instant)>,
    /// Bytes after the first ones.
    bytes: u64,
    /// Waited here for room, since the first bytes came.
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

    /// Begins to time a fetch.
    pub(crate) fn time<'a>(&'a self, region: &'a RegionId, link: &Link) -> Timing<'a> {
        Timing {
            links: self,
            region,
            configured: link.configured,
            begun: Instant::now(),
            came: None,
            bytes: 0,
            waited: Duration::ZERO,
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

impl Timing<'_> {
    /// So many bytes came.
    pub(crate) fn came(&mut self, bytes: usize) {
        let now = Instant::now();
        match &mut self.came {
            None => self.came = Some((now, now)),
            Some((_, newest)) => {
                *newest = now;
                self.bytes += bytes as u64;
            }
        }
    }

    /// The link was not read for so long.
    pub(crate) fn paused(&mut self, time: Duration) {
        match self.came {
            None => self.begun += time,
            Some(_) => self.waited += time,
        }
    }
}

impl Drop for Timing<'_> {
    fn drop(&mut self) {
        let Some((first, newest)) = self.came else {
            return;
        };
        let took = newest.duration_since(first).saturating_sub(self.waited);
        let transfer = Transfer {
            first_byte: first.duration_since(self.begun).as_secs_f64(),
            rtt: self.configured.rtt.median,
            bytes: self.bytes,
            took: took.as_secs_f64(),
        };
        self.links
            .transferred(self.region, &self.configured, transfer);
    }
}
