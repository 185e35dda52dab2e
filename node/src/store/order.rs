//! In which order a node's copies are evicted: least recent first, of the equally recent the
//! deepest, and namespaces that hold more than their share before the others. Copies that were
//! used count as more recent than they are, by a lead that the caller says (`retention`).
//!
//! A share binds only when memory is short: what nobody needs is anybody's. A namespace that
//! would be over its share makes room out of its own copies; for one that is not, those over
//! theirs give first. So a namespace within its share loses nothing to one over it.
//!
//! Invariants: `heads` has the first copy of each namespace in each class, `over` exactly the
//! namespaces that hold more than their share.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
};

use kvmesh_directory::NamespaceId;

use super::{
    retention::{CLASSES, Leads},
    tier::CopyKey,
};

/// Least recent first; of the equally recent the deepest.
pub(super) type Rank = (u64, Reverse<u32>, CopyKey);
/// One list for each count of uses, so that a lead can change without sorting anew.
type Lists = [BTreeSet<Rank>; CLASSES];

#[derive(Debug, Default)]
struct Space {
    lists: Lists,
    bytes: u64,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Order {
    spaces: BTreeMap<NamespaceId, Space>,
    heads: Lists,
    shares: BTreeMap<NamespaceId, u64>,
    over: BTreeSet<NamespaceId>,
}

impl Order {
    /// Lists a copy that can be evicted, with how often it was used.
    pub(super) fn insert(&mut self, uses: u8, rank: Rank, bytes: u64) {
        let (id, class) = (rank.2.name.namespace, usize::from(uses));
        let space = self.spaces.entry(id).or_default();
        let head = space.lists[class].first().copied();
        if space.lists[class].insert(rank) {
            space.bytes += bytes;
        }
        self.settle(id, class, head);
    }

    /// Takes a copy off the list. False: it is not on it.
    pub(super) fn remove(&mut self, uses: u8, rank: &Rank, bytes: u64) -> bool {
        let (id, class) = (rank.2.name.namespace, usize::from(uses));
        let Some(space) = self.spaces.get_mut(&id) else {
            return false;
        };
        let head = space.lists[class].first().copied();
        if !space.lists[class].remove(rank) {
            return false;
        }
        space.bytes -= bytes;
        self.settle(id, class, head);
        true
    }

    /// Restores the invariants after a namespace changed; `head` was the first of the class.
    fn settle(&mut self, id: NamespaceId, class: usize, head: Option<Rank>) {
        let Some(space) = self.spaces.get(&id) else {
            return;
        };
        let now = space.lists[class].first().copied();
        if now != head {
            if let Some(head) = head {
                self.heads[class].remove(&head);
            }
            self.heads[class].extend(now);
        }
        match self
            .shares
            .get(&id)
            .is_some_and(|share| space.bytes > *share)
        {
            true => self.over.insert(id),
            false => self.over.remove(&id),
        };
        if space.lists.iter().all(BTreeSet::is_empty) {
            self.spaces.remove(&id);
        }
    }

    /// Which bytes of each namespace stay its own; those that are not named have no bound.
    pub(super) fn set_shares(&mut self, shares: BTreeMap<NamespaceId, u64>) {
        if self.shares == shares {
            return;
        }
        self.shares = shares;
        let over = self.spaces.iter().filter(|(id, space)| {
            let share = self.shares.get(*id);
            share.is_some_and(|share| space.bytes > *share)
        });
        self.over = over.map(|(id, _)| *id).collect();
    }

    /// The copy that goes next to make room for `bytes` of a namespace.
    pub(super) fn victim(&self, id: NamespaceId, bytes: u64, leads: &Leads) -> Option<CopyKey> {
        let own = self.spaces.get(&id);
        let held = own.map_or(0, |space| space.bytes);
        let over = |share: &u64| held.saturating_add(bytes) > *share;
        let own = own.filter(|_| self.shares.get(&id).is_some_and(over));
        let first_of = |space: &Space| first(&space.lists, leads);
        let rank = own.and_then(first_of);
        rank.map(|(_, _, key)| key).or_else(|| self.first(leads))
    }

    /// The copy that goes next, whoever needs the room.
    pub(super) fn first(&self, leads: &Leads) -> Option<CopyKey> {
        let over = self.over.iter().filter_map(|id| self.spaces.get(id));
        let rank = over.filter_map(|space| first(&space.lists, leads)).min();
        rank.or_else(|| first(&self.heads, leads))
            .map(|(_, _, key)| key)
    }
}

/// The first of all lists, each with its lead.
fn first(lists: &Lists, leads: &Leads) -> Option<Rank> {
    let firsts = lists.iter().zip(leads).filter_map(|(list, lead)| {
        let (touched, depth, key) = list.first()?;
        Some((touched.saturating_add(*lead), *depth, *key))
    });
    firsts.min()
}

#[cfg(test)]
#[path = "order_test.rs"]
mod order_test;
