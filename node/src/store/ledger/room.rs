//! What goes to make room, and what it is judged by. Pure.

use kvmesh_directory::NamespaceId;

use super::{COPY_OVERHEAD_BYTES, Gone, Ledger, cost, full_cost};
use crate::store::tier::CopyKey;

impl Ledger {
    /// Empty, with a budget and, if fixed, the schedule of leads.
    #[cfg(test)]
    pub(in crate::store) fn with_schedule(max: u64, fixed: Option<usize>) -> Self {
        let mut ledger = Self::new(max);
        ledger.retention.fixed = fixed;
        ledger
    }

    /// Which schedule of leads holds; 0 is plain recency.
    #[must_use]
    pub fn schedule(&self) -> usize {
        self.retention.schedule()
    }

    /// Renews a copy's recency. False: there is none.
    pub fn touch(&mut self, key: CopyKey, touched: u64) -> bool {
        match self.copies.get(&key) {
            None => false,
            Some(held) if held.touched >= touched => true,
            Some(held) => {
                let uses = self.retention.used(&key, held, touched, self.max);
                self.change(key, |held| (held.touched, held.uses) = (touched, uses))
            }
        }
    }

    /// Whether something would have to go for a copy of a namespace, and what would go first
    /// counts as used after `second`; none: before this store began.
    #[must_use]
    pub fn would_give_up_since(&self, id: NamespaceId, bytes: u64, second: Option<u64>) -> bool {
        let cost = bytes.saturating_add(COPY_OVERHEAD_BYTES);
        if self.used.saturating_add(cost) <= self.max {
            return false;
        }
        let victim = self.victim(id, cost).and_then(|key| self.copies.get(&key));
        victim.is_some_and(|held| {
            let lead = self.retention.leads()[usize::from(held.uses)];
            second.is_none_or(|second| held.touched.saturating_add(lead) > second)
        })
    }

    /// Makes room in memory for a copy of this cost that comes at `second`, by what is
    /// evictable.
    pub(super) fn make_room(
        &mut self,
        key: CopyKey,
        cost: u64,
        second: u64,
        mut saved: impl FnMut(CopyKey) -> bool,
    ) -> Gone {
        let mut gone = Gone::default();
        while self.used + cost > self.max {
            let Some(victim) = self.victim(key.name.namespace, cost) else {
                break;
            };
            self.give_up(victim, second, &mut saved, &mut gone);
        }
        gone
    }

    fn give_up(
        &mut self,
        victim: CopyKey,
        second: u64,
        saved: &mut impl FnMut(CopyKey) -> bool,
        gone: &mut Gone,
    ) {
        if saved(victim) {
            self.demote(victim, second);
            gone.demoted.push(victim);
        } else {
            self.evict(victim, second);
            gone.evicted.push(victim);
        }
    }

    /// Brings the budget to `max`, or as near as it gets by letting at most `at_most` copies
    /// go. `saved` is as in [`Self::admit_over`].
    pub fn resize(
        &mut self,
        max: u64,
        at_most: usize,
        second: u64,
        mut saved: impl FnMut(CopyKey) -> bool,
    ) -> Gone {
        let mut gone = Gone::default();
        for _ in 0..at_most {
            let leads = self.retention.leads();
            let next = self.order.first(&leads);
            let Some(victim) = next.filter(|_| self.used > max) else {
                break;
            };
            self.give_up(victim, second, &mut saved, &mut gone);
        }
        self.max = max.max(self.used);
        gone
    }

    /// The copy that leaves memory next, to make room for `bytes` of a namespace.
    pub(super) fn victim(&self, id: NamespaceId, bytes: u64) -> Option<CopyKey> {
        self.order.victim(id, bytes, &self.retention.leads())
    }

    /// Only the disk has a copy from now on.
    pub(super) fn demote(&mut self, victim: CopyKey, second: u64) {
        if let Some(held) = self.copies.get(&victim) {
            let copies = self.max / full_cost(held);
            self.retention.left(held, second, copies);
        }
        self.change(victim, |held| held.in_memory = false);
    }

    fn evict(&mut self, victim: CopyKey, second: u64) {
        if let Some(held) = self.remove(victim) {
            self.retention.left(&held, second, self.max / cost(&held));
            self.retention.gone(&victim, &held, self.copies.len());
        }
    }
}
