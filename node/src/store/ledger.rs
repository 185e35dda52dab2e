//! The books over the copies of this node: sizes, recency, what is committed. Pure.
//!
//! Invariants: `used <= max` after every call; `order` lists exactly the claimed copies,
//! `waiting` exactly the provisional ones.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
};

use kvmesh_directory::{BlockName, Checksum, Copy, CopyNumber, Incarnation, NodeId};
use tokio::time::Instant;

use super::{Usage, tier::CopyKey};

/// What the books of one copy take besides its bytes, so that small blocks are bounded, too.
pub(crate) const COPY_OVERHEAD_BYTES: u64 = 512;
/// Unclaimed copies take at most this part of the budget.
const PROVISIONAL_SHARE: u64 = 2;

/// Whether a copy is committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CopyState {
    /// Not yet: it cannot be evicted, and is dropped after a time.
    Provisional {
        /// Since when it waits.
        since: Instant,
    },
    /// It is; it can be evicted.
    Claimed,
}

/// What is known of one copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    /// Size of the block.
    pub bytes: u64,
    /// Position in its chain.
    pub depth: u32,
    /// Its content.
    pub checksum: Checksum,
    /// Whether it is committed.
    pub state: CopyState,
    /// When it was last put or read.
    pub touched: u64,
}

/// A copy that asks to be kept.
#[derive(Debug, Clone, Copy)]
pub struct Admission {
    /// Size of the block.
    pub bytes: u64,
    /// Position in its chain.
    pub depth: u32,
    /// Its content.
    pub checksum: Checksum,
    /// Its recency.
    pub touched: u64,
    /// Now.
    pub since: Instant,
}

/// There is no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{bytes} bytes do not fit: {used} of {max} are used and too few can be evicted")]
pub struct Full {
    /// Bytes asked for, with overhead.
    pub bytes: u64,
    /// Bytes in use.
    pub used: u64,
    /// The budget.
    pub max: u64,
}

/// Least recent first; of the equally recent the deepest.
type Rank = (u64, Reverse<u32>, CopyKey);

/// See the module.
#[derive(Debug)]
pub struct Ledger {
    copies: BTreeMap<CopyKey, Held>,
    order: BTreeSet<Rank>,
    waiting: BTreeSet<(Instant, CopyKey)>,
    used: u64,
    provisional: u64,
    max: u64,
}

impl Ledger {
    /// Empty, with a budget.
    #[must_use]
    pub fn new(max: u64) -> Self {
        Self {
            copies: BTreeMap::new(),
            order: BTreeSet::new(),
            waiting: BTreeSet::new(),
            used: 0,
            provisional: 0,
            max,
        }
    }

    /// Takes a new copy, provisional; returns those that had to go, in the order of eviction.
    ///
    /// # Errors
    /// When it does not fit; nothing is evicted then.
    pub fn admit(&mut self, key: CopyKey, copy: Admission) -> Result<Vec<CopyKey>, Full> {
        debug_assert!(!self.copies.contains_key(&key), "copy numbers are new");
        let cost = copy.bytes.saturating_add(COPY_OVERHEAD_BYTES);
        let provisional = self.provisional.saturating_add(cost);
        if provisional > self.max / PROVISIONAL_SHARE {
            return Err(Full {
                bytes: cost,
                used: self.used,
                max: self.max,
            });
        }
        // Everything claimed can go, and unclaimed copies take half of the budget: it fits.
        let mut evicted = Vec::new();
        while self.used + cost > self.max {
            let Some((_, _, victim)) = self.order.first().copied() else {
                break;
            };
            self.remove(victim);
            evicted.push(victim);
        }
        let held = Held {
            bytes: copy.bytes,
            depth: copy.depth,
            checksum: copy.checksum,
            state: CopyState::Provisional { since: copy.since },
            touched: copy.touched,
        };
        self.list(key, held);
        debug_assert!(self.used <= self.max);
        Ok(evicted)
    }

    fn list(&mut self, key: CopyKey, held: Held) {
        let cost = held.bytes + COPY_OVERHEAD_BYTES;
        self.used += cost;
        match held.state {
            CopyState::Provisional { since } => {
                self.waiting.insert((since, key));
                self.provisional += cost;
            }
            CopyState::Claimed => {
                self.order.insert(rank(key, &held));
            }
        }
        self.copies.insert(key, held);
    }

    /// Forgets a copy.
    pub fn remove(&mut self, key: CopyKey) -> Option<Held> {
        let held = self.copies.remove(&key)?;
        let cost = held.bytes + COPY_OVERHEAD_BYTES;
        self.used -= cost;
        match held.state {
            CopyState::Provisional { since } => {
                self.waiting.remove(&(since, key));
                self.provisional -= cost;
            }
            CopyState::Claimed => {
                self.order.remove(&rank(key, &held));
            }
        }
        Some(held)
    }

    /// Changes what is known of a copy, and all indexes with it.
    fn change(&mut self, key: CopyKey, change: impl FnOnce(&mut Held)) -> bool {
        let Some(mut held) = self.remove(key) else {
            return false;
        };
        change(&mut held);
        self.list(key, held);
        true
    }

    /// Notes that a copy is committed. False: there is none.
    pub fn claim(&mut self, key: CopyKey) -> bool {
        self.change(key, |held| held.state = CopyState::Claimed)
    }

    /// Renews a copy's recency. False: there is none.
    pub fn touch(&mut self, key: CopyKey, touched: u64) -> bool {
        match self.copies.get(&key) {
            None => false,
            Some(held) if held.touched >= touched => true,
            Some(_) => self.change(key, |held| held.touched = touched),
        }
    }

    /// What is known of a copy.
    #[must_use]
    pub fn held(&self, key: CopyKey) -> Option<&Held> {
        self.copies.get(&key)
    }

    /// A copy of a block with this content; when it is provisional, its time starts anew.
    pub fn renew(&mut self, name: &BlockName, checksum: Checksum, now: Instant) -> Option<Copy> {
        let (from, to) = (key_of(name, u64::MIN), key_of(name, u64::MAX));
        let (key, held) = self
            .copies
            .range(from..=to)
            .find(|(_, held)| held.checksum == checksum)?;
        let (key, provisional) = (*key, held.state != CopyState::Claimed);
        if provisional {
            self.change(key, |held| {
                held.state = CopyState::Provisional { since: now };
            });
        }
        Some(key.copy)
    }

    /// Forgets and returns the provisional copies that have waited since `before` or longer.
    pub fn expire(&mut self, before: Instant) -> Vec<CopyKey> {
        let mut expired = Vec::new();
        while let Some((since, key)) = self.waiting.first().copied() {
            if since > before {
                break;
            }
            self.remove(key);
            expired.push(key);
        }
        expired
    }

    /// Gives a copy a new number; it is provisional then. False: there is none.
    pub fn renumber(&mut self, old: CopyKey, new: CopyKey, now: Instant) -> bool {
        let Some(mut held) = self.remove(old) else {
            return false;
        };
        held.state = CopyState::Provisional { since: now };
        self.list(new, held);
        true
    }

    /// Every copy, in key order.
    #[must_use]
    pub fn inventory(&self) -> Vec<(CopyKey, Held)> {
        self.copies
            .iter()
            .map(|(key, held)| (*key, *held))
            .collect()
    }

    /// How much is held.
    #[must_use]
    pub fn usage(&self) -> Usage {
        Usage {
            used: self.used,
            max: self.max,
            copies: self.copies.len() as u64,
            provisional: self.waiting.len() as u64,
        }
    }
}

fn rank(key: CopyKey, held: &Held) -> Rank {
    (held.touched, Reverse(held.depth), key)
}

fn key_of(name: &BlockName, number: u64) -> CopyKey {
    let copy = Copy {
        node: NodeId(number),
        incarnation: Incarnation(number),
        copy: CopyNumber(number),
    };
    CopyKey { name: *name, copy }
}

#[cfg(test)]
#[path = "ledger_test.rs"]
mod ledger_test;
