//! Which copies are on disk or on their way there, and what each segment has. Pure.
//!
//! Invariants: every copy is listed once, waiting or written; a written one is listed in its
//! segment at its offset, and `live` is what those take; what was removed while it waited is
//! not listed when it arrives. A copy's number is known here only: giving it another one
//! changes no byte on disk.
//!
//! Not here: which copies should stay (`ledger`, `reclaim`).

use std::{collections::BTreeMap, sync::Arc};

use kvmesh_client::Block;
use kvmesh_directory::LogIncarnation;

use crate::store::{Brief, CopyKey};

/// Where a record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) segment: u64,
    pub(super) offset: u64,
    /// Of the whole record.
    pub(super) bytes: u64,
}

#[derive(Debug, Clone)]
pub(super) enum Copied {
    /// It waits to be written, under this ticket.
    Waiting(u64, Arc<Block>),
    Written(Written),
}

impl Copied {
    pub(super) fn brief(&self) -> Brief {
        match self {
            Self::Waiting(_, block) => Brief::of(&block.meta),
            Self::Written(written) => written.brief,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Written {
    pub(super) place: Place,
    pub(super) brief: Brief,
    pub(super) log: LogIncarnation,
    /// It was read since it was written.
    pub(super) read: bool,
}

/// What one segment has.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Books {
    /// Of the file.
    pub(super) bytes: u64,
    /// Of all records, once it takes no more.
    pub(super) filled: u64,
    /// Of records that are listed.
    pub(super) live: u64,
    /// It takes no more.
    pub(super) closed: bool,
    pub(super) copies: BTreeMap<u64, CopyKey>,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Index {
    copies: BTreeMap<CopyKey, Copied>,
    waiting: BTreeMap<u64, CopyKey>,
    segments: BTreeMap<u64, Books>,
    tickets: u64,
    live: u64,
}

impl Index {
    /// Lists a copy that waits to be written; its ticket. None: it is listed already.
    pub(super) fn wait(&mut self, key: CopyKey, block: Arc<Block>) -> Option<u64> {
        if self.copies.contains_key(&key) {
            return None;
        }
        self.tickets += 1;
        self.copies
            .insert(key, Copied::Waiting(self.tickets, block));
        self.waiting.insert(self.tickets, key);
        Some(self.tickets)
    }

    /// What waits under a ticket. None: it was removed.
    pub(super) fn waiting(&self, ticket: u64) -> Option<(CopyKey, Arc<Block>)> {
        let key = self.waiting.get(&ticket)?;
        match self.copies.get(key)? {
            Copied::Waiting(_, block) => Some((*key, Arc::clone(block))),
            Copied::Written(_) => None,
        }
    }

    /// Notes where what waited was written. It may have been removed meanwhile.
    pub(super) fn written(&mut self, ticket: u64, place: Place, log: LogIncarnation) {
        let Some(key) = self.waiting.remove(&ticket) else {
            return;
        };
        if let Some(Copied::Waiting(_, block)) = self.copies.remove(&key) {
            let brief = Brief::of(&block.meta);
            self.list(key, place, brief, log);
        }
    }

    /// Forgets what could not be written.
    pub(super) fn failed(&mut self, ticket: u64) -> Option<CopyKey> {
        let key = self.waiting.remove(&ticket)?;
        self.copies.remove(&key);
        Some(key)
    }

    /// Lists a copy that was found on disk.
    pub(super) fn found(&mut self, key: CopyKey, place: Place, brief: Brief, log: LogIncarnation) {
        self.list(key, place, brief, log);
    }

    fn list(&mut self, key: CopyKey, place: Place, brief: Brief, log: LogIncarnation) {
        let Some(books) = self.segments.get_mut(&place.segment) else {
            debug_assert!(false, "a record is in a segment that is listed");
            return;
        };
        books.live += place.bytes;
        self.live += place.bytes;
        books.copies.insert(place.offset, key);
        let written = Written {
            place,
            brief,
            log,
            read: false,
        };
        self.copies.insert(key, Copied::Written(written));
    }

    pub(super) fn get(&self, key: &CopyKey) -> Option<&Copied> {
        self.copies.get(key)
    }

    /// Notes that a copy was read.
    pub(super) fn read(&mut self, key: &CopyKey) {
        if let Some(Copied::Written(written)) = self.copies.get_mut(key) {
            written.read = true;
        }
    }

    /// Forgets a copy.
    pub(super) fn remove(&mut self, key: &CopyKey) -> bool {
        match self.copies.remove(key) {
            None => false,
            Some(Copied::Waiting(ticket, _)) => {
                self.waiting.remove(&ticket);
                true
            }
            Some(Copied::Written(written)) => {
                self.unlist(written.place);
                true
            }
        }
    }

    fn unlist(&mut self, place: Place) {
        if let Some(books) = self.segments.get_mut(&place.segment)
            && books.copies.remove(&place.offset).is_some()
        {
            books.live -= place.bytes;
            self.live -= place.bytes;
        }
    }

    /// Forgets the copy whose record is at a place, if it still is.
    pub(super) fn remove_at(&mut self, place: Place) -> Option<CopyKey> {
        let key = *self
            .segments
            .get(&place.segment)?
            .copies
            .get(&place.offset)?;
        self.remove(&key).then_some(key)
    }

    /// Gives a copy another number. False: it is not listed, or the other one is.
    pub(super) fn rename(&mut self, old: &CopyKey, new: CopyKey) -> bool {
        if self.copies.contains_key(&new) {
            return false;
        }
        let Some(copied) = self.copies.remove(old) else {
            return false;
        };
        match &copied {
            Copied::Waiting(ticket, _) => {
                self.waiting.insert(*ticket, new);
            }
            Copied::Written(written) => {
                if let Some(books) = self.segments.get_mut(&written.place.segment) {
                    books.copies.insert(written.place.offset, new);
                }
            }
        }
        self.copies.insert(new, copied);
        true
    }

    /// Notes that a record was written again elsewhere. It may have been removed meanwhile.
    pub(super) fn moved(&mut self, from: Place, to: Place) {
        let books = self.segments.get(&from.segment);
        let Some(key) = books.and_then(|books| books.copies.get(&from.offset).copied()) else {
            return;
        };
        if let Some(Copied::Written(written)) = self.copies.remove(&key) {
            self.unlist(from);
            self.list(key, to, written.brief, written.log);
        }
    }

    /// Lists a segment.
    pub(super) fn open(&mut self, segment: u64, bytes: u64) {
        let books = Books {
            bytes,
            ..Books::default()
        };
        self.segments.insert(segment, books);
    }

    /// Notes that a segment takes no more, where its records end, and how long its file is now.
    pub(super) fn close(&mut self, segment: u64, filled: u64, bytes: u64) {
        if let Some(books) = self.segments.get_mut(&segment) {
            (books.closed, books.filled, books.bytes) = (true, filled, bytes);
        }
    }

    /// Notes that a segment takes more again, and how long its file is for that.
    pub(super) fn reopen(&mut self, segment: u64, bytes: u64) {
        if let Some(books) = self.segments.get_mut(&segment) {
            (books.closed, books.bytes) = (false, bytes);
        }
    }

    /// Forgets a segment and the copies that it still has.
    pub(super) fn gone(&mut self, segment: u64) -> Vec<CopyKey> {
        let Some(books) = self.segments.remove(&segment) else {
            return Vec::new();
        };
        self.live -= books.live;
        let copies: Vec<CopyKey> = books.copies.into_values().collect();
        for key in &copies {
            self.copies.remove(key);
        }
        copies
    }

    pub(super) fn segments(&self) -> &BTreeMap<u64, Books> {
        &self.segments
    }

    /// Every written copy of a segment, by offset.
    pub(super) fn copies_of(&self, segment: u64) -> Vec<(CopyKey, Written)> {
        let books = self.segments.get(&segment);
        let keys = books.into_iter().flat_map(|books| books.copies.values());
        let written = |key: &CopyKey| match self.copies.get(key) {
            Some(Copied::Written(written)) => Some((*key, *written)),
            _ => None,
        };
        keys.filter_map(written).collect()
    }

    /// Of all files.
    pub(super) fn file_bytes(&self) -> u64 {
        self.segments.values().map(|books| books.bytes).sum()
    }

    /// Of listed records.
    pub(super) fn live_bytes(&self) -> u64 {
        self.live
    }

    pub(super) fn len(&self) -> usize {
        self.copies.len()
    }
}

#[cfg(test)]
#[path = "index_test.rs"]
mod index_test;
