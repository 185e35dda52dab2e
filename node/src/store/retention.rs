//! How much longer than since its last touch a copy counts as recent, by how often it was used.
//!
//! Who was used before is likelier to be used again, but by how much differs between loads, and
//! for some it is nothing. So a sample of what is asked for is tried on small caches, one for
//! each of `SCHEDULES` (`trial`), and what does best there holds here. Plain recency is one of
//! them. `docs/decisions/0016-eviction.md` has the figures.
//!
//! Invariants: a lead is never less for more uses. Who uses a block uses its ancestors, so they
//! have as many uses and are as recent, and no copy goes before a descendant that is not more
//! recent; but where a put pushed out what was just put above it, since all else there was worth
//! more, the two are not used alike from then on. No clock and no randomness; memory is bounded
//! by the copies that are held.

use super::{
    Held,
    ledger::{Admission, COPY_OVERHEAD_BYTES},
    recall::{Recall, tag},
    tier::CopyKey,
    trial::{Asked, Trial},
};

/// Copies are told apart by 0, 1, 2 and more uses after the put.
pub(super) const CLASSES: usize = 4;
/// Seconds by which the copies of each class count as touched later than they were.
pub(super) type Leads = [u64; CLASSES];

/// Leads to choose from, in ages at which copies without a lead go.
pub(super) const SCHEDULES: [[f64; CLASSES]; 5] = [
    [0.0, 0.0, 0.0, 0.0],
    [0.0, 0.7, 0.8, 1.5],
    [0.0, 1.0, 1.5, 2.5],
    [0.0, 2.0, 4.0, 6.0],
    [0.0, 6.0, 10.0, 14.0],
];
/// Names of evicted copies that are remembered, for each copy held.
pub(super) const REMEMBERED_PER_COPY: usize = 2;
/// Turnovers of a cache are no shorter than this, so that one copy is never the measure.
const TURNOVER_MIN: u64 = 16;

/// How many uses one more makes.
pub(super) fn used_again(uses: u8) -> u8 {
    (uses + 1).min(CLASSES as u8 - 1)
}

/// The age in seconds at which copies without a lead go, a mean over about one turnover.
#[derive(Debug, Default)]
pub(super) struct Age(Option<f64>);

impl Age {
    /// A copy without a lead goes; the cache has room for so many like it.
    pub(super) fn went(&mut self, age: u64, copies: u64) {
        let age = age as f64;
        let mean = self.0.get_or_insert(age);
        *mean += (age - *mean) / copies.max(TURNOVER_MIN) as f64;
    }

    pub(super) fn leads(&self, schedule: usize) -> Leads {
        let age = self.0.unwrap_or(0.0);
        SCHEDULES[schedule].map(|lead| (lead * age).round() as u64)
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Retention {
    gone: Recall,
    age: Age,
    trial: Trial,
    /// Instead of what does best.
    #[cfg(test)]
    pub(super) fixed: Option<usize>,
}

impl Retention {
    /// A copy comes, into a budget of `max` bytes; says how often its block was used before.
    pub(super) fn admitted(&mut self, key: &CopyKey, copy: &Admission, max: u64) -> u8 {
        let tag = tag(&key.name);
        self.trial.ask(&Asked {
            tag,
            depth: copy.depth,
            bytes: copy.bytes + COPY_OVERHEAD_BYTES,
            second: copy.touched,
            max,
        });
        self.gone.take(tag, copy.touched)
    }

    /// A copy is used in a later second than before; says how often it was by now.
    pub(super) fn used(&mut self, key: &CopyKey, held: &Held, second: u64, max: u64) -> u8 {
        self.trial.ask(&Asked {
            tag: tag(&key.name),
            depth: held.depth,
            bytes: held.bytes + COPY_OVERHEAD_BYTES,
            second,
            max,
        });
        used_again(held.uses)
    }

    /// A copy leaves memory, which has room for `copies` like it, for one that came at `second`.
    pub(super) fn left(&mut self, held: &Held, second: u64, copies: u64) {
        if held.uses == 0 {
            self.age.went(second.saturating_sub(held.touched), copies);
        }
    }

    /// Nothing has an evicted copy any more; so many are left.
    pub(super) fn gone(&mut self, key: &CopyKey, held: &Held, left: usize) {
        self.gone.note(tag(&key.name), held.uses, held.touched);
        self.gone.trim(REMEMBERED_PER_COPY * left);
    }

    pub(super) fn leads(&self) -> Leads {
        self.age.leads(self.schedule())
    }

    /// Which of `SCHEDULES` holds.
    pub(super) fn schedule(&self) -> usize {
        #[cfg(test)]
        if let Some(fixed) = self.fixed {
            return fixed;
        }
        self.trial.best()
    }
}

#[cfg(test)]
#[path = "retention_test.rs"]
mod retention_test;
