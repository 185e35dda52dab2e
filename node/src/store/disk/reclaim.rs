//! Makes room on disk, a whole segment at a time.
//!
//! Room is short when the files take up the budget, or what others leave of it on the file system,
//! or the copies the books, which are in memory.
//! Of files, the segment that is dead for the greatest part is next when that is the half or more;
//! else the oldest. What is pinned in it, and what was read since it was written (in a mostly dead
//! one, all), is carried on to another segment, but no more than a third of what all segments
//! that went held: so at most one and a half times what blocks take is ever written, and what
//! lives in a segment that is two thirds dead is never evicted for it. The rest is evicted, and
//! where others leave no room to carry anything to, all of it but what is pinned.
//!
//! Invariants: what is carried is durable before its old segment goes; where a pinned copy
//! cannot be carried, its segment stays. Who reads a segment that goes reads it to the end.
//!
//! Not here: letting go what was not carried; the store does, so that the ledger agrees.

use std::{
    collections::BTreeSet,
    sync::{Arc, atomic::Ordering},
};

use tokio::time::{Duration, timeout};
use tracing::warn;

use super::{
    append::{Appender, Record, Stopped, WRITE_BYTES_MAX},
    index::{Books, Index, Place, Written},
    segment::Segment,
    shared::{Shared, count},
};
use crate::store::{CopyKey, pool::PoolError};

/// Segments that should be to spare.
pub(super) const SPARE: u64 = 3;
/// Without news it is looked so often.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// See the module.
pub struct Reclaimer {
    shared: Arc<Shared>,
    appender: Appender,
    /// Bytes that the segments which went held.
    emptied: u64,
}

impl Reclaimer {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        let appender = Appender::new(Arc::clone(&shared), 0);
        Self {
            shared,
            appender,
            emptied: 0,
        }
    }

    /// Waits until there may be something to do.
    pub async fn crowded(&self) {
        let more = self.shared.crowded.notified();
        // Also without news: what failed is tried again.
        let _ = timeout(LOOK_EVERY, more).await;
        self.look().await;
    }

    /// Looks at what others have left of the file system.
    pub(super) async fn look(&self) {
        let files = Arc::clone(&self.shared.files);
        match self.shared.writes.run(move || files.space()).await {
            Ok(space) => self.shared.shares(space),
            Err(error) => warn!(%error, "it is not known how full the disk is"),
        }
    }

    /// A segment that can go now: what should stay of it is elsewhere. None: there is nothing
    /// to do, or nothing that can be done.
    pub async fn emptied(&mut self, pinned: &(dyn Fn(&CopyKey) -> bool + Sync)) -> Option<u64> {
        let mut stay = BTreeSet::new();
        loop {
            let (number, mostly_dead) = victim(&self.shared, &stay)?;
            let copies = self.shared.state().index.copies_of(number);
            let wanted: Vec<_> = copies
                .into_iter()
                .map(|(key, written)| (pinned(&key), written))
                .filter(|(pinned, written)| *pinned || mostly_dead || written.read)
                .collect();
            match self.carry(number, wanted).await {
                Ok(()) => return Some(number),
                Err(Stopped::Failed) => return None,
                // Others want so much that nothing can be carried.
                Err(Stopped::NoRoom) => {
                    let left = self.shared.state().index.copies_of(number);
                    if !left.iter().any(|(key, _)| pinned(key)) {
                        return Some(number);
                    }
                    stay.insert(number);
                }
            }
        }
    }

    /// Removes the file of a segment whose copies were forgotten.
    pub async fn discard(&mut self, number: u64) {
        let shared = Arc::clone(&self.shared);
        let files = Arc::clone(&shared.files);
        let removed = shared.writes.run(move || files.remove(number)).await;
        let mut state = shared.state();
        match removed {
            Ok(()) => {
                self.emptied += filled(&state.index, number);
                state.index.gone(number);
                state.open.remove(&number);
            }
            // It is empty, and so the next one to go again.
            Err(error) => warn!(%error, number, "a segment cannot be removed"),
        }
        drop(state);
        shared.room.notify_one();
    }

    /// What is sealed needs no verifying at the next start.
    pub async fn close(&mut self) {
        let _ = self.appender.close().await;
    }

    /// Writes records again elsewhere, as far as they are allowed.
    async fn carry(&mut self, number: u64, wanted: Vec<(bool, Written)>) -> Result<(), Stopped> {
        let Some(segment) = self.shared.state().open.get(&number).cloned() else {
            return Err(Stopped::Failed);
        };
        // Not read in vain.
        if !wanted.is_empty() && !self.appender.has_place() {
            return Err(Stopped::NoRoom);
        }
        let held = filled(&self.shared.state().index, number);
        let (mut batch, mut bytes) = (Vec::new(), 0);
        for (pinned, written) in wanted {
            let place = written.place;
            if !pinned && !self.allowed(bytes + place.bytes, held) {
                continue;
            }
            let record = self.read(&segment, place).await?;
            batch.extend(record.map(|record| (place, record)));
            bytes += place.bytes;
            if bytes >= WRITE_BYTES_MAX {
                self.write(std::mem::take(&mut batch)).await?;
                bytes = 0;
            }
        }
        self.write(batch).await
    }

    /// Whether so much may be written for copies that nobody waits for, so that a segment goes
    /// that held so many bytes.
    fn allowed(&self, bytes: u64, held: u64) -> bool {
        let carried = self.shared.counts.carried.load(Ordering::Relaxed) + bytes;
        carried <= (self.emptied + held) / 3
    }

    /// None: it is not what it should be, and not listed any more.
    async fn read(&self, segment: &Segment, place: Place) -> Result<Option<Record>, Stopped> {
        let segment = segment.clone();
        let reading = self
            .shared
            .reads
            .run(move || segment.record(place.offset, place.bytes));
        match reading.await {
            Ok((header, block)) => Ok(Some(Record {
                header,
                block: Arc::new(block),
            })),
            Err(PoolError::Busy | PoolError::Stuck) => Err(Stopped::Failed),
            Err(PoolError::Failed(error)) => {
                warn!(error = %error, "a record cannot be carried on");
                self.shared.corrupt(place);
                Ok(None)
            }
        }
    }

    /// Writes a batch, durable, and notes where it is now.
    async fn write(&mut self, batch: Vec<(Place, Record)>) -> Result<(), Stopped> {
        let (old, records): (Vec<Place>, Vec<Record>) = batch.into_iter().unzip();
        let mut done = 0;
        while done < records.len() {
            let (places, stopped) = self.appender.append(&records[done..]).await;
            // What the disk failed for is given up, whatever came before it.
            if let Some(Stopped::Failed) = stopped {
                return Err(Stopped::Failed);
            }
            self.appender.sync().await?;
            let mut state = self.shared.state();
            for (from, to) in old[done..].iter().zip(&places) {
                count(&self.shared.counts.carried, to.bytes);
                state.index.moved(*from, *to);
            }
            drop(state);
            done += places.len();
            if let Some(stopped) = stopped {
                return Err(stopped);
            }
        }
        Ok(())
    }
}

/// The segment that goes next, of those that need not stay, and whether it is mostly dead. None:
/// all may stay.
fn victim(shared: &Shared, stay: &BTreeSet<u64>) -> Option<(u64, bool)> {
    let full = Full {
        files: !shared.fits(0, SPARE),
        books: !shared.lists(SPARE as usize),
    };
    let mut state = shared.state();
    let (number, mostly_dead) = choice(&state.index, full, stay)?;
    // Nobody goes on in one that goes.
    state.resumable.retain(|(_, other)| *other != number);
    Some((number, mostly_dead))
}

/// What room is short of.
struct Full {
    files: bool,
    books: bool,
}

fn choice(index: &Index, full: Full, stay: &BTreeSet<u64>) -> Option<(u64, bool)> {
    let segments = index.segments().iter();
    let mut closed = segments.filter(|(number, books)| books.closed && !stay.contains(number));
    if let Some((number, _)) = closed.clone().find(|(_, books)| books.live == 0) {
        return Some((*number, true));
    }
    if !full.files {
        // A dead record is in no books.
        let oldest = closed.next().filter(|_| full.books);
        return oldest.map(|(number, _)| (*number, false));
    }
    // Segments differ in size: by what is gained for what is written.
    let dead = |books: &Books| (books.bytes - books.live) * 1_000 / books.bytes.max(1);
    let (number, books) = closed.clone().max_by_key(|(_, books)| dead(books))?;
    match dead(books) >= 500 {
        true => Some((*number, true)),
        false => closed.next().map(|(number, _)| (*number, false)),
    }
}

/// Bytes of the records that a segment ever held.
fn filled(index: &Index, number: u64) -> u64 {
    let books = index.segments().get(&number);
    books.map_or(0, |books| books.filled)
}

#[cfg(test)]
#[path = "reclaim_test.rs"]
mod reclaim_test;
