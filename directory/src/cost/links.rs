//! What is known of all links of a region.
//!
//! A link that was not measured yet is thought to be to its setting as the others are to
//! theirs: their ends here are the same, and settings err alike.

use std::collections::BTreeMap;

use super::{
    estimate::{Estimate, Window},
    link::{CONFIGURED_SIGMA, Configured, LinkCost, MeasuredLink, Seen, Transfer},
};
use crate::words::RegionId;

/// The links to other regions.
#[derive(Debug, Clone, Default)]
pub struct Links {
    links: BTreeMap<RegionId, MeasuredLink>,
}

impl Links {
    /// Takes what a transfer showed.
    pub fn transferred(&mut self, at: f64, region: &RegionId, by: &Configured, transfer: Transfer) {
        let link = self.links.entry(region.clone()).or_default();
        link.transferred(at, by.bandwidth, transfer);
    }

    /// What to expect of a link at this time.
    #[must_use]
    pub fn cost(&self, at: f64, region: &RegionId, configured: &Configured) -> LinkCost {
        let mut others = Window::default();
        for (other, link) in &self.links {
            if let Some((newest, ratio)) = link.ratio(at).filter(|_| other != region) {
                others.take(newest, ratio);
            }
        }
        let exactly_so = Estimate {
            median: 1.0,
            sigma: CONFIGURED_SIGMA,
        };
        let usual = others.estimate(at, exactly_so);
        let unknown = MeasuredLink::default();
        let link = self.links.get(region).unwrap_or(&unknown);
        link.cost(at, configured, usual)
    }

    /// What the transfers over a link say now, for others who use it.
    #[must_use]
    pub fn seen(&self, at: f64, region: &RegionId) -> Seen {
        let link = self.links.get(region);
        link.map(|link| link.seen(at)).unwrap_or_default()
    }

    /// Whether a small transfer over a link is worth its bytes, since nobody measured its
    /// bandwidth for long; one that says yes says no for as long again.
    pub fn wants_probe(&mut self, at: f64, region: &RegionId, by: &Configured) -> bool {
        let link = self.links.entry(region.clone()).or_default();
        link.wants_probe(at, &by.seen)
    }

    /// Forgets regions that are not there any more.
    pub fn keep(&mut self, there: impl Fn(&RegionId) -> bool) {
        self.links.retain(|region, _| there(region));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_that_nobody_used_is_thought_like_the_others() {
        let region = |name: &str| name.parse::<RegionId>().unwrap();
        let configured = |bandwidth| Configured {
            rtt: Estimate {
                median: 0.1,
                sigma: 0.0,
            },
            bandwidth,
            dollars_per_gb: 0.0,
            seen: Seen::default(),
        };
        let mut links = Links::default();
        let thought = |links: &Links, bandwidth| {
            let cost = links.cost(1.0, &region("new"), &configured(bandwidth));
            cost.bandwidth.median.round()
        };
        assert_eq!(thought(&links, 100e6), 100e6);
        for name in ["a", "b", "c"] {
            let transfer = Transfer {
                first_byte: 0.1,
                rtt: 0.1,
                bytes: 400_000_000,
                took: 1.0,
            };
            links.transferred(1.0, &region(name), &configured(100e6), transfer);
        }
        assert_eq!(thought(&links, 100e6), 400e6);
        assert_eq!(
            thought(&links, 25e6),
            100e6,
            "a setting still tells links apart"
        );
        links.keep(|_| false);
        assert_eq!(thought(&links, 100e6), 100e6);
    }
}
