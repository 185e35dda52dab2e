//! Who has leased which copies, and until when. Pure.
//!
//! Invariants: every copy of a lease carries one pin of it, or is gone; a lease belongs to
//! one namespace, and under another one it is as if it never was; at most [`LEASES_MAX`]
//! leases and [`LEASED_COPIES_MAX`] copies of leases are listed.
//!
//! Not here: which copies may be leased (the directory says so), nor how much (`ledger`).

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use kvmesh_client::lease::LeaseId;
use kvmesh_directory::{
    NamespaceId,
    limits::{LEASED_COPIES_MAX, LEASES_MAX},
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

/// See the module.
#[derive(Debug, Default)]
pub struct Leases {
    leases: BTreeMap<Key, Lease>,
    due: BTreeSet<(Instant, Key)>,
    copies: usize,
}

impl Leases {
    /// Adds copies to a lease, which may be new, and renews it. No copy: it is not here.
    pub fn take(
        &mut self,
        ledger: &mut Ledger,
        key: Key,
        wished: &[Option<CopyKey>],
        until: Instant,
    ) -> Granted {
        let mut granted = Granted::default();
        if !self.leases.contains_key(&key) && self.leases.len() >= LEASES_MAX {
            granted.missing = (0..wished.len()).collect();
            granted.limit = Some("the number of leases of a node");
            return granted;
        }
        let mut copies = match self.leases.remove(&key) {
            Some(lease) => {
                self.due.remove(&(lease.until, key));
                lease.copies
            }
            None => BTreeSet::new(),
        };
        for (place, wish) in wished.iter().enumerate() {
            let pinned = match wish {
                Some(copy) if copies.contains(copy) => ledger.is_pinned(*copy),
                Some(copy) => self.pin(ledger, *copy, &mut copies, &mut granted.limit),
                None => false,
            };
            if !pinned {
                granted.missing.push(place);
            }
        }
        granted.copies = copies.iter().filter(|it| ledger.is_pinned(**it)).count();
        if !copies.is_empty() {
            self.due.insert((until, key));
            self.leases.insert(key, Lease { until, copies });
        }
        granted
    }

    fn pin(
        &mut self,
        ledger: &mut Ledger,
        copy: CopyKey,
        copies: &mut BTreeSet<CopyKey>,
        limit: &mut Option<&'static str>,
    ) -> bool {
        if self.copies >= LEASED_COPIES_MAX {
            *limit = Some("the copies that are leased on a node");
            return false;
        }
        match ledger.pin(copy) {
            Pin::Pinned => {
                copies.insert(copy);
                self.copies += 1;
                true
            }
            Pin::Absent => false,
            Pin::Full => {
                *limit = Some("the memory for leased blocks of a node");
                false
            }
        }
    }

    /// Renews a lease; says how many of its copies are still here. None: it has ended or
    /// never was.
    pub fn renew(
        &mut self,
        ledger: &Ledger,
        key: Key,
        now: Instant,
        hold: Duration,
    ) -> Option<usize> {
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
