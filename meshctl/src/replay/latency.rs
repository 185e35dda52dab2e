//! How long calls took, by kind.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

/// Longest time that is told apart, microseconds: longer than any call may take.
const LONGEST_US: u64 = 600_000_000;

/// Times of one kind of call.
#[derive(Debug)]
pub struct Times(Histogram<u64>);

/// What a report says of them, milliseconds.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Percentiles {
    /// Calls.
    pub count: u64,
    /// Half took no longer.
    pub p50: f64,
    /// 95 in 100 took no longer.
    pub p95: f64,
    /// 99 in 100 took no longer.
    pub p99: f64,
    /// The slowest.
    pub max: f64,
}

impl Times {
    /// None yet.
    ///
    /// # Errors
    /// Never: the bounds are possible.
    pub fn new() -> anyhow::Result<Self> {
        Ok(Self(Histogram::new_with_bounds(1, LONGEST_US, 3)?))
    }

    /// Notes one call.
    pub fn record(&mut self, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(LONGEST_US);
        self.0.saturating_record(micros.max(1));
    }

    /// Adds what others noted.
    ///
    /// # Errors
    /// Never: all have the same bounds.
    pub fn add(&mut self, others: &Self) -> anyhow::Result<()> {
        Ok(self.0.add(&others.0)?)
    }

    /// What they come to.
    #[must_use]
    pub fn percentiles(&self) -> Percentiles {
        let at = |percent| self.0.value_at_percentile(percent) as f64 / 1e3;
        Percentiles {
            count: self.0.len(),
            p50: at(50.0),
            p95: at(95.0),
            p99: at(99.0),
            max: self.0.max() as f64 / 1e3,
        }
    }
}
