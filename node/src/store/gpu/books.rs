//! Which copies are on the device or on their way there, how warm each is, and what the device
//! has room for. Pure.
//!
//! Invariants: every copy is listed once, coming or here; what was removed while it came is not
//! listed when it arrives; `order` has exactly those that are here; `used <= max`, and what was
//! removed counts until its bytes have left the device.
//!
//! Not here: which copies should be on the device (`lifting`).

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use crate::store::{Brief, CopyKey, Held};

/// One more use of a copy counts as so many seconds.
const USE_SECONDS: u64 = 60;

/// How warm a copy is, in seconds: the later it was used and the more often, the warmer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::store) struct Heat(u64);

impl Heat {
    pub(in crate::store) fn of(held: &Held) -> Self {
        Self(held.touched + USE_SECONDS * u64::from(held.uses))
    }

    /// Of a copy that must stay for now, whatever it is.
    pub(in crate::store) fn just_used(second: u64) -> Self {
        Self(second + USE_SECONDS)
    }

    /// Whether a copy with this heat may take the place of one with that. Of two that are
    /// read by turns neither pushes the other out.
    pub(in crate::store) fn displaces(self, other: Self) -> bool {
        self.0 > other.0 + USE_SECONDS
    }
}

/// What the device has room for. Shared by the books and what they gave room to.
#[derive(Debug)]
pub(super) struct Budget {
    used: AtomicU64,
    max: u64,
}

/// Room for a block on the device, until this is dropped.
#[derive(Debug)]
pub(super) struct Room {
    budget: Arc<Budget>,
    bytes: u64,
}

impl Budget {
    pub(super) fn new(max: u64) -> Self {
        let used = AtomicU64::new(0);
        Self { used, max }
    }

    pub(super) fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    pub(super) fn max(&self) -> u64 {
        self.max
    }

    fn with(&self, bytes: u64, used: u64) -> Option<u64> {
        used.checked_add(bytes).filter(|used| *used <= self.max)
    }

    pub(super) fn fits(&self, bytes: u64) -> bool {
        self.with(bytes, self.used()).is_some()
    }

    /// None: there is no room.
    pub(super) fn take(self: &Arc<Self>, bytes: u64) -> Option<Room> {
        let taken = self
            .used
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
                self.with(bytes, used)
            });
        taken.ok().map(|_| Room {
            budget: Arc::clone(self),
            bytes,
        })
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.budget.used.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[derive(Debug)]
enum State<T> {
    /// Under this ticket.
    Coming(u64),
    Here(Heat, Arc<T>),
}

#[derive(Debug)]
struct Listed<T> {
    brief: Brief,
    state: State<T>,
}

/// See the module. `T` is a block's bytes on the device.
#[derive(Debug)]
pub(super) struct Books<T> {
    copies: BTreeMap<CopyKey, Listed<T>>,
    order: BTreeSet<(Heat, CopyKey)>,
    coming: BTreeMap<u64, CopyKey>,
    tickets: u64,
    /// Removed, and not off the device yet.
    leaving: Vec<Arc<T>>,
}

impl<T> Default for Books<T> {
    fn default() -> Self {
        Self {
            copies: BTreeMap::new(),
            order: BTreeSet::new(),
            coming: BTreeMap::new(),
            tickets: 0,
            leaving: Vec::new(),
        }
    }
}

impl<T> Books<T> {
    /// Lists a copy that is to come; the ticket to come under. None: it is listed already.
    pub(super) fn expect(&mut self, key: CopyKey, brief: Brief) -> Option<u64> {
        if self.copies.contains_key(&key) {
            return None;
        }
        self.tickets += 1;
        let state = State::Coming(self.tickets);
        self.copies.insert(key, Listed { brief, state });
        self.coming.insert(self.tickets, key);
        Some(self.tickets)
    }

    /// A copy has come, unless it was removed meanwhile.
    pub(super) fn arrived(&mut self, ticket: u64, bytes: T) {
        let bytes = Arc::new(bytes);
        let key = self.coming.remove(&ticket);
        match key.and_then(|key| Some((key, self.copies.get_mut(&key)?))) {
            Some((key, listed)) => {
                listed.state = State::Here(Heat::default(), bytes);
                self.order.insert((Heat::default(), key));
            }
            None => self.leaving.push(bytes),
        }
    }

    /// A copy has not come.
    pub(super) fn failed(&mut self, ticket: u64) {
        if let Some(key) = self.coming.remove(&ticket) {
            self.copies.remove(&key);
        }
    }

    /// The bytes of a copy that is here.
    pub(super) fn get(&self, key: &CopyKey) -> Option<&Arc<T>> {
        match &self.copies.get(key)?.state {
            State::Coming(_) => None,
            State::Here(_, bytes) => Some(bytes),
        }
    }

    pub(super) fn is_listed(&self, key: &CopyKey) -> bool {
        self.copies.contains_key(key)
    }

    /// Copies that are here.
    pub(super) fn len(&self) -> usize {
        self.order.len()
    }

    /// The coldest, as far as is known.
    pub(super) fn coldest(&self) -> Option<(Heat, CopyKey)> {
        self.order.first().copied()
    }

    /// How warm a copy is is known better.
    pub(super) fn warm(&mut self, key: &CopyKey, heat: Heat) {
        let listed = self.copies.get_mut(key);
        if let Some(State::Here(known, _)) = listed.map(|it| &mut it.state) {
            self.order.remove(&(*known, *key));
            *known = heat;
            self.order.insert((heat, *key));
        }
    }

    /// Forgets a copy. True: its bytes are to leave the device.
    pub(super) fn remove(&mut self, key: &CopyKey) -> bool {
        match self.copies.remove(key).map(|listed| listed.state) {
            None => false,
            Some(State::Coming(ticket)) => {
                self.coming.remove(&ticket);
                false
            }
            Some(State::Here(heat, bytes)) => {
                self.order.remove(&(heat, *key));
                self.leaving.push(bytes);
                true
            }
        }
    }

    /// Gives a copy another number. None: it is not listed.
    pub(super) fn rename(&mut self, old: &CopyKey, new: CopyKey) -> Option<Brief> {
        let listed = self.copies.remove(old)?;
        let brief = listed.brief;
        match &listed.state {
            State::Coming(ticket) => {
                self.coming.insert(*ticket, new);
            }
            State::Here(heat, _) => {
                self.order.remove(&(*heat, *old));
                self.order.insert((*heat, new));
            }
        }
        self.copies.insert(new, listed);
        Some(brief)
    }

    /// Forgets everything; the copies that were here.
    pub(super) fn clear(&mut self) -> Vec<CopyKey> {
        let keys: Vec<CopyKey> = self.order.iter().map(|(_, key)| *key).collect();
        for key in &keys {
            self.remove(key);
        }
        keys
    }

    pub(super) fn has_leaving(&self) -> bool {
        !self.leaving.is_empty()
    }

    /// What is to leave the device.
    pub(super) fn leaving(&mut self) -> Vec<Arc<T>> {
        std::mem::take(&mut self.leaving)
    }
}

#[cfg(test)]
#[path = "books_test.rs"]
mod books_test;
