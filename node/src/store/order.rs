//! In which order a node's copies are evicted: least recent first, of the equally recent the
//! deepest, and namespaces that hold more than their share before the others.
//!
//! A share binds only when memory is short: what nobody needs is anybody's. A namespace that
//! would be over its share makes room out of its own copies; for one that is not, those over
//! theirs give first. So a namespace within its share loses nothing to one over it.
//!
//! Invariants: `heads` has the first copy of each namespace, `over` exactly the namespaces
//! that hold more than their share.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
};

use kvmesh_directory::NamespaceId;

use super::tier::CopyKey;

/// Least recent first; of the equally recent the deepest.
pub(super) type Rank = (u64, Reverse<u32>, CopyKey);

#[derive(Debug, Default)]
struct Space {
    order: BTreeSet<Rank>,
    bytes: u64,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Order {
    spaces: BTreeMap<NamespaceId, Space>,
    heads: BTreeSet<Rank>,
    shares: BTreeMap<NamespaceId, u64>,
    over: BTreeSet<NamespaceId>,
}

impl Order {
    /// Lists a copy that can be evicted.
    pub(super) fn insert(&mut self, rank: Rank, bytes: u64) {
        let id = rank.2.name.namespace;
        let space = self.spaces.entry(id).or_default();
        let head = space.order.first().copied();
        if space.order.insert(rank) {
            space.bytes += bytes;
        }
        self.settle(id, head);
    }

    /// Takes a copy off the list. False: it is not on it.
    pub(super) fn remove(&mut self, rank: &Rank, bytes: u64) -> bool {
        let id = rank.2.name.namespace;
        let Some(space) = self.spaces.get_mut(&id) else {
            return false;
        };
        let head = space.order.first().copied();
        if !space.order.remove(rank) {
            return false;
        }
        space.bytes -= bytes;
        self.settle(id, head);
        true
    }

    /// Restores the invariants after a namespace changed; `head` was its first copy.
    fn settle(&mut self, id: NamespaceId, head: Option<Rank>) {
        let Some(space) = self.spaces.get(&id) else {
            return;
        };
        let now = space.order.first().copied();
        if now != head {
            if let Some(head) = head {
                self.heads.remove(&head);
            }
            self.heads.extend(now);
        }
        match self
            .shares
            .get(&id)
            .is_some_and(|share| space.bytes > *share)
        {
            true => self.over.insert(id),
            false => self.over.remove(&id),
        };
        if now.is_none() {
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
    pub(super) fn victim(&self, id: NamespaceId, bytes: u64) -> Option<CopyKey> {
        let own = self.spaces.get(&id);
        let held = own.map_or(0, |space| space.bytes);
        let over = |share: &u64| held.saturating_add(bytes) > *share;
        let own = own.filter(|_| self.shares.get(&id).is_some_and(over));
        let first_of = |space: &Space| space.order.first().copied();
        let rank = own.and_then(first_of).or_else(|| {
            let over = self.over.iter().filter_map(|id| self.spaces.get(id));
            over.filter_map(first_of).min()
        });
        rank.or_else(|| self.heads.first().copied())
            .map(|(_, _, key)| key)
    }
}

#[cfg(test)]
#[path = "order_test.rs"]
mod order_test;
