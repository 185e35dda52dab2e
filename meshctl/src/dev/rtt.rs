//! Round trips between regions, as a public cloud publishes them.
//!
//! Source: Azure's table of network round-trip latency between its regions, the two
//! directions averaged; each region stands for the city named beside it.

use std::time::Duration;

/// Regions with built-in round trips.
pub const REGIONS_BUILT_IN: usize = 10;

/// Their names, in the order in which a mesh grows.
pub const REGIONS: [&str; REGIONS_BUILT_IN] = [
    "us-east",      // Virginia
    "eu-west",      // London
    "ap-south",     // Mumbai and Pune
    "us-west",      // Oregon
    "eu-central",   // Frankfurt
    "ap-southeast", // Singapore
    "ap-northeast", // Tokyo
    "sa-east",      // Sao Paulo
    "au-east",      // Sydney
    "af-south",     // Johannesburg
];

/// Milliseconds; row by row what lies below the diagonal.
const BELOW: [&[f64]; REGIONS_BUILT_IN] = [
    &[],
    &[78.5],
    &[234.5, 129.0],
    &[68.5, 145.0, 220.5],
    &[93.5, 17.0, 130.5, 158.5],
    &[223.0, 155.0, 56.0, 163.0, 157.0],
    &[163.5, 230.5, 127.0, 100.0, 219.0, 73.0],
    &[118.0, 180.0, 330.0, 177.5, 195.0, 332.0, 270.5],
    &[198.5, 247.0, 152.5, 161.5, 247.0, 94.0, 103.5, 298.5],
    &[
        217.5, 161.0, 205.0, 277.5, 162.0, 180.0, 249.0, 319.0, 269.5,
    ],
];

/// The round trip between two regions by their place in [`REGIONS`]; zero inside of one and
/// for a region that is not built in.
#[must_use]
pub fn between(one: usize, other: usize) -> Duration {
    let (low, high) = (one.min(other), one.max(other));
    let ms = BELOW.get(high).and_then(|row| row.get(low));
    Duration::from_secs_f64(ms.copied().unwrap_or(0.0) / 1e3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_three_are_the_published_ones() {
        for (one, other, ms) in [(0, 1, 78.5), (0, 2, 234.5), (1, 2, 129.0), (1, 1, 0.0)] {
            let want = Duration::from_secs_f64(ms / 1e3);
            assert_eq!(between(one, other), want);
            assert_eq!(between(other, one), want);
        }
    }

    #[test]
    fn every_pair_has_one() {
        for (high, row) in BELOW.iter().enumerate() {
            assert_eq!(row.len(), high);
            assert!((0..high).all(|low| !between(low, high).is_zero()));
        }
    }
}
