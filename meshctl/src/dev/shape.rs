//! What a link does to bytes: how late they come and how many cross in a second. Changes
//! while connections stand.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;

/// One link, in both directions; all connections over it share it.
#[derive(Debug)]
pub(super) struct Shape {
    rtt_us: AtomicU64,
    /// Bytes a second in each direction; 0: not limited.
    bandwidth: AtomicU64,
    /// When each direction is free again.
    free: [Mutex<Option<Instant>>; 2],
}

impl Shape {
    pub(super) fn new(rtt: Duration) -> Self {
        Self {
            rtt_us: AtomicU64::new(micros(rtt)),
            bandwidth: AtomicU64::new(0),
            free: Default::default(),
        }
    }

    pub(super) fn rtt(&self) -> Duration {
        Duration::from_micros(self.rtt_us.load(Ordering::Relaxed))
    }

    pub(super) fn set_rtt(&self, rtt: Duration) {
        self.rtt_us.store(micros(rtt), Ordering::Relaxed);
    }

    /// Bytes a second; 0: not limited.
    pub(super) fn bandwidth(&self) -> u64 {
        self.bandwidth.load(Ordering::Relaxed)
    }

    pub(super) fn set_bandwidth(&self, bandwidth: u64) {
        self.bandwidth.store(bandwidth, Ordering::Relaxed);
    }

    /// Whether bytes pass as they are.
    pub(super) fn is_plain(&self) -> bool {
        self.rtt().is_zero() && self.bandwidth() == 0
    }

    /// When bytes that leave now arrive: behind those that left before them in `direction`
    /// (0 or 1), at the link's bandwidth, half a round trip later.
    pub(super) fn due(&self, direction: usize, bytes: usize, now: Instant) -> Instant {
        let left = match self.bandwidth() {
            0 => now,
            bandwidth => {
                let mut free = self.free[direction]
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner);
                let begins = free.map_or(now, |free| free.max(now));
                let takes = Duration::from_secs_f64(bytes as f64 / bandwidth as f64);
                *free.insert(begins + takes)
            }
        };
        left + self.rtt() / 2
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_queue_for_the_bandwidth_and_then_take_half_a_round_trip() {
        let shape = Shape::new(Duration::from_millis(80));
        let now = Instant::now();
        let after = |ms| now + Duration::from_millis(ms);
        assert_eq!(shape.due(0, 1 << 20, now), after(40));
        shape.set_bandwidth(1_000_000);
        assert_eq!(shape.due(0, 10_000, now), after(50));
        assert_eq!(shape.due(0, 10_000, now), after(60));
        assert_eq!(
            shape.due(1, 10_000, now),
            after(50),
            "the other way is free"
        );
        shape.set_rtt(Duration::ZERO);
        assert_eq!(shape.due(0, 10_000, after(100)), after(110));
        assert!(!shape.is_plain());
        shape.set_bandwidth(0);
        assert!(shape.is_plain());
    }
}
