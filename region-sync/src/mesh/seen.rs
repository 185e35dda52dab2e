//! What transfers showed the gateways of the region, all of them together.

use std::sync::{MutexGuard, PoisonError};

use kvmesh_directory::{
    RegionId,
    cost::{Configured, Estimate, LinkCost, Seen, Transfer},
};

use super::{Link, Mesh};

impl Mesh {
    /// A gateway saw these transfers from regions that are peers; what other regions' show is
    /// dropped.
    pub(crate) fn transferred(&self, transfers: &[(RegionId, Transfer)]) {
        let now = self.seconds();
        for (region, transfer) in transfers {
            if let Some(link) = self.link(region) {
                let mut seen = self.seen_guard();
                seen.transferred(now, region, &configured(&link), *transfer);
            }
        }
    }

    /// What the transfers from a region showed.
    pub(crate) fn seen(&self, region: &RegionId) -> Seen {
        self.seen_guard().seen(self.seconds(), region)
    }

    /// What to expect of the link to a peer.
    pub(crate) fn cost(&self, region: &RegionId) -> Option<LinkCost> {
        let link = self.link(region)?;
        let seen = self.seen_guard();
        Some(seen.cost(self.seconds(), region, &configured(&link)))
    }

    fn seconds(&self) -> f64 {
        self.begun.elapsed().as_secs_f64()
    }

    fn seen_guard(&self) -> MutexGuard<'_, kvmesh_directory::cost::Links> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is known of a link without its transfers.
fn configured(link: &Link) -> Configured {
    let unknown = Estimate {
        median: 0.0,
        sigma: 0.0,
    };
    Configured {
        rtt: link.trips.unwrap_or(unknown),
        bandwidth: link.bandwidth,
        dollars_per_gb: link.dollars_per_gb,
        seen: Seen::default(),
    }
}
