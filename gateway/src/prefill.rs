//! How fast engines prefill, by namespace: declared by the policy, or learnt from reports.
//!
//! The rate is the median over the newest [`WINDOW`] reported requests of tokens computed, as
//! the policy's attention makes them count, / time taken: half of a window may be wrong without moving the median beyond what the other
//! half measured (its breakdown point; Hampel, J. Am. Stat. Assoc. 69, 1974). Requests of few
//! tokens measure overhead rather than rate and do not count.
//!
//! Soft state of one gateway: it is gone with a restart, and other gateways learn their own.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use kvmesh_directory::{Namespace, NamespaceId, cost::Prefill as Speed};
use tokio::time::Instant;

/// Requests that the rate is the median of.
const WINDOW: usize = 64;
/// With fewer requests no rate is known.
const WINDOW_MIN: usize = 8;
/// Tokens under which a request does not count.
const TOKENS_MIN: u32 = 128;
/// Without a report for so long, what was learnt is forgotten.
const AGE_MAX: Duration = Duration::from_secs(3_600);
/// Namespaces that rates are learnt for; over it the one heard of least lately is forgotten.
const NAMESPACES_MAX: usize = 1_024;
/// Tokens per second that no engine exceeds; a report over it is wrong.
const RATE_MAX: f64 = 1e9;
const _: () = assert!(WINDOW_MIN > 0 && WINDOW_MIN <= WINDOW);

/// What was measured of one request.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Measured {
    /// Tokens that were computed.
    pub(crate) tokens: u32,
    /// As many tokens without attention would have taken as long.
    pub(crate) work: f64,
    /// How long that took; 0: not measured.
    pub(crate) prefill_ms: f64,
}

struct Window {
    rates: VecDeque<f64>,
    median: f64,
    heard: Instant,
}

/// What was learnt.
#[derive(Default)]
pub(crate) struct Prefill {
    windows: Mutex<BTreeMap<NamespaceId, Window>>,
}

impl Measured {
    /// Tokens per second; none: it says nothing about the rate.
    fn rate(self) -> Option<f64> {
        if self.tokens < TOKENS_MIN || self.prefill_ms.is_nan() || self.prefill_ms <= 0.0 {
            return None;
        }
        let rate = self.work / self.prefill_ms * 1_000.0;
        (rate > 0.0 && rate <= RATE_MAX).then_some(rate)
    }
}

impl Prefill {
    /// Takes what an engine measured; says how many requests counted.
    pub(crate) fn learn(&self, namespace: NamespaceId, measured: &[Measured]) -> usize {
        let rates: Vec<f64> = measured.iter().filter_map(|it| it.rate()).collect();
        if rates.is_empty() {
            return 0;
        }
        let now = Instant::now();
        let mut windows = self.windows.lock().unwrap_or_else(PoisonError::into_inner);
        windows.retain(|_, window| now.duration_since(window.heard) < AGE_MAX);
        if !windows.contains_key(&namespace) && windows.len() >= NAMESPACES_MAX {
            let quietest = windows.iter().min_by_key(|(_, window)| window.heard);
            if let Some(id) = quietest.map(|(id, _)| *id) {
                windows.remove(&id);
            }
        }
        let window = windows.entry(namespace).or_insert_with(|| Window {
            rates: VecDeque::with_capacity(WINDOW),
            median: 0.0,
            heard: now,
        });
        for &rate in &rates {
            if window.rates.len() == WINDOW {
                window.rates.pop_front();
            }
            window.rates.push_back(rate);
        }
        window.median = median(&window.rates);
        window.heard = now;
        rates.len()
    }

    /// How long computing takes; none: not known.
    pub(crate) fn speed(&self, namespace: &Namespace) -> Option<Speed> {
        let growth = namespace.policy.attention_growth;
        let rate = self.rate(namespace)?;
        Some(Speed { rate, growth })
    }

    /// Tokens per second; the declared rate wins. None: not known.
    pub(crate) fn rate(&self, namespace: &Namespace) -> Option<f64> {
        if namespace.policy.prefill_rate > 0.0 {
            return Some(namespace.policy.prefill_rate);
        }
        let windows = self.windows.lock().unwrap_or_else(PoisonError::into_inner);
        let window = windows.get(&namespace.id)?;
        let known = window.rates.len() >= WINDOW_MIN && window.heard.elapsed() < AGE_MAX;
        known.then_some(window.median)
    }
}

/// The lower of the two in the middle, of an even number.
fn median(rates: &VecDeque<f64>) -> f64 {
    let mut sorted: Vec<f64> = rates.iter().copied().collect();
    sorted.sort_by(f64::total_cmp);
    sorted[(sorted.len() - 1) / 2]
}

#[cfg(test)]
#[path = "prefill_test.rs"]
mod prefill_test;
