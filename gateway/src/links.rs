//! What is known of the links to other regions: round trips as region-sync's probes say, and
//! bandwidths and times to the first byte as this gateway's own fetches showed.
//!
//! The one place where the two meet; the rules are in `directory/src/cost.rs`. What this
//! gateway saw is told to region-sync (`tell`), which tells all gateways of the region. Who has the right of way on them is in `way`; what is pushed keeps to a part of
//! the link, and so shows nothing of it.

use std::{
    collections::BTreeMap,
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use kvmesh_client::{
    channel::{AT_ONCE_BYTES, received_at_once},
    follow::Link,
};
use kvmesh_directory::{
    RegionId,
    cost::{Configured, LinkCost, Links as Measured, Transfer, Z95},
    limits::LINK_TRANSFERS_MAX,
};
use tokio::time::{Duration, Instant};

use crate::{
    meters::Meters,
    way::{Class, Way},
};

/// See the module.
pub(crate) struct Links {
    begun: Instant,
    measured: Mutex<Measured>,
    /// Of these region-sync is not told yet; more than a call takes are not kept.
    untold: Mutex<Vec<(RegionId, Transfer)>>,
    /// Bounded by the regions of a mesh.
    ways: Mutex<BTreeMap<RegionId, Way>>,
    /// What gateways of the regions say; bounded as they are.
    sent_at_once: Mutex<BTreeMap<RegionId, u64>>,
    received_at_once: u64,
    meters: Meters,
}

/// Times one fetch, whose lanes share it. What it showed counts when it is dropped, whether all
/// came or not.
pub(crate) struct Timing {
    links: Arc<Links>,
    region: RegionId,
    configured: Configured,
    lanes: u32,
    class: Class,
    clock: Mutex<Clock>,
}

struct Clock {
    begun: Instant,
    /// When the first and the newest bytes came.
    came: Option<(Instant, Instant)>,
    /// Bytes after the first ones.
    bytes: u64,
    /// That are expected, and have not come yet.
    to_come: u64,
    /// Lanes waited here for room, since the first bytes came; all of them together.
    waited: Duration,
}

impl Links {
    pub(crate) fn new(meters: Meters) -> Self {
        Self {
            begun: Instant::now(),
            measured: Mutex::default(),
            untold: Mutex::default(),
            ways: Mutex::default(),
            sent_at_once: Mutex::default(),
            received_at_once: received_at_once(),
            meters,
        }
    }

    /// What to expect of a link now.
    pub(crate) fn cost(&self, region: &RegionId, link: &Link) -> LinkCost {
        self.lock().cost(self.now(), region, &link.configured)
    }

    /// Whether a small fetch is worth its bytes, to know a link that nobody has used for long.
    pub(crate) fn wants_probe(&self, region: &RegionId, link: &Link) -> bool {
        (self.lock()).wants_probe(self.now(), region, &link.configured)
    }

    /// What region-sync is to be told now.
    pub(crate) fn take_untold(&self) -> Vec<(RegionId, Transfer)> {
        mem::take(&mut *self.untold())
    }

    /// Whether a push may ask a region for so many bytes now, as they travel; it counts as asking
    /// for them then.
    pub(crate) fn may_push(&self, region: &RegionId, link: &Link, bytes: u64) -> bool {
        let (now, bandwidth) = (Instant::now(), self.bandwidth(region, link));
        self.way(region, |way| way.may_push(now, bandwidth, bytes))
    }

    /// Bytes a second that a fetch is expected to see; infinite: not known.
    pub(crate) fn bandwidth(&self, region: &RegionId, link: &Link) -> f64 {
        self.cost(region, link).bandwidth.median
    }

    /// What one connection has on its way from there, at most; what is usual, where it is not said.
    pub(crate) fn sent_at_once(&self, region: &RegionId) -> u64 {
        let said = self.sent_at_once.lock();
        let said = said.unwrap_or_else(PoisonError::into_inner);
        let said = said.get(region).copied().unwrap_or(AT_ONCE_BYTES);
        said.min(self.received_at_once)
    }

    /// A gateway there says so.
    pub(crate) fn sends_at_once(&self, region: &RegionId, bytes: u64) {
        let said = self.sent_at_once.lock();
        let mut said = said.unwrap_or_else(PoisonError::into_inner);
        said.insert(region.clone(), bytes);
    }

    /// Begins to time a fetch over so many lanes, which expects so many bytes, as they travel.
    pub(crate) fn time(
        self: &Arc<Self>,
        region: &RegionId,
        link: &Link,
        lanes: usize,
        (class, to_come): (Class, u64),
    ) -> Timing {
        if class == Class::Demand {
            self.way(region, |way| way.expect(to_come));
        }
        Timing {
            links: Arc::clone(self),
            region: region.clone(),
            configured: link.configured,
            lanes: u32::try_from(lanes).unwrap_or(u32::MAX).max(1),
            class,
            clock: Mutex::new(Clock {
                begun: Instant::now(),
                came: None,
                bytes: 0,
                to_come,
                waited: Duration::ZERO,
            }),
        }
    }

    /// Bytes from there that fetches expect which somebody waits for.
    pub(crate) fn expected(&self, region: &RegionId) -> u64 {
        self.way(region, |way| way.expected())
    }

    /// Takes what a transfer showed.
    pub(crate) fn transferred(
        &self,
        region: &RegionId,
        configured: &Configured,
        transfer: Transfer,
    ) {
        let now = self.now();
        let cost = {
            let mut measured = self.lock();
            measured.transferred(now, region, configured, transfer);
            measured.cost(now, region, configured)
        };
        self.tell(region, transfer);
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

    fn way<T>(&self, region: &RegionId, then: impl FnOnce(&mut Way) -> T) -> T {
        let mut ways = self.ways.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(way) = ways.get_mut(region) {
            return then(way);
        }
        let way = ways.entry(region.clone());
        then(way.or_insert_with(|| Way::new(Instant::now())))
    }

    fn tell(&self, region: &RegionId, transfer: Transfer) {
        let mut untold = self.untold();
        if untold.len() < LINK_TRANSFERS_MAX {
            untold.push((region.clone(), transfer));
        }
    }

    fn untold(&self) -> MutexGuard<'_, Vec<(RegionId, Transfer)>> {
        self.untold.lock().unwrap_or_else(PoisonError::into_inner)
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
        let expected = clock.to_come.min(bytes as u64);
        clock.to_come -= expected;
        drop(clock);
        if self.class == Class::Demand {
            let links = &self.links;
            links.way(&self.region, |way| way.came(now, bytes as u64, expected));
        }
    }

    /// The first bytes are not waited for any more: they take longer than until now.
    pub(crate) fn late(&self) {
        if self.class == Class::Pushed {
            return;
        }
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
        links.tell(&self.region, transfer);
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
        if self.class == Class::Pushed {
            return;
        }
        let clock = self.clock.get_mut().unwrap_or_else(PoisonError::into_inner);
        let left = clock.to_come;
        self.links.way(&self.region, |way| way.expect_no_more(left));
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
