//! How long computing takes.

/// How fast the engines of a namespace compute.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Prefill {
    /// Tokens per second of a short prompt.
    pub rate: f64,
    /// Tokens at which attention doubles the time; 0: the time grows with the tokens alone.
    pub growth: f64,
}

impl Prefill {
    /// Seconds to compute the tokens from `from` on and before `to`, behind a cached prefix.
    #[must_use]
    pub fn seconds(&self, from: f64, to: f64) -> f64 {
        (self.work(to) - self.work(from)) / self.rate
    }

    /// Tokens without attention that take as long as these with it.
    #[must_use]
    pub fn work(&self, tokens: f64) -> f64 {
        match self.growth > 0.0 {
            true => tokens * (1.0 + tokens / self.growth),
            false => tokens,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_behind_a_prefix_costs_the_difference() {
        let prefill = Prefill {
            rate: 1_000.0,
            growth: 10_000.0,
        };
        assert_eq!(prefill.seconds(0.0, 10_000.0), 20.0);
        assert_eq!(prefill.seconds(10_000.0, 20_000.0), 40.0);
        let apart = prefill.seconds(0.0, 3_000.0) + prefill.seconds(3_000.0, 20_000.0);
        assert!((apart - prefill.seconds(0.0, 20_000.0)).abs() < 1e-9);
        let linear = Prefill {
            growth: 0.0,
            ..prefill
        };
        assert_eq!(linear.seconds(10_000.0, 20_000.0), 10.0);
    }
}
