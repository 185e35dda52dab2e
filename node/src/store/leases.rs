//! Who has leased which copies, and until when. Pure.
//!
//! Invariants: every copy of a lease carries one pin of it, or is gone; a lease belongs to
//! one namespace, and under another one it is as if it never was; at most [`LEASES_MAX`]
//! leases and [`LEASED_COPIES_MAX`] copies of leases are listed, and of each at most half
//! ([`LEASED_NAMESPACE_PART`]) is one namespace's; no lease that covers a copy which is to go
//! gets a later end.
//!
//! Not here: which copies may be leased (the directory says so), nor how much (`ledger`).

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use kvmesh_client::lease::LeaseId;
use kvmesh_directory::{
    NamespaceId,
    limits::{LEASED_COPIES_MAX, LEASED_NAMESPACE_PART, LEASES_MAX},
};
use tokio::time::Instant;

use super::{
    ledger::{Ledger, Pin},
    tier::CopyKey,
};

/// Names a lease on this node.
type Key = (NamespaceId, LeaseId);

#[derive(Debug)]
struct Lease {
    until: Instant,
    copies: BTreeSet<CopyKey>,
}

/// What a lease came to.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Granted {
    /// Copies that it covers now.
    pub copies: usize,
    /// Places of the wished copies that it does not cover.
    pub missing: Vec<usize>,
    /// The limit that kept it from covering more.
    pub limit: Option<&'static str>,
}

/// What one namespace's leases come to.
#[derive(Debug, Default)]
struct Own {
    leases: usize,
    copies: usize,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Leases {
    leases: BTreeMap<Key, Lease>,
    due: BTreeSet<(Instant, Key)>,
    copies: usize,
    by_namespace: BTreeMap<NamespaceId, Own>,
    going: BTreeSet<CopyKey>,
}

/// One namespace's part of a limit.
const fn part_of(limit: usize) -> usize {
    limit / LEASED_NAMESPACE_PART as usize
}

impl Leases {
    /// Copies that are to go, instead of those named before: they are not leased any more, and
    /// what covers one of them is not renewed.
    pub fn set_going(&mut self, going: BTreeSet<CopyKey>) {
        self.going = going;
    }

    /// Adds copies to a lease, which may be new, and renews it. No copy: it is not here.
    pub fn take(
        &mut self,
        ledger: &mut Ledger,
        key: Key,
        wished: &[Option<CopyKey>],
        until: Instant,
    ) -> Granted {
        let mut granted = Granted::default();
        if let Some(limit) = self.limit_of_leases(key) {
            granted.missing = (0..wished.len()).collect();
            granted.limit = Some(limit);
            return granted;
        }
        let before = self.leases.remove(&key);
        let granted_before = before.is_some();
        let ends = before.as_ref().filter(|lease| self.must_end(lease));
        let until = ends.map_or(until, |lease| lease.until);
        let mut copies = match before {
            Some(lease) => {
                self.due.remove(&(lease.until, key));
                lease.copies
            }
            None => BTreeSet::new(),
        };
        for (place, wish) in wished.iter().enumerate() {
            let pinned = match wish {
                Some(copy) if copies.contains(copy) => ledger.is_pinned(*copy),
                Some(copy) if self.going.contains(copy) => false,
                Some(copy) => self.pin(ledger, key.0, *copy, &mut copies, &mut granted.limit),
                None => false,
            };
            if !pinned {
                granted.missing.push(place);
            }
        }
        granted.copies = copies.iter().filter(|it| ledger.is_pinned(**it)).count();
        let before = usize::from(granted_before);
        let own = self.by_namespace.entry(key.0).or_default();
        own.leases = own.leases + usize::from(!copies.is_empty()) - before;
        if copies.is_empty() {
            self.forget_idle(key.0);
        } else {
            self.due.insert((until, key));
            self.leases.insert(key, Lease { until, copies });
        }
        granted
    }

    fn must_end(&self, lease: &Lease) -> bool {
        !self.going.is_empty() && lease.copies.iter().any(|copy| self.going.contains(copy))
    }

    /// The limit that keeps a lease from being listed.
    fn limit_of_leases(&self, key: Key) -> Option<&'static str> {
        if self.leases.contains_key(&key) {
            return None;
        }
        if self.leases.len() >= LEASES_MAX {
            return Some("the number of leases of a node");
        }
        let own = self.by_namespace.get(&key.0).map_or(0, |own| own.leases);
        (own >= part_of(LEASES_MAX)).then_some("the namespace's part of the leases of a node")
    }

    fn forget_idle(&mut self, namespace: NamespaceId) {
        let own = self.by_namespace.get(&namespace);
        if own.is_some_and(|own| own.leases == 0 && own.copies == 0) {
            self.by_namespace.remove(&namespace);
        }
    }

    fn pin(
        &mut self,
        ledger: &mut Ledger,
        namespace: NamespaceId,
        copy: CopyKey,
        copies: &mut BTreeSet<CopyKey>,
        limit: &mut Option<&'static str>,
    ) -> bool {
        if self.copies >= LEASED_COPIES_MAX {
            *limit = Some("the copies that are leased on a node");
            return false;
        }
        let own = self.by_namespace.entry(namespace).or_default();
        if own.copies >= part_of(LEASED_COPIES_MAX) {
            *limit = Some("the namespace's part of the copies that are leased on a node");
            return false;
        }
        match ledger.pin(copy) {
            Pin::Pinned => {
                copies.insert(copy);
                self.copies += 1;
                own.copies += 1;
                true
            }
            Pin::Absent => false,
            Pin::Full => {
                *limit = Some("the memory for leased blocks of a node");
                false
            }
            Pin::Share => {
                *limit = Some("the namespace's part of the memory for leased blocks of a node");
                false
            }
        }
    }

    /// Renews a lease; says how many of its copies are still here. None: it has ended, never
    /// was, or covers a copy that is to go.
    pub fn renew(
        &mut self,
        ledger: &Ledger,
        key: Key,
        now: Instant,
        hold: Duration,
    ) -> Option<usize> {
        if self.must_end(self.leases.get(&key)?) {
            return None;
        }
        let lease = self.leases.get_mut(&key).filter(|it| it.until > now)?;
        self.due.remove(&(lease.until, key));
        lease.until = now + hold;
        self.due.insert((lease.until, key));
        let here = lease.copies.iter().filter(|copy| ledger.is_pinned(**copy));
        Some(here.count())
    }

    /// Ends a lease; says how many copies it covered. 0: it has ended or never was.
    pub fn release(&mut self, ledger: &mut Ledger, key: Key) -> usize {
        let Some(lease) = self.leases.remove(&key) else {
            return 0;
        };
        self.due.remove(&(lease.until, key));
        self.copies -= lease.copies.len();
        if let Some(own) = self.by_namespace.get_mut(&key.0) {
            own.leases -= 1;
            own.copies -= lease.copies.len();
        }
        self.forget_idle(key.0);
        for copy in &lease.copies {
            ledger.unpin(*copy);
        }
        lease.copies.len()
    }

    /// Ends the leases whose time is up.
    pub fn expire(&mut self, ledger: &mut Ledger, now: Instant) {
        while let Some((until, key)) = self.due.first().copied() {
            if until > now {
                return;
            }
            self.release(ledger, key);
        }
    }

    /// A copy has another number now; its pins went with it.
    pub fn renumbered(&mut self, old: CopyKey, new: CopyKey) {
        for lease in self.leases.values_mut() {
            if lease.copies.remove(&old) {
                lease.copies.insert(new);
            }
        }
    }

    /// Leases that have not ended.
    #[must_use]
    pub fn count(&self) -> usize {
        self.leases.len()
    }
}

#[cfg(test)]
#[path = "leases_test.rs"]
mod leases_test;
