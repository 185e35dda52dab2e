//! Fetch or recompute: the rule by which a lookup advises and a `when_faster` get decides.
//!
//! With F what fetching a run is expected to take, R what recomputing its lacking blocks
//! takes, and rtt the round trip:
//! - F <= R: fetch.
//! - else, when the last block alone is here before the others are recomputed: split.
//!   Compute from the front, fetch from the end, and meet, as Cake does (Jin et al.,
//!   arXiv 2410.03065, 2024).
//! - else: recompute.
//!
//! A get does not split by itself: it fetches when F <= R.

/// What is expected to be fastest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Advice {
    Fetch,
    Recompute,
    Split,
}

/// How fast the namespace's engines are.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Speed {
    pub(crate) block_tokens: u32,
    /// Tokens per second, where it is known.
    pub(crate) rate: Option<f64>,
}

impl Speed {
    /// Milliseconds to recompute so many blocks; none: the rate is not known.
    pub(crate) fn recompute_ms(self, blocks: usize) -> Option<f64> {
        let tokens = blocks as f64 * f64::from(self.block_tokens);
        self.rate.map(|rate| tokens / rate * 1_000.0)
    }
}

/// About `blocks` lacking blocks; see the module.
pub(crate) fn advise(fetch_ms: f64, rtt_ms: f64, recompute_ms: f64, blocks: usize) -> Advice {
    if fetch_ms <= recompute_ms {
        return Advice::Fetch;
    }
    let one = 1.0 / blocks.max(1) as f64;
    let last_is_here = rtt_ms + (fetch_ms - rtt_ms) * one;
    let others_are_computed = recompute_ms * (1.0 - one);
    match last_is_here <= others_are_computed {
        true => Advice::Split,
        false => Advice::Recompute,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_faster_way_is_advised() {
        // fetch, rtt, recompute, blocks
        let cases = [
            (100.0, 80.0, 100.0, 10, Advice::Fetch),
            (180.0, 80.0, 150.0, 10, Advice::Split),
            (180.0, 80.0, 90.0, 10, Advice::Recompute),
            (180.0, 80.0, 150.0, 1, Advice::Recompute),
            (180.0, 0.0, 150.0, 2, Advice::Recompute),
            (140.0, 0.0, 139.0, 4, Advice::Split),
        ];
        for (fetch, rtt, recompute, blocks, want) in cases {
            let advice = advise(fetch, rtt, recompute, blocks);
            assert_eq!(advice, want, "{fetch} {rtt} {recompute} {blocks}");
        }
    }

    #[test]
    fn recomputing_takes_tokens_by_rate() {
        let speed = |rate| Speed {
            block_tokens: 16,
            rate,
        };
        assert_eq!(speed(Some(8_000.0)).recompute_ms(100), Some(200.0));
        assert_eq!(speed(None).recompute_ms(100), None);
    }
}
