//! How often names were used that are not held any more. Bounded: the longest gone go first.

use std::{
    collections::{HashMap, VecDeque},
    hash::{DefaultHasher, Hash, Hasher},
};

use kvmesh_directory::BlockName;

use super::retention::used_again;

/// Stands for a name: two that share one only share a count of uses.
pub(super) type Tag = u64;

pub(super) fn tag(name: &BlockName) -> Tag {
    let mut hasher = DefaultHasher::new();
    name.hash(&mut hasher);
    hasher.finish()
}

/// What is known of the uses of one name.
#[derive(Debug, Clone, Copy)]
struct Used {
    times: u8,
    second: u64,
    /// Number of the note.
    note: u64,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Recall {
    uses: HashMap<Tag, Used>,
    /// With the number of the note, so that one which was taken back or renewed is passed over.
    queue: VecDeque<(Tag, u64)>,
    notes: u64,
}

impl Recall {
    /// Notes how often a name was used, and in which second the last time.
    pub(super) fn note(&mut self, tag: Tag, times: u8, second: u64) {
        self.notes += 1;
        let note = self.notes;
        let used = Used {
            times,
            second,
            note,
        };
        self.uses.insert(tag, used);
        self.queue.push_back((tag, note));
    }

    /// How often a name was used that is used again in a second; forgets it.
    pub(super) fn take(&mut self, tag: Tag, second: u64) -> u8 {
        match self.uses.remove(&tag) {
            None => 0,
            Some(used) if used.second >= second => used.times,
            Some(used) => used_again(used.times),
        }
    }

    /// Forgets the oldest until at most `max` are left.
    pub(super) fn trim(&mut self, max: usize) {
        while self.uses.len() > max || self.queue.len() > max.saturating_mul(2) {
            let Some((tag, note)) = self.queue.pop_front() else {
                return;
            };
            if self.uses.get(&tag).is_some_and(|used| used.note == note) {
                self.uses.remove(&tag);
            }
        }
    }

    /// Names, and notes of them.
    #[cfg(test)]
    pub(super) fn sizes(&self) -> (usize, usize) {
        (self.uses.len(), self.queue.len())
    }
}
