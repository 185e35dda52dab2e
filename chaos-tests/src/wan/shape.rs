//! When a packet comes out of a link, if it does: pure, by the times that it is given.

use std::time::Duration;

use rand::{Rng, SeedableRng, rngs::SmallRng};
use tokio::time::Instant;

/// What Ethernet adds to each packet.
const FRAME_BYTES: usize = 18;

/// One direction of a link.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shape {
    /// Half of the round trip.
    pub(crate) delay: Duration,
    /// Bits a second.
    pub(crate) bits: f64,
    /// Part of the packets that are lost, each by itself.
    pub(crate) loss: f64,
    /// What would wait longer for its turn is lost, too.
    pub(crate) queue: Duration,
}

/// See the module.
pub(crate) struct Shaper {
    shape: Shape,
    /// The link is busy until then.
    busy: Option<Instant>,
    random: SmallRng,
}

impl Shaper {
    /// Loses the same packets for the same seed.
    pub(crate) fn new(shape: Shape, seed: u64) -> Self {
        Self {
            shape,
            busy: None,
            random: SmallRng::seed_from_u64(seed),
        }
    }

    /// Whether the next packet is lost on the way.
    pub(crate) fn loses(&mut self) -> bool {
        self.shape.loss > 0.0 && self.random.random::<f64>() < self.shape.loss
    }

    /// When packets that came at once, these bytes in so many of them, are at the other end;
    /// none: there is no room for them. Times do not go back.
    pub(crate) fn pass(&mut self, now: Instant, bytes: usize, packets: usize) -> Option<Instant> {
        let free = self.busy.map_or(now, |busy| busy.max(now));
        if free.duration_since(now) > self.shape.queue {
            return None;
        }
        let bits = 8 * (bytes + packets * FRAME_BYTES);
        let sent = free + Duration::from_secs_f64(bits as f64 / self.shape.bits);
        self.busy = Some(sent);
        Some(sent + self.shape.delay)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: Shape = Shape {
        delay: Duration::from_millis(40),
        bits: 1e9,
        loss: 0.0,
        queue: Duration::from_millis(50),
    };

    #[test]
    fn what_comes_at_once_leaves_at_the_rate_and_the_rest_is_lost() {
        let (mut link, now) = (Shaper::new(SHAPE, 1), Instant::now());
        let out: Vec<Instant> = (0..10_000)
            .map_while(|_| link.pass(now, 1_500, 1))
            .collect();
        // 12.144 us each: so many fit into 50 ms, and the one that begins then.
        assert_eq!(out.len(), 4_118);
        let first = out[0].duration_since(now);
        let last = out[4_117].duration_since(now);
        assert!(first > SHAPE.delay && first < Duration::from_micros(40_013));
        assert!(last > Duration::from_micros(90_000) && last < Duration::from_micros(90_025));
        let later = now + Duration::from_secs(1);
        assert_eq!(
            link.pass(later, 1_500, 1)
                .map(|at| at.duration_since(later)),
            Some(first)
        );
    }

    #[test]
    fn so_many_are_lost_as_it_says() {
        let shape = Shape {
            loss: 0.001,
            ..SHAPE
        };
        let mut link = Shaper::new(shape, 1);
        let lost = (0..1_000_000).filter(|_| link.loses()).count();
        assert!((800..1_200).contains(&lost), "{lost}");
    }
}
