//! When a fetch that is under way has turned out too slow.
//!
//! After `waited` seconds, of which the first byte took f, with a bytes here and l left, the
//! rest is expected to take l (waited - f + e / B) / (a + e): the pace so far, and the
//! expected one B with the weight of e bytes. Once that is more than recomputing the rest
//! takes, it is recomputed. The moment when this becomes so, if nothing more comes, is known in
//! advance; so a fetch that stalls needs no looking at.

use super::link::LinkCost;

/// The expected pace weighs like so large a part of the transfer.
const EXPECTED_PART: f64 = 0.05;

/// The pace of one fetch.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    first_byte_p95: f64,
    seconds_per_byte: f64,
    expected_bytes: f64,
}

impl Pace {
    /// Of a fetch of so many bytes, of which `slowest` come over this, the slowest link.
    #[must_use]
    pub fn new(link: &LinkCost, slowest: f64, bytes: f64) -> Self {
        Self {
            first_byte_p95: link.first_byte.quantile(super::Z95),
            seconds_per_byte: link.bandwidth.inverse().mean() * slowest / bytes.max(1.0),
            expected_bytes: bytes * EXPECTED_PART,
        }
    }

    /// Seconds since its beginning at which, if no more than the `arrived` bytes are here,
    /// recomputing what is `left`, which takes `recompute` seconds, has become faster.
    #[must_use]
    pub fn patience(
        &self,
        first_byte: Option<f64>,
        arrived: f64,
        left: f64,
        recompute: f64,
    ) -> f64 {
        if left <= 0.0 {
            return f64::INFINITY;
        }
        let expected = self.expected_bytes;
        let begun = first_byte.unwrap_or(self.first_byte_p95);
        begun + recompute * (arrived + expected) / left - expected * self.seconds_per_byte
    }
}

#[cfg(test)]
mod tests {
    use super::{super::estimate::Estimate, *};

    /// 100 MB/s, 80 ms.
    fn pace(bytes: f64) -> Pace {
        let exactly = |median| Estimate { median, sigma: 0.0 };
        let link = LinkCost {
            first_byte: exactly(0.080),
            bandwidth: exactly(100e6),
            dollars_per_gb: 0.0,
        };
        Pace::new(&link, bytes, bytes)
    }

    #[test]
    fn a_fetch_at_its_expected_pace_is_waited_for() {
        let pace = pace(100e6);
        // Recomputing all takes 1.2 s, fetching it 1.08.
        for percent in 0..100 {
            let arrived = f64::from(percent) * 1e6;
            let left = 100e6 - arrived;
            let recompute = 1.2 * left / 100e6;
            let now = 0.080 + arrived / 100e6;
            let until = pace.patience(Some(0.080), arrived, left, recompute);
            assert!(until > now, "{percent} % {until} {now}");
        }
    }

    #[test]
    fn one_at_half_the_pace_is_given_up_early() {
        let pace = pace(100e6);
        let given_up = (0..100).find(|percent| {
            let arrived = f64::from(*percent) * 1e6;
            let left = 100e6 - arrived;
            let until = pace.patience(Some(0.080), arrived, left, 1.2 * left / 100e6);
            until < 0.080 + arrived / 50e6
        });
        assert!((2..10).contains(&given_up.unwrap()), "{given_up:?}");
    }

    #[test]
    fn silence_is_given_up_before_it_costs_a_fifth() {
        let until = pace(100e6).patience(None, 0.0, 100e6, 1.2);
        assert!((0.080..0.320).contains(&until), "{until}");
        let whole = pace(100e6).patience(Some(0.080), 100e6, 0.0, 0.0);
        assert_eq!(whole, f64::INFINITY);
    }
}
