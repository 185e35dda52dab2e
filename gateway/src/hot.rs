//! How often blocks that only other regions have were wanted here: what decides about keeping
//! them where a policy is `hot`.
//!
//! Counted by tag: two blocks that share one are kept a little earlier, and nothing else comes
//! of it. Invariant: bounded in names and age. A count is forgotten after one to two periods.

use std::{
    collections::HashMap,
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use kvmesh_directory::{BlockName, Tag};
use tokio::time::{Duration, Instant};

use crate::{
    context::Gateway,
    prefetch,
    read::{Plan, Slot},
    request::Want,
};

/// Blocks whose wants are counted, in each of two halves.
const NAMES_MAX: usize = 262_144;
/// How long one half is counted in.
const PERIOD: Duration = Duration::from_secs(1_800);

#[derive(Default)]
struct Counts {
    now: HashMap<Tag, u32>,
    before: HashMap<Tag, u32>,
    turned: Option<Instant>,
}

/// See the module.
#[derive(Default)]
pub(crate) struct Hot(Mutex<Counts>);

impl Hot {
    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A block was wanted once more; says how often by now.
    fn wanted(&self, name: &BlockName, at: Instant) -> u32 {
        let mut counts = self.counts();
        let turned = *counts.turned.get_or_insert(at);
        if counts.now.len() >= NAMES_MAX || at.saturating_duration_since(turned) >= PERIOD {
            counts.before = mem::take(&mut counts.now);
            counts.turned = Some(at);
        }
        let tag = name.tag();
        let before = counts.before.get(&tag).copied().unwrap_or(0);
        let now = counts.now.entry(tag).or_default();
        *now = now.saturating_add(1);
        before.saturating_add(*now)
    }

    /// Whether a block was wanted so often.
    pub(crate) fn is_hot(&self, name: &BlockName, after: u32) -> bool {
        let (counts, tag) = (self.counts(), name.tag());
        let of = |half: &HashMap<Tag, u32>| half.get(&tag).copied().unwrap_or(0);
        of(&counts.before).saturating_add(of(&counts.now)) >= after
    }
}

/// A get of this region wants what only other regions have. What was wanted often enough by now
/// is brought here, whatever comes of the get.
pub(crate) fn wanted(gateway: &Arc<Gateway>, want: &Want, plan: &Plan) {
    let Some(after) = want.namespace.policy.hot_after(&gateway.region) else {
        return;
    };
    let now = Instant::now();
    let far = plan.slots.iter().filter(|slot| slot.is_far());
    let often = far.filter(|slot| gateway.hot.wanted(&slot.name, now) >= after);
    let hot: Vec<Slot> = often.cloned().collect();
    if hot.is_empty() {
        return;
    }
    let blocks = hot.len() as u64;
    // When too many are under way, the next want tries again.
    if prefetch::bring_hot(gateway, want, hot).is_ok() {
        gateway.meters.hot(blocks);
    }
}

#[cfg(test)]
mod tests {
    use kvmesh_directory::{BlockHash, NamespaceId, Part};

    use super::*;

    fn name(number: u32) -> BlockName {
        let mut hash = [0; 32];
        hash[..4].copy_from_slice(&number.to_le_bytes());
        BlockName {
            namespace: NamespaceId([1; 16]),
            hash: BlockHash(hash),
            part: Part::default(),
        }
    }

    #[test]
    fn wants_are_counted_and_forgotten_after_a_while() {
        let (hot, begun) = (Hot::default(), Instant::now());
        assert_eq!(hot.wanted(&name(1), begun), 1);
        assert!(!hot.is_hot(&name(1), 2));
        assert_eq!(hot.wanted(&name(1), begun), 2);
        assert!(hot.is_hot(&name(1), 2) && !hot.is_hot(&name(2), 1));
        // One period later they count still, two periods later they do not.
        assert_eq!(hot.wanted(&name(2), begun + PERIOD), 1);
        assert!(hot.is_hot(&name(1), 2));
        assert_eq!(hot.wanted(&name(2), begun + PERIOD * 2), 2);
        assert!(!hot.is_hot(&name(1), 1) && hot.is_hot(&name(2), 2));
    }

    #[test]
    fn the_counts_are_bounded() {
        let (hot, now) = (Hot::default(), Instant::now());
        for number in 0..3 * NAMES_MAX as u32 {
            hot.wanted(&name(number), now);
        }
        let counts = hot.counts();
        assert!(counts.now.len() <= NAMES_MAX && counts.before.len() <= NAMES_MAX);
    }
}
