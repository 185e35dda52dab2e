//! The hybrid logical clock (Kulkarni et al., 2014), packed into 64 bits.
//! The caller reads the wall clock.

use crate::words::Hlc;

const COUNTER_BITS: u32 = 16;

impl Hlc {
    /// The clock at the start of a millisecond since 1970.
    #[must_use]
    pub fn from_millis(millis: u64) -> Self {
        Self(millis << COUNTER_BITS)
    }

    /// Milliseconds since 1970.
    #[must_use]
    pub fn millis(self) -> u64 {
        self.0 >> COUNTER_BITS
    }
}

/// Hands out clocks that only grow, never behind any that it has seen.
#[derive(Debug, Default)]
pub struct HlcClock {
    last: Hlc,
}

impl HlcClock {
    /// A new clock value, above all handed out and seen before.
    pub fn tick(&mut self, wall_millis: u64) -> Hlc {
        self.last = Hlc(self.last.0 + 1).max(Hlc::from_millis(wall_millis));
        self.last
    }

    /// Takes notice of another's clock.
    pub fn see(&mut self, other: Hlc) {
        self.last = self.last.max(other);
    }
}
