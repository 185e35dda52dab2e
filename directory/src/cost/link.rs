//! What is known of the link to another region, from settings, probes and transfers.

use super::estimate::{Estimate, Told, Window, Z95};

/// Bytes after the first ones from which on a transfer tells the bandwidth: fewer lie in
/// buffers on the way and tell nothing.
const BANDWIDTH_BYTES_MIN: u64 = 1 << 20;
/// A configured bandwidth is right within a factor of 1.65 two times of three.
pub(super) const CONFIGURED_SIGMA: f64 = 0.5;
/// How much longer than a round trip the first byte takes, before it was measured.
const FIRST_BYTE: Estimate = Estimate {
    median: 1.0,
    sigma: 0.05,
};
/// A bandwidth that was not measured for so long is worth a probe.
const PROBE_AGE: f64 = 300.0;

/// What region-sync says of a link.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Configured {
    /// Seconds of a round trip, from probes; its median is 0 before the first one.
    pub rtt: Estimate,
    /// Bytes per second by the settings; 0: without a bound.
    pub bandwidth: f64,
    /// Dollars that 1e9 bytes cost; 0: not known.
    pub dollars_per_gb: f64,
    /// What the transfers of all gateways of the region showed.
    pub seen: Seen,
}

/// What transfers over a link showed; none: there were none that tell it.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Seen {
    /// Time to the first byte, in round trips.
    pub first_byte: Option<Told>,
    /// Bytes per second.
    pub bandwidth: Option<Told>,
}

/// One transfer over the link, in seconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Transfer {
    /// From the request to the first bytes.
    pub first_byte: f64,
    /// Of a round trip, at that time.
    pub rtt: f64,
    /// Bytes that came after the first ones.
    pub bytes: u64,
    /// From the first bytes to the last ones.
    pub took: f64,
}

/// What was measured of one link.
#[derive(Debug, Clone, Default)]
pub(super) struct MeasuredLink {
    /// Time to the first byte, in round trips.
    first_byte: Window,
    /// Bytes per second.
    bandwidth: Window,
    /// By the settings, when it was last measured.
    configured: f64,
    /// When the last probe was let go.
    probed: Option<f64>,
}

/// What to expect of a link.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LinkCost {
    /// Seconds to the first byte.
    pub first_byte: Estimate,
    /// Bytes per second; its median is infinite where nothing is known.
    pub bandwidth: Estimate,
    /// Dollars that 1e9 bytes cost; 0: not known.
    pub dollars_per_gb: f64,
}

/// How long something takes, in seconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Time {
    /// Half of the time less.
    pub p50: f64,
    /// 19 times of 20 less.
    pub p95: f64,
    /// On average: what is weighed, so that neither luck wins.
    pub mean: f64,
}

impl MeasuredLink {
    /// Takes what a transfer showed.
    pub(super) fn transferred(&mut self, at: f64, configured: f64, transfer: Transfer) {
        self.configured = configured;
        if transfer.rtt > 0.0 {
            // Nothing comes before a round trip is over: what seems to was probed differently.
            let trips = (transfer.first_byte / transfer.rtt).max(1.0);
            self.first_byte.take(at, trips);
        }
        if transfer.bytes >= BANDWIDTH_BYTES_MIN && transfer.took > 0.0 {
            self.bandwidth
                .take(at, transfer.bytes as f64 / transfer.took);
        }
    }

    /// When it was last measured, and what it was then of its setting.
    pub(super) fn ratio(&self, at: f64) -> Option<(f64, f64)> {
        let newest = self.bandwidth.newest()?;
        let prior = Estimate {
            median: self.configured,
            sigma: CONFIGURED_SIGMA,
        };
        let bandwidth = self.bandwidth.estimate(at, prior);
        (self.configured > 0.0).then(|| (newest, bandwidth.median / self.configured))
    }

    /// What to expect at this time, where links are usually so much of their setting.
    pub(super) fn cost(&self, at: f64, configured: &Configured, usual: Estimate) -> LinkCost {
        let seen = &configured.seen;
        let trips = (self.first_byte).estimate_with(at, FIRST_BYTE, seen.first_byte);
        let rtt = configured.rtt;
        let unbound = Estimate {
            median: f64::INFINITY,
            sigma: 0.0,
        };
        let prior = Estimate {
            median: configured.bandwidth * usual.median,
            sigma: usual.sigma,
        };
        LinkCost {
            first_byte: Estimate {
                median: rtt.median * trips.median,
                sigma: rtt.sigma.hypot(trips.sigma),
            },
            bandwidth: match configured.bandwidth > 0.0 {
                true => (self.bandwidth).estimate_with(at, prior, seen.bandwidth),
                false => unbound,
            },
            dollars_per_gb: configured.dollars_per_gb,
        }
    }

    /// See [`Links::seen`](super::Links::seen).
    pub(super) fn seen(&self, at: f64) -> Seen {
        Seen {
            first_byte: self.first_byte.told(at),
            bandwidth: self.bandwidth.told(at),
        }
    }

    /// See [`Links::wants_probe`](super::Links::wants_probe).
    pub(super) fn wants_probe(&mut self, at: f64, seen: &Seen) -> bool {
        let old = |when: Option<f64>| when.is_none_or(|when| at - when >= PROBE_AGE);
        let by_others = seen.bandwidth.map(|told| at - told.age);
        let wanted = old(self.bandwidth.newest()) && old(by_others) && old(self.probed);
        if wanted {
            self.probed = Some(at);
        }
        wanted
    }
}

impl LinkCost {
    /// To fetch so many bytes.
    #[must_use]
    pub fn fetch(&self, bytes: f64) -> Time {
        let per_byte = self.bandwidth.inverse();
        let (first, all) = (self.first_byte.median, bytes * per_byte.median);
        let late = self.first_byte.quantile(Z95) - first;
        let slow = bytes * per_byte.quantile(Z95) - all;
        Time {
            p50: first + all,
            p95: first + all + late.hypot(slow),
            mean: self.first_byte.mean() + bytes * per_byte.mean(),
        }
    }

    /// The same link for bytes of which this share travels, since they are encoded on it.
    #[must_use]
    pub fn encoded(mut self, share: f64) -> Self {
        self.bandwidth.median /= share;
        self.dollars_per_gb *= share;
        self
    }

    /// Dollars to fetch so many bytes; none: not known.
    #[must_use]
    pub fn dollars(&self, bytes: f64) -> Option<f64> {
        (self.dollars_per_gb > 0.0).then(|| bytes / 1e9 * self.dollars_per_gb)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIGABIT: Configured = Configured {
        rtt: Estimate {
            median: 0.080,
            sigma: 0.0,
        },
        bandwidth: 125e6,
        dollars_per_gb: 0.02,
        seen: Seen {
            first_byte: None,
            bandwidth: None,
        },
    };

    const USUAL: Estimate = Estimate {
        median: 1.0,
        sigma: CONFIGURED_SIGMA,
    };

    fn transfer(bytes: u64, bandwidth: f64) -> Transfer {
        Transfer {
            first_byte: 0.100,
            rtt: 0.080,
            bytes,
            took: bytes as f64 / bandwidth,
        }
    }

    #[test]
    fn settings_count_until_transfers_tell_more() {
        let mut link = MeasuredLink::default();
        let before = link.cost(0.0, &GIGABIT, USUAL).fetch(125e6);
        assert!((before.p50 - 1.080).abs() < 1e-9, "{before:?}");
        assert!(before.p95 > before.mean && before.mean > before.p50);
        for second in 0..20 {
            link.transferred(f64::from(second), 125e6, transfer(50 << 20, 500e6));
        }
        let after = link.cost(20.0, &GIGABIT, USUAL).fetch(500e6);
        assert!((after.p50 - 1.100).abs() < 1e-3, "{after:?}");
        assert!(after.p95 < 1.4, "{after:?}");
        let dollars = link.cost(20.0, &GIGABIT, USUAL).dollars(500e6);
        assert!((dollars.unwrap() - 0.01).abs() < 1e-12);
    }

    #[test]
    fn what_other_gateways_saw_counts_before_own_transfers_do() {
        let mut theirs = MeasuredLink::default();
        for second in 0..20 {
            theirs.transferred(f64::from(second), 125e6, transfer(50 << 20, 500e6));
        }
        let told = Configured {
            seen: theirs.seen(20.0),
            ..GIGABIT
        };
        let own = MeasuredLink::default().cost(3.0, &told, USUAL).fetch(500e6);
        assert!((own.p50 - 1.100).abs() < 1e-3, "{own:?}");
        assert!(own.p95 < 1.4, "{own:?}");
    }

    #[test]
    fn small_transfers_tell_no_bandwidth() {
        let mut link = MeasuredLink::default();
        link.transferred(0.0, 125e6, transfer(4_096, 1e3));
        assert_eq!(link.ratio(0.0), None);
        assert_eq!(
            link.cost(0.0, &GIGABIT, USUAL).bandwidth.median.round(),
            125e6
        );
    }

    #[test]
    fn a_link_that_nobody_uses_is_probed_now_and_then() {
        let mut link = MeasuredLink::default();
        let wants = |link: &mut MeasuredLink, at| link.wants_probe(at, &Seen::default());
        assert!(wants(&mut link, 0.0) && !wants(&mut link, 299.0));
        assert!(wants(&mut link, 300.0));
        link.transferred(400.0, 125e6, transfer(2 << 20, 1e8));
        assert!(!wants(&mut link, 650.0) && wants(&mut link, 700.0));
        let others = link.seen(700.0);
        let mut unused = MeasuredLink::default();
        assert!(unused.wants_probe(700.0, &others), "theirs is as old");
        link.transferred(701.0, 125e6, transfer(2 << 20, 1e8));
        let others = link.seen(702.0);
        assert!(
            !unused.wants_probe(1_001.0, &others),
            "another gateway used it a second ago"
        );
    }

    #[test]
    fn a_link_without_a_bound_takes_its_round_trip() {
        let unbound = Configured {
            bandwidth: 0.0,
            ..GIGABIT
        };
        let time = MeasuredLink::default()
            .cost(0.0, &unbound, USUAL)
            .fetch(1e12);
        assert_eq!(time.p50, 0.080);
    }

    #[test]
    fn encoded_bytes_take_their_share_of_the_time_and_the_dollars() {
        let link = MeasuredLink::default().cost(0.0, &GIGABIT, USUAL);
        let (plain, encoded) = (link.fetch(0.75e9), link.encoded(0.75).fetch(1e9));
        assert!((plain.p50 - encoded.p50).abs() < 1e-9 && (plain.p95 - encoded.p95).abs() < 1e-9);
        let (plain, encoded) = (link.dollars(0.75e9), link.encoded(0.75).dollars(1e9));
        assert!((plain.unwrap() - encoded.unwrap()).abs() < 1e-12);
    }
}
