//! The books over copies that a disk or a device has, too, or alone. Pure.

use tokio::time::Instant;

use super::{CopyState, Held, Ledger, full_cost};
use crate::store::{
    arena::footprint,
    tier::{Brief, CopyKey},
};

impl Ledger {
    /// Notes that memory has a copy again, when that makes only those go that another tier has,
    /// or takes now. The second: whether it does.
    pub fn promote(
        &mut self,
        key: CopyKey,
        saved: impl FnMut(CopyKey) -> bool,
    ) -> (Vec<CopyKey>, bool) {
        self.promote_over(key, |_| true, saved)
    }

    /// As [`Self::promote`], of a copy that nobody has asked for yet: what was used since it
    /// was, or as lately, does not go for it.
    pub fn promote_ahead(
        &mut self,
        key: CopyKey,
        saved: impl FnMut(CopyKey) -> bool,
    ) -> (Vec<CopyKey>, bool) {
        let touched = self.copies.get(&key).map_or(0, |held| held.touched);
        self.promote_over(key, |victim| victim.touched < touched, saved)
    }

    /// Whether memory has room for a copy that it does not have, in the sense of
    /// [`Self::promote_ahead`].
    #[must_use]
    pub fn has_room_ahead(&self, key: CopyKey) -> bool {
        let Some(held) = self.copies.get(&key).filter(|held| !held.in_memory) else {
            return false;
        };
        let cost = full_cost(held);
        let colder = || {
            let victim = self.victim(key.name.namespace, cost);
            let victim = victim.and_then(|victim| self.copies.get(&victim));
            victim.is_some_and(|victim| victim.touched < held.touched)
        };
        held.state == CopyState::Claimed && (self.used + cost <= self.max || colder())
    }

    fn promote_over(
        &mut self,
        key: CopyKey,
        may_go: impl Fn(&Held) -> bool,
        mut saved: impl FnMut(CopyKey) -> bool,
    ) -> (Vec<CopyKey>, bool) {
        let Some(held) = self.copies.get(&key).filter(|held| !held.in_memory) else {
            return (Vec::new(), false);
        };
        let (cost, fixed) = (full_cost(held), self.used - self.evictable);
        let second = held.touched;
        let provisional = held.state != CopyState::Claimed;
        let mut demoted = Vec::new();
        if provisional || fixed + cost > self.max {
            return (demoted, false);
        }
        while self.used + cost > self.max {
            let victim = self.victim(key.name.namespace, cost);
            let victim = victim.filter(|victim| self.copies.get(victim).is_some_and(&may_go));
            let Some(victim) = victim.filter(|victim| saved(*victim)) else {
                return (demoted, false);
            };
            self.demote(victim, second);
            demoted.push(victim);
        }
        self.change(key, |held| held.in_memory = true);
        (demoted, true)
    }

    /// Lists a copy that the disk has from before the start.
    pub fn found(&mut self, key: CopyKey, brief: Brief, kept: Instant) {
        let held = Held {
            bytes: footprint(brief.bytes),
            depth: brief.depth,
            checksum: brief.checksum,
            put_hlc: brief.put_hlc,
            transcoded: brief.transcoded,
            state: CopyState::Claimed,
            touched: 0,
            kept,
            uses: 0,
            in_memory: false,
            joined: None,
            offered: false,
        };
        self.list(key, held);
    }

    /// Notes that no tier but memory has a copy any more. True: nothing has it.
    pub fn gone_below(&mut self, key: CopyKey) -> bool {
        let only = self.copies.get(&key).is_some_and(|held| !held.in_memory);
        if only {
            self.remove(key);
        }
        only
    }

    /// Whether a copy must stay on disk: it is pinned, or about to be claimed.
    #[must_use]
    pub fn is_fixed(&self, key: CopyKey) -> bool {
        let held = self.copies.get(&key);
        let waits = held.is_some_and(|held| held.state != CopyState::Claimed);
        waits || self.is_pinned(key)
    }
}
