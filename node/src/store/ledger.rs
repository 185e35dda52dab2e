//! The books over the copies of this node: sizes, recency, what is committed. Pure.
//!
//! Invariants: `used <= max` after every call; `order` lists exactly the claimed copies
//! in memory that are not pinned, `waiting` exactly the provisional ones. What is pinned is
//! not evicted; it goes when its holder lets it go on purpose. The budget is memory's: a copy
//! that only a disk or a device has takes none of it.

mod offers;
mod on_disk;
mod room;

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
};

use kvmesh_client::Encoding;
use kvmesh_directory::{
    BlockName, Checksum, Copy, CopyNumber, Hlc, Incarnation, NamespaceId, NodeId,
    limits::{LEASED_MEMORY_PART, LEASED_NAMESPACE_PART},
};
use tokio::time::{Duration, Instant};

use super::{
    Usage,
    order::{Order, Rank},
    retention::Retention,
    tier::CopyKey,
};

/// What the books of one copy take besides its bytes, so that small blocks are bounded, too.
pub const COPY_OVERHEAD_BYTES: u64 = 512;
/// Unclaimed copies take at most this part of the budget.
const PROVISIONAL_SHARE: u64 = 2;
const _: () = assert!(
    PROVISIONAL_SHARE * LEASED_MEMORY_PART > PROVISIONAL_SHARE + LEASED_MEMORY_PART,
    "what cannot be evicted leaves room for what can"
);

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
    /// Memory that the block takes, in whole pages.
    pub bytes: u64,
    /// Position in its chain.
    pub depth: u32,
    /// Its content.
    pub checksum: Checksum,
    /// Of the put that brought it; once it is committed, the block's in the directory.
    pub put_hlc: Hlc,
    /// The lossy encoding that it went through.
    pub transcoded: Option<Encoding>,
    /// Whether it is committed.
    pub state: CopyState,
    /// When it was last put or read.
    pub touched: u64,
    /// When it was last put, copied or filled here.
    pub kept: Instant,
    /// In how many later seconds it was asked for, as far as it matters.
    pub uses: u8,
    /// Whether memory has it; else only a disk or a device does.
    pub in_memory: bool,
    /// When another copy of the same content and clock last found it here: that one is about
    /// to claim it.
    pub joined: Option<Instant>,
    /// It was claimed at an earlier start, and is offered at this one.
    pub offered: bool,
}

/// What went to make room in memory.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Gone {
    /// Nothing has these any more, in the order of eviction.
    pub evicted: Vec<CopyKey>,
    /// A disk or a device still has these.
    pub demoted: Vec<CopyKey>,
}

/// A copy that asks to be kept.
#[derive(Debug, Clone, Copy)]
pub struct Admission {
    /// Memory that the block takes, in whole pages.
    pub bytes: u64,
    /// Position in its chain.
    pub depth: u32,
    /// Its content.
    pub checksum: Checksum,
    /// Of the put that brings it.
    pub put_hlc: Hlc,
    /// The lossy encoding that it went through.
    pub transcoded: Option<Encoding>,
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

/// What became of a wish to pin a copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pin {
    /// It stays until it is unpinned as often.
    Pinned,
    /// It is not here.
    Absent,
    /// Too much is pinned already.
    Full,
    /// Too much of the copy's namespace is.
    Share,
}

/// See the module.
#[derive(Debug)]
pub struct Ledger {
    copies: BTreeMap<CopyKey, Held>,
    order: Order,
    retention: Retention,
    waiting: BTreeSet<(Instant, CopyKey)>,
    /// How often each pinned copy is.
    pins: BTreeMap<CopyKey, u32>,
    /// Of `pinned`, what is each namespace's.
    pinned_of: BTreeMap<NamespaceId, u64>,
    used: u64,
    provisional: u64,
    pinned: u64,
    /// Of the copies in `order`.
    evictable: u64,
    max: u64,
}

impl Ledger {
    /// Empty, with a budget.
    #[must_use]
    pub fn new(max: u64) -> Self {
        Self {
            copies: BTreeMap::new(),
            order: Order::default(),
            retention: Retention::default(),
            waiting: BTreeSet::new(),
            pins: BTreeMap::new(),
            pinned_of: BTreeMap::new(),
            used: 0,
            provisional: 0,
            pinned: 0,
            evictable: 0,
            max,
        }
    }

    /// Takes a new copy, provisional; returns those that had to go, in the order of eviction.
    ///
    /// # Errors
    /// When it does not fit; nothing is evicted then.
    pub fn admit(&mut self, key: CopyKey, copy: Admission) -> Result<Vec<CopyKey>, Full> {
        self.admit_over(key, copy, |_| false)
            .map(|gone| gone.evicted)
    }

    /// As [`Self::admit`], over other tiers: `saved` says whether one has a copy, or takes it
    /// now.
    ///
    /// # Errors
    /// When it does not fit; nothing goes then.
    pub fn admit_over(
        &mut self,
        key: CopyKey,
        copy: Admission,
        saved: impl FnMut(CopyKey) -> bool,
    ) -> Result<Gone, Full> {
        debug_assert!(!self.copies.contains_key(&key), "copy numbers are new");
        let cost = copy.bytes.saturating_add(COPY_OVERHEAD_BYTES);
        let provisional = self.provisional.saturating_add(cost);
        let fixed = self.used - self.evictable;
        if provisional > self.max / PROVISIONAL_SHARE || fixed.saturating_add(cost) > self.max {
            return Err(Full {
                bytes: cost,
                used: self.used,
                max: self.max,
            });
        }
        let uses = self.retention.admitted(&key, &copy, self.max);
        let gone = self.make_room(key, cost, copy.touched, saved);
        let held = Held {
            bytes: copy.bytes,
            depth: copy.depth,
            checksum: copy.checksum,
            put_hlc: copy.put_hlc,
            transcoded: copy.transcoded,
            state: CopyState::Provisional { since: copy.since },
            touched: copy.touched,
            kept: copy.since,
            in_memory: true,
            uses,
            joined: None,
            offered: false,
        };
        self.list(key, held);
        debug_assert!(self.used <= self.max);
        Ok(gone)
    }

    fn list(&mut self, key: CopyKey, held: Held) {
        let cost = cost(&held);
        self.used += cost;
        match held.state {
            CopyState::Provisional { since } => {
                self.waiting.insert((since, key));
                self.provisional += cost;
            }
            CopyState::Claimed if self.pins.contains_key(&key) || !held.in_memory => {}
            CopyState::Claimed => {
                self.order.insert(held.uses, rank(key, &held), cost);
                self.evictable += cost;
            }
        }
        self.copies.insert(key, held);
    }

    /// Forgets a copy, pinned or not.
    pub fn remove(&mut self, key: CopyKey) -> Option<Held> {
        let held = self.unlist(key)?;
        if self.pins.remove(&key).is_some() {
            self.free_pinned(key.name.namespace, full_cost(&held));
        }
        Some(held)
    }

    /// Takes a copy out of all indexes but for its pins.
    fn unlist(&mut self, key: CopyKey) -> Option<Held> {
        let held = self.copies.remove(&key)?;
        let cost = cost(&held);
        self.used -= cost;
        match held.state {
            CopyState::Provisional { since } => {
                self.waiting.remove(&(since, key));
                self.provisional -= cost;
            }
            CopyState::Claimed => {
                if self.order.remove(held.uses, &rank(key, &held), cost) {
                    self.evictable -= cost;
                }
            }
        }
        Some(held)
    }

    /// Keeps a copy from being evicted, until it was unpinned as often as it was pinned.
    pub fn pin(&mut self, key: CopyKey) -> Pin {
        let Some(cost) = self.copies.get(&key).map(full_cost) else {
            return Pin::Absent;
        };
        if !self.pins.contains_key(&key) {
            let max = self.max / LEASED_MEMORY_PART;
            let namespace = key.name.namespace;
            let own = self.pinned_of.get(&namespace).copied().unwrap_or(0) + cost;
            if self.pinned + cost > max {
                return Pin::Full;
            }
            if own > max / LEASED_NAMESPACE_PART {
                return Pin::Share;
            }
            self.pinned += cost;
            self.pinned_of.insert(namespace, own);
        }
        let held = self.unlist(key);
        *self.pins.entry(key).or_default() += 1;
        if let Some(held) = held {
            self.list(key, held);
        }
        Pin::Pinned
    }

    /// Takes one pin of a copy back. Nothing, when it has none: it went meanwhile.
    pub fn unpin(&mut self, key: CopyKey) {
        match self.pins.get_mut(&key) {
            None => {}
            Some(pins) if *pins > 1 => *pins -= 1,
            Some(_) => {
                let held = self.unlist(key);
                self.pins.remove(&key);
                if let Some(held) = held {
                    self.free_pinned(key.name.namespace, full_cost(&held));
                    self.list(key, held);
                }
            }
        }
    }

    fn free_pinned(&mut self, namespace: NamespaceId, cost: u64) {
        self.pinned -= cost;
        if let Some(own) = self.pinned_of.get_mut(&namespace) {
            *own -= cost;
            if *own == 0 {
                self.pinned_of.remove(&namespace);
            }
        }
    }

    /// Whether a copy is pinned.
    #[must_use]
    pub fn is_pinned(&self, key: CopyKey) -> bool {
        self.pins.contains_key(&key)
    }

    /// Changes what is known of a copy, and all indexes with it.
    fn change(&mut self, key: CopyKey, change: impl FnOnce(&mut Held)) -> bool {
        let Some(mut held) = self.unlist(key) else {
            return false;
        };
        change(&mut held);
        self.list(key, held);
        true
    }

    /// Notes that a copy is committed, of a block with this clock. False: there is none.
    pub fn claim(&mut self, key: CopyKey, put_hlc: Hlc) -> bool {
        self.change(key, |held| {
            held.state = CopyState::Claimed;
            held.put_hlc = put_hlc;
            held.offered = false;
        })
    }

    /// Notes that a put found a copy here.
    pub fn put_again(&mut self, key: CopyKey, now: Instant) {
        if let Some(held) = self.copies.get_mut(&key) {
            held.kept = now;
        }
    }

    /// The next copies after a key: when each was kept; none for those that cannot be evicted.
    #[must_use]
    pub fn kept_after(
        &self,
        after: Option<CopyKey>,
        max: usize,
    ) -> Vec<(CopyKey, Option<(Instant, bool)>)> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let copies = self.copies.range((from, Bound::Unbounded)).take(max);
        let kept = |key: &CopyKey, held: &Held| {
            let goes = held.state == CopyState::Claimed && !self.pins.contains_key(key);
            goes.then_some((held.kept, held.transcoded.is_some()))
        };
        copies.map(|(key, held)| (*key, kept(key, held))).collect()
    }

    /// See [`Order::set_shares`].
    pub(super) fn set_shares(&mut self, shares: BTreeMap<NamespaceId, u64>) {
        self.order.set_shares(shares);
    }

    /// What is known of a copy.
    #[must_use]
    pub fn held(&self, key: CopyKey) -> Option<&Held> {
        self.copies.get(&key)
    }

    /// A copy of a block with this content and clock, for another one that is about to claim
    /// it; when it is provisional, its time starts anew. One with another clock is another
    /// put's: a delete may lie between the two.
    pub fn join(
        &mut self,
        name: &BlockName,
        (checksum, put_hlc): (Checksum, Hlc),
        now: Instant,
    ) -> Option<Copy> {
        let (from, to) = (key_of(name, u64::MIN), key_of(name, u64::MAX));
        let (key, _) = self
            .copies
            .range(from..=to)
            .find(|(_, held)| held.checksum == checksum && held.put_hlc == put_hlc)?;
        let key = *key;
        self.change(key, |held| {
            held.joined = Some(now);
            if held.state != CopyState::Claimed {
                held.state = CopyState::Provisional { since: now };
            }
        });
        Some(key.copy)
    }

    /// Forgets a copy whose put was refused, unless it is committed or another put relies on it.
    pub fn withdraw(&mut self, key: CopyKey) -> Option<Held> {
        let relied_on = |held: &&Held| held.state == CopyState::Claimed || held.joined.is_some();
        let own = self.copies.get(&key).filter(|held| !relied_on(held));
        own.copied().and_then(|_| self.remove(key))
    }

    /// Forgets a copy that the directory does not list any more. One that another put joined
    /// less than `ttl` ago is unclaimed again instead: that put's claim is still to come.
    pub fn unlisted(&mut self, key: CopyKey, now: Instant, ttl: Duration) -> Option<Held> {
        let joined = self.copies.get(&key).and_then(|held| held.joined);
        match joined.filter(|joined| now.saturating_duration_since(*joined) < ttl) {
            Some(since) => {
                self.change(key, |held| held.state = CopyState::Provisional { since });
                None
            }
            None => self.remove(key),
        }
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
            pinned: self.pins.len() as u64,
            pinned_bytes: self.pinned,
        }
    }
}

/// What a copy takes of the budget.
fn cost(held: &Held) -> u64 {
    if held.in_memory { full_cost(held) } else { 0 }
}

/// What it takes when memory has it.
fn full_cost(held: &Held) -> u64 {
    held.bytes + COPY_OVERHEAD_BYTES
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
