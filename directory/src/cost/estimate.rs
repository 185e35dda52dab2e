//! Median and spread of something that is measured again and again.
//!
//! The median and the median deviation bear up to half of the weight being wrong (breakdown
//! point; Hampel, J. Am. Stat. Assoc. 69, 1974). Newer samples weigh more, by their number and
//! by their age, so a change is followed after a handful of samples, and what was measured long
//! ago gives way to the prior.

use std::collections::VecDeque;

/// Standard deviations from the median to the 95th percentile.
pub const Z95: f64 = 1.645;
/// Median deviation of a normal distribution to its standard deviation.
const MAD: f64 = 1.4826;
/// Samples that are kept.
const SAMPLES: usize = 32;
/// A sample weighs so much of the one after it.
const BY_NUMBER: f64 = 0.85;
/// After so many seconds a sample weighs half.
const HALF_LIFE: f64 = 3_600.0;
/// What the prior weighs; the newest sample weighs 1.
const PRIOR: f64 = 0.5;

/// Something positive whose logarithm is normal.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Estimate {
    /// Half of the time it is below.
    pub median: f64,
    /// Standard deviation of the logarithm.
    pub sigma: f64,
}

impl Estimate {
    /// So many standard deviations of the logarithm from the median.
    #[must_use]
    pub fn quantile(&self, z: f64) -> f64 {
        self.median * (z * self.sigma).exp()
    }

    /// Its mean.
    #[must_use]
    pub fn mean(&self) -> f64 {
        self.median * (self.sigma * self.sigma / 2.0).exp()
    }

    /// One over it.
    #[must_use]
    pub fn inverse(&self) -> Self {
        Self {
            median: 1.0 / self.median,
            sigma: self.sigma,
        }
    }
}

/// What the samples of others say, as much as they count now.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Told {
    /// Without any prior.
    pub estimate: Estimate,
    /// What these samples weigh together; a new one weighs 1.
    pub weight: f64,
    /// Seconds since the newest one was taken.
    pub age: f64,
}

/// The newest samples.
#[derive(Debug, Clone, Default)]
pub struct Window {
    /// When, and its logarithm; the newest last.
    samples: VecDeque<(f64, f64)>,
}

impl Window {
    /// Takes a sample; what is not positive is none.
    pub fn take(&mut self, at: f64, value: f64) {
        if !(value > 0.0 && value.is_finite()) {
            return;
        }
        if self.samples.len() == SAMPLES {
            self.samples.pop_front();
        }
        self.samples.push_back((at, value.ln()));
    }

    /// When the newest sample was taken.
    pub(super) fn newest(&self) -> Option<f64> {
        self.samples.back().map(|(at, _)| *at)
    }

    /// What it is now, given what is thought without any sample.
    #[must_use]
    pub fn estimate(&self, at: f64, prior: Estimate) -> Estimate {
        self.estimate_with(at, prior, None)
    }

    /// The same, where others have samples as well.
    #[must_use]
    pub fn estimate_with(&self, at: f64, prior: Estimate, told: Option<Told>) -> Estimate {
        let samples = self.weighed(at);
        let thought = told.map(|told| (told.estimate, told.weight));
        let thought: Vec<_> = thought.into_iter().chain([(prior, PRIOR)]).collect();
        let middles = thought.iter().map(|(it, weight)| (it.median.ln(), *weight));
        let middle = median(samples.iter().copied().chain(middles).collect());
        let weight = weight_of(&samples);
        let mut spread = weight * deviation(&samples, middle).powi(2);
        let mut weights = weight;
        for (it, weight) in thought {
            spread += weight * it.sigma * it.sigma;
            weights += weight;
        }
        Estimate {
            median: middle.exp(),
            sigma: (spread / weights).sqrt(),
        }
    }

    /// What others are told of the samples; none without any.
    #[must_use]
    pub fn told(&self, at: f64) -> Option<Told> {
        let age = (at - self.newest()?).max(0.0);
        let samples = self.weighed(at);
        let middle = median(samples.clone());
        Some(Told {
            estimate: Estimate {
                median: middle.exp(),
                sigma: deviation(&samples, middle),
            },
            weight: weight_of(&samples),
            age,
        })
    }

    /// The samples' logarithms, and what each weighs.
    fn weighed(&self, at: f64) -> Vec<(f64, f64)> {
        let mut by_number = 1.0;
        let weigh = |(taken, value): &(f64, f64)| {
            let age = (at - taken).max(0.0);
            let weight = by_number * (-age / HALF_LIFE).exp2();
            by_number *= BY_NUMBER;
            (*value, weight)
        };
        self.samples.iter().rev().map(weigh).collect()
    }
}

fn weight_of(samples: &[(f64, f64)]) -> f64 {
    samples.iter().map(|(_, weight)| weight).sum()
}

/// Standard deviation from `middle`.
fn deviation(samples: &[(f64, f64)], middle: f64) -> f64 {
    let deviations = samples.iter();
    let deviations = deviations.map(|(value, weight)| ((value - middle).abs(), *weight));
    MAD * median(deviations.collect())
}

/// Where half of the weight is reached; 0 without any.
fn median(mut weighed: Vec<(f64, f64)>) -> f64 {
    weighed.sort_by(|a, b| a.0.total_cmp(&b.0));
    let half = weighed.iter().map(|(_, weight)| weight).sum::<f64>() / 2.0;
    let mut below = 0.0;
    for (value, weight) in &weighed {
        below += weight;
        if below >= half {
            return *value;
        }
    }
    0.0
}

#[cfg(test)]
mod tests {
    use super::*;

    const PRIOR_OF_100: Estimate = Estimate {
        median: 100.0,
        sigma: 0.5,
    };

    fn near(got: f64, want: f64) -> bool {
        (got / want - 1.0).abs() < 0.01
    }

    /// Samples one second apart.
    fn window(values: impl IntoIterator<Item = f64>) -> (Window, f64) {
        let (mut window, mut now) = (Window::default(), 0.0);
        for value in values {
            now += 1.0;
            window.take(now, value);
        }
        (window, now)
    }

    #[test]
    fn without_samples_it_is_the_prior() {
        let (empty, now) = window([]);
        let estimate = empty.estimate(now, PRIOR_OF_100);
        assert!(near(estimate.median, 100.0) && near(estimate.sigma, 0.5));
        let (wrong, now) = window([0.0, -1.0, f64::NAN, f64::INFINITY]);
        assert_eq!(wrong.estimate(now, PRIOR_OF_100), estimate);
    }

    #[test]
    fn one_sample_counts_and_outliers_do_not() {
        let (one, now) = window([400.0]);
        assert!(near(one.estimate(now, PRIOR_OF_100).median, 400.0));
        // A third of them is wrong by a factor of a hundred.
        let values = (0..24).map(|n| if n % 3 == 0 { 40_000.0 } else { 400.0 });
        let (window, now) = window(values);
        let estimate = window.estimate(now, PRIOR_OF_100);
        assert!(near(estimate.median, 400.0), "{estimate:?}");
        assert!(estimate.sigma < 0.2, "{estimate:?}");
    }

    #[test]
    fn a_change_is_followed_after_a_handful() {
        let before = std::iter::repeat_n(400.0, 40);
        let (window, now) = window(before.chain([100.0; 5]));
        let estimate = window.estimate(now, PRIOR_OF_100);
        assert!(near(estimate.median, 100.0), "{estimate:?}");
    }

    #[test]
    fn the_spread_is_that_of_the_samples() {
        // Evenly over the quantiles of a log-normal with sigma 0.3.
        let z = [-1.5, 0.3, -0.6, 1.1, -0.2, 0.7, -1.0, 1.5, 0.0, -0.4];
        let (window, now) = window(
            z.iter()
                .cycle()
                .take(32)
                .map(|z| 400.0 * (z * 0.3_f64).exp()),
        );
        let estimate = window.estimate(now, PRIOR_OF_100);
        assert!((0.2..0.4).contains(&estimate.sigma), "{estimate:?}");
        let p95 = estimate.quantile(Z95);
        assert!(p95 > estimate.mean() && estimate.mean() > estimate.median);
    }

    #[test]
    fn what_others_measured_counts_as_their_samples_do() {
        let (own, now) = window([]);
        let (others, _) = window([400.0; 32]);
        let told = others.told(32.0);
        let estimate = own.estimate_with(now, PRIOR_OF_100, told);
        assert!(near(estimate.median, 400.0), "{estimate:?}");
        assert!(estimate.sigma < 0.2, "{estimate:?}");
        // Own samples that are as new count as much, older ones less.
        let (own, now) = window([200.0; 32]);
        let at = |now, told| own.estimate_with(now, PRIOR_OF_100, told).median;
        let between = 199.9..=400.1;
        assert!(between.contains(&at(now, told)), "{}", at(now, told));
        assert!(near(at(now + HALF_LIFE, told), 400.0));
        assert_eq!(
            own.estimate_with(now, PRIOR_OF_100, None),
            own.estimate(now, PRIOR_OF_100)
        );
    }

    #[test]
    fn what_is_told_says_how_old_it_is_and_what_it_weighs() {
        assert_eq!(window([]).0.told(1.0), None);
        let (one, now) = window([400.0]);
        let told = one.told(now + HALF_LIFE).unwrap();
        assert!(near(told.estimate.median, 400.0) && told.estimate.sigma == 0.0);
        assert!(
            near(told.weight, 0.5) && near(told.age, HALF_LIFE),
            "{told:?}"
        );
    }

    #[test]
    fn what_was_measured_long_ago_gives_way() {
        let (window, now) = window([400.0; 32]);
        // All of them weigh 6.6, which is as much as the prior after 3.7 half-lives.
        let after = |lives: f64| window.estimate(now + lives * HALF_LIFE, PRIOR_OF_100);
        assert!(near(after(3.0).median, 400.0), "{:?}", after(3.0));
        assert!(near(after(4.0).median, 100.0), "{:?}", after(4.0));
    }
}
