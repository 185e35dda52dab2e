//! Fetch, recompute, or both.

use super::{
    link::{LinkCost, Time},
    prefill::Prefill,
};

/// Part of the time that doing both must save: under it the second way is not worth its trouble.
const SPLIT_GAIN_MIN: f64 = 0.02;

/// Blocks that only another region has.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Run {
    /// Tokens before them, whose KV is there.
    pub behind: u64,
    /// How many blocks.
    pub blocks: u32,
    /// Tokens of each.
    pub block_tokens: u32,
    /// Bytes of all of them.
    pub bytes: u64,
}

/// What is expected to be fastest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Advice {
    /// Fetching all takes no longer than recomputing all.
    Fetch,
    /// Recomputing all is faster, and doing both saves next to nothing.
    Recompute,
    /// Recomputing all is faster than fetching all, and doing both is faster than either.
    Split,
}

/// Blocks before `block` are computed while the others are fetched.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Split {
    /// Counted from the first lacking block; at least 1.
    pub block: u32,
    /// Seconds until both are done, on average.
    pub seconds: f64,
}

/// Both ways of one run, in seconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Weighed {
    /// To fetch all.
    pub fetch: Time,
    /// To recompute all.
    pub recompute: f64,
    /// Where doing both is faster than either.
    pub split: Option<Split>,
}

impl Run {
    /// Seconds to recompute the blocks from `from` on and before `to`.
    #[must_use]
    pub fn recompute(&self, prefill: &Prefill, from: u32, to: u32) -> f64 {
        let tokens = |block: u32| {
            let lacking = u64::from(block) * u64::from(self.block_tokens);
            (self.behind + lacking) as f64
        };
        prefill.seconds(tokens(from), tokens(to))
    }

    /// Bytes of the blocks from `from` on; each counts the same.
    #[must_use]
    pub fn bytes_from(&self, from: u32) -> f64 {
        let blocks = f64::from(self.blocks.max(1));
        self.bytes as f64 * f64::from(self.blocks - from) / blocks
    }
}

impl Weighed {
    /// Seconds to fetch all, and what it may take longer, 19 times of 20: who knows a link badly
    /// should not lose by it.
    fn careful(&self) -> f64 {
        self.fetch.mean + (self.fetch.p95 - self.fetch.p50)
    }

    /// By time alone.
    #[must_use]
    pub fn advice(&self) -> Advice {
        match self.split {
            _ if self.careful() <= self.recompute => Advice::Fetch,
            Some(_) => Advice::Split,
            None => Advice::Recompute,
        }
    }
}

/// Weighs a run.
#[must_use]
pub fn weigh(run: &Run, link: &LinkCost, prefill: &Prefill) -> Weighed {
    let fetch = link.fetch(run.bytes as f64);
    let recompute = run.recompute(prefill, 0, run.blocks);
    let split = best_split(run, link, prefill);
    let worth_it = fetch.mean.min(recompute) * (1.0 - SPLIT_GAIN_MIN);
    Weighed {
        fetch,
        recompute,
        split: split.filter(|split| split.seconds <= worth_it),
    }
}

/// Where computing the blocks before and fetching those from there on end closest together:
/// the one grows with the block, the other shrinks.
fn best_split(run: &Run, link: &LinkCost, prefill: &Prefill) -> Option<Split> {
    let both = |block: u32| {
        let compute = run.recompute(prefill, 0, block);
        (compute, link.fetch(run.bytes_from(block)).mean)
    };
    let (mut low, mut high) = (1, run.blocks);
    while low < high {
        let middle = low + (high - low) / 2;
        let (compute, fetch) = both(middle);
        match compute < fetch {
            true => low = middle + 1,
            false => high = middle,
        }
    }
    let candidates = [low.saturating_sub(1), low].into_iter();
    let inside = candidates.filter(|block| (1..run.blocks).contains(block));
    let split = inside.map(|block| {
        let (compute, fetch) = both(block);
        let seconds = compute.max(fetch);
        Split { block, seconds }
    });
    split.min_by(|a, b| a.seconds.total_cmp(&b.seconds))
}

#[cfg(test)]
mod tests {
    use super::{super::estimate::Estimate, *};

    fn link(rtt: f64, bandwidth: f64) -> LinkCost {
        let exactly = |median| Estimate { median, sigma: 0.0 };
        LinkCost {
            first_byte: exactly(rtt),
            bandwidth: exactly(bandwidth),
            dollars_per_gb: 0.0,
        }
    }

    fn run(behind: u64, blocks: u32) -> Run {
        Run {
            behind,
            blocks,
            block_tokens: 100,
            bytes: u64::from(blocks) * 1_000_000,
        }
    }

    const PREFILL: Prefill = Prefill {
        rate: 10_000.0,
        growth: 0.0,
    };

    #[test]
    fn the_faster_way_is_advised() {
        // Blocks, seconds of the round trip, MB per second. A block takes 10 ms to compute.
        let cases = [
            (100, 0.080, 1_000.0, Advice::Fetch),
            (100, 0.080, 100.0, Advice::Split),
            (100, 0.080, 1.5, Advice::Recompute), // one block alone comes too late
            (10, 0.099, 1_000.0, Advice::Recompute),
            (1, 0.080, 1_000.0, Advice::Recompute),
            (1, 0.005, 1_000.0, Advice::Fetch),
        ];
        for (blocks, rtt, megabytes, want) in cases {
            let weighed = weigh(&run(0, blocks), &link(rtt, megabytes * 1e6), &PREFILL);
            assert_eq!(
                weighed.advice(),
                want,
                "{blocks} {rtt} {megabytes} {weighed:?}"
            );
        }
    }

    #[test]
    fn a_link_that_is_known_badly_is_no_bet() {
        // 90 ms to fetch instead of 100 to compute, and 106 one time of 20.
        let sure = link(0.050, 250e6);
        let mut unsure = sure;
        unsure.bandwidth.sigma = 0.2;
        let advice = |link| weigh(&run(0, 10), link, &PREFILL).advice();
        assert_eq!(advice(&sure), Advice::Fetch);
        assert_ne!(advice(&unsure), Advice::Fetch);
    }

    #[test]
    fn both_ways_end_together() {
        // 1 s to compute, 1.08 s to fetch: 10 ms a block either way.
        let weighed = weigh(&run(0, 100), &link(0.080, 100e6), &PREFILL);
        let split = weighed.split.unwrap();
        assert_eq!(split.block, 54);
        assert!((split.seconds - 0.54).abs() < 1e-9);
    }

    #[test]
    fn no_other_split_is_better() {
        let growing = Prefill {
            growth: 5_000.0,
            ..PREFILL
        };
        for (behind, blocks, rtt, bandwidth) in [
            (0, 100, 0.08, 1e8),
            (5_000, 37, 0.2, 3e8),
            (300, 2, 0.001, 1e8),
            (0, 999, 0.3, 5e6),
        ] {
            let (run, link) = (run(behind, blocks), link(rtt, bandwidth));
            let at = |block| {
                let compute = run.recompute(&growing, 0, block);
                compute.max(link.fetch(run.bytes_from(block)).mean)
            };
            let best = (1..blocks).map(at).fold(f64::INFINITY, f64::min);
            let found = best_split(&run, &link, &growing).unwrap();
            assert!((found.seconds - best).abs() < 1e-12, "{found:?} {best}");
            assert!((at(found.block) - found.seconds).abs() < 1e-12);
        }
    }

    #[test]
    fn what_attention_adds_counts_for_the_run_alone() {
        let growing = Prefill {
            growth: 10_000.0,
            ..PREFILL
        };
        let deep = run(10_000, 100);
        assert!((deep.recompute(&growing, 0, 100) - 4.0).abs() < 1e-9);
        assert!((deep.recompute(&growing, 50, 100) - 2.25).abs() < 1e-9);
    }
}
