//! Names of blocks that are to be brought here from one peer. Pure.
//!
//! Invariants: at most `max` names wait, whatever comes; a name that finds no room, or waited
//! too long, is not forgotten: it lies within the dirty range, which is mended by comparing
//! what the peer has with what is here.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use kvmesh_directory::{BlockHash, BlockKey, BlockName, NamespaceId, Part};
use tokio::time::Instant;

/// A block that did not come is tried so often, the first time included.
pub(super) const TRIES_MAX: u32 = 3;
/// Until the second try; each later one waits four times as long.
const TRY_AGAIN: Duration = Duration::from_secs(1);

/// A name that waits.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Waiting {
    pub(super) name: BlockName,
    pub(super) bytes: u32,
    since: Instant,
    /// In vain.
    tries: u32,
}

/// What is to become of a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    Bring,
    /// It is here, or not to be.
    Drop,
    /// Nobody can say yet.
    Wait,
}

/// Names from the first to the last, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) first: BlockName,
    pub(super) last: BlockName,
}

impl Range {
    /// Everything of a namespace.
    pub(super) fn of(namespace: NamespaceId) -> Self {
        let name = |byte, number| {
            let part = Part {
                shard: number,
                group: number,
            };
            let hash = BlockHash([byte; 32]);
            BlockName::new(namespace, BlockKey { hash, part })
        };
        Self {
            first: name(0, 0),
            last: name(u8::MAX, u16::MAX),
        }
    }

    pub(super) fn has(&self, name: &BlockName) -> bool {
        (self.first..=self.last).contains(name)
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Queue {
    max: usize,
    /// In the order in which they came; each namespace has its turn.
    waiting: BTreeMap<NamespaceId, VecDeque<Waiting>>,
    /// Those that did not come, with the time of the next try.
    again: VecDeque<(Instant, Waiting)>,
    /// Of all that wait. What is not here any more is left out when its turn comes.
    names: BTreeSet<BlockName>,
    /// Entries, those included that are left out when their turn comes.
    len: usize,
    /// Whose turn was the last one.
    served: Option<NamespaceId>,
    dirty: Option<Range>,
}

impl Queue {
    pub(super) fn new(max: usize) -> Self {
        Self {
            max,
            waiting: BTreeMap::new(),
            again: VecDeque::new(),
            names: BTreeSet::new(),
            len: 0,
            served: None,
            dirty: None,
        }
    }

    /// Names that wait.
    pub(super) fn len(&self) -> usize {
        self.names.len()
    }

    /// Takes a name; false: there is no room, and it is within the dirty range now.
    pub(super) fn add(&mut self, name: BlockName, bytes: u32, now: Instant) -> bool {
        if self.names.contains(&name) {
            return true;
        }
        if self.len >= self.max {
            self.mark(Range {
                first: name,
                last: name,
            });
            return false;
        }
        let waiting = Waiting {
            name,
            bytes,
            since: now,
            tries: 0,
        };
        self.enter(waiting);
        true
    }

    fn enter(&mut self, waiting: Waiting) {
        self.names.insert(waiting.name);
        self.len += 1;
        let of = self.waiting.entry(waiting.name.namespace).or_default();
        of.push_back(waiting);
    }

    /// The peer does not have a block any more.
    pub(super) fn vanished(&mut self, name: &BlockName) {
        self.names.remove(name);
    }

    /// What to bring next: names of one namespace, of at most so many bytes but for the first.
    /// What did not come before is asked for alone, since one block that is not there can keep
    /// others of its call from coming.
    pub(super) fn take(
        &mut self,
        now: Instant,
        (blocks_max, bytes_max): (usize, u64),
        mut fate: impl FnMut(&BlockName) -> Fate,
    ) -> Vec<Waiting> {
        if let Some(alone) = self.take_again(now, &mut fate) {
            return vec![alone];
        }
        let after = |id: &&NamespaceId| self.served.is_none_or(|served| **id > served);
        let (later, earlier): (Vec<NamespaceId>, Vec<NamespaceId>) =
            self.waiting.keys().partition(after);
        for id in later.into_iter().chain(earlier) {
            let batch = self.take_of(id, blocks_max, bytes_max, &mut fate);
            if !batch.is_empty() {
                self.served = Some(id);
                return batch;
            }
        }
        Vec::new()
    }

    fn take_again(
        &mut self,
        now: Instant,
        fate: &mut impl FnMut(&BlockName) -> Fate,
    ) -> Option<Waiting> {
        loop {
            let due = self.again.iter().position(|(due, _)| *due <= now)?;
            let (_, waiting) = self.again.remove(due)?;
            self.len -= 1;
            let wanted = self.names.remove(&waiting.name);
            match fate(&waiting.name) {
                Fate::Bring if wanted => return Some(waiting),
                Fate::Wait if wanted => {
                    self.enter_again(now + TRY_AGAIN, waiting);
                    return None;
                }
                _ => {}
            }
        }
    }

    fn take_of(
        &mut self,
        id: NamespaceId,
        blocks_max: usize,
        bytes_max: u64,
        fate: &mut impl FnMut(&BlockName) -> Fate,
    ) -> Vec<Waiting> {
        let (mut batch, mut bytes) = (Vec::new(), 0);
        let Some(of) = self.waiting.get_mut(&id) else {
            return batch;
        };
        while let Some(next) = of.front() {
            if self.names.contains(&next.name) {
                match fate(&next.name) {
                    Fate::Wait => break,
                    Fate::Drop => {}
                    Fate::Bring => {
                        let more = bytes + u64::from(next.bytes);
                        if !batch.is_empty() && (batch.len() == blocks_max || more > bytes_max) {
                            break;
                        }
                        bytes = more;
                        batch.push(next.clone());
                    }
                }
            }
            self.names.remove(&next.name);
            self.len -= 1;
            of.pop_front();
        }
        if of.is_empty() {
            self.waiting.remove(&id);
        }
        batch
    }

    /// Nothing was tried: the names wait on, before the others.
    pub(super) fn put_back(&mut self, batch: Vec<Waiting>, now: Instant) {
        for waiting in batch.into_iter().rev() {
            if !self.names.insert(waiting.name) {
                continue;
            }
            self.len += 1;
            match waiting.tries {
                0 => {
                    let of = self.waiting.entry(waiting.name.namespace).or_default();
                    of.push_front(waiting);
                }
                _ => self.again.push_front((now, waiting)),
            }
        }
    }

    /// A block did not come; false: it is given up.
    pub(super) fn failed(&mut self, mut waiting: Waiting, now: Instant) -> bool {
        waiting.tries += 1;
        if waiting.tries >= TRIES_MAX || self.names.contains(&waiting.name) {
            return waiting.tries < TRIES_MAX;
        }
        let wait = TRY_AGAIN * 4_u32.pow(waiting.tries - 1);
        self.names.insert(waiting.name);
        self.enter_again(now + wait, waiting);
        true
    }

    fn enter_again(&mut self, due: Instant, waiting: Waiting) {
        self.names.insert(waiting.name);
        self.len += 1;
        self.again.push_back((due, waiting));
    }

    /// Names that waited for longer than `age_max` wait no more, and are within the dirty range;
    /// says how many.
    pub(super) fn age(&mut self, now: Instant, age_max: Duration) -> usize {
        let old = |waiting: &Waiting| now.saturating_duration_since(waiting.since) > age_max;
        let mut gone = Vec::new();
        for of in self.waiting.values_mut() {
            while of.front().is_some_and(old) {
                gone.extend(of.pop_front().map(|waiting| waiting.name));
            }
        }
        self.waiting.retain(|_, of| !of.is_empty());
        self.again.retain(|(_, waiting)| {
            let keep = !old(waiting);
            if !keep {
                gone.push(waiting.name);
            }
            keep
        });
        self.len -= gone.len();
        gone.retain(|name| self.names.remove(name));
        for name in &gone {
            self.mark(Range {
                first: *name,
                last: *name,
            });
        }
        gone.len()
    }

    /// Widens the dirty range.
    pub(super) fn mark(&mut self, range: Range) {
        let dirty = self.dirty.get_or_insert(range);
        dirty.first = dirty.first.min(range.first);
        dirty.last = dirty.last.max(range.last);
    }

    pub(super) fn is_dirty(&self) -> bool {
        self.dirty.is_some()
    }

    /// The dirty range, to be mended, once there is room for what is found.
    pub(super) fn take_dirty(&mut self) -> Option<Range> {
        if self.len > self.max / 4 {
            return None;
        }
        self.dirty.take()
    }
}

#[cfg(test)]
#[path = "queue_test.rs"]
mod queue_test;
