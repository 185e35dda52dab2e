//! Writes records one after the other, in large pieces, to a segment of its own.
//!
//! Invariants: a segment is sealed before the next one begins; after a failed call its
//! segment takes no more, and what was not durable in it is given up: nobody knows what of it
//! is there.

use std::{io, sync::Arc};

use kvmesh_client::Block;
use tracing::warn;

use super::{
    aligned::Aligned, index::Place, io::Files, record::Header, segment::Segment, shared::Shared,
};
use crate::store::pool::PoolError;

/// Bytes of one write, but for a block that is larger.
pub(super) const WRITE_BYTES_MAX: u64 = 16 << 20;

/// A block that is to be written.
#[derive(Clone)]
pub(super) struct Record {
    pub(super) header: Header,
    pub(super) block: Arc<Block>,
}

/// Why no more was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stopped {
    /// There is no room for another segment.
    NoRoom,
    /// The disk failed.
    Failed,
}

struct Active {
    segment: Segment,
    end: u64,
    /// What comes before it is durable.
    synced: u64,
    /// Records that it has room for in the books.
    left: usize,
}

/// See the module.
pub(super) struct Appender {
    shared: Arc<Shared>,
    active: Option<Active>,
    /// Segments that it leaves to others.
    spare: u64,
}

impl Appender {
    pub(super) fn new(shared: Arc<Shared>, spare: u64) -> Self {
        Self {
            shared,
            active: None,
            spare,
        }
    }

    /// Writes records in order, as many as fit one segment; the places of those that were written
    /// before it stopped. The caller notes them before it asks for more: a segment that is closed
    /// has nothing that is not listed, and so may go.
    pub(super) async fn append(&mut self, records: &[Record]) -> (Vec<Place>, Option<Stopped>) {
        let mut places = Vec::with_capacity(records.len());
        while let Some(next) = records.get(places.len()) {
            if !places.is_empty() && !self.has_room(&next.header) {
                break;
            }
            if let Err(stopped) = self.make_room(&next.header).await {
                return (places, Some(stopped));
            }
            match self.write(&records[places.len()..]).await {
                Ok(written) => places.extend(written),
                Err(stopped) => return (places, Some(stopped)),
            }
        }
        (places, None)
    }

    fn has_room(&self, header: &Header) -> bool {
        let fits = |active: &Active| {
            active.left > 0 && active.end + header.record_bytes() <= active.segment.room()
        };
        self.active.as_ref().is_some_and(fits)
    }

    /// Whether there is a segment to write to, or room for one.
    pub(super) fn has_place(&self) -> bool {
        let segment = self.shared.shape.segment_bytes;
        self.active.is_some() || self.shared.fits(segment, self.spare)
    }

    /// What was written is durable on return.
    pub(super) async fn sync(&mut self) -> Result<(), Stopped> {
        let Some(active) = &self.active else {
            return Ok(());
        };
        let (segment, end) = (active.segment.clone(), active.end);
        if active.synced == end {
            return Ok(());
        }
        let synced = self.shared.writes.run(move || segment.file.sync()).await;
        self.checked(synced)?;
        if let Some(active) = &mut self.active {
            active.synced = end;
        }
        Ok(())
    }

    /// Seals the segment; what was written is durable on return.
    pub(super) async fn close(&mut self) -> Result<(), Stopped> {
        let Some(active) = &self.active else {
            return Ok(());
        };
        let (segment, end) = (active.segment.clone(), active.end);
        let sealed = self.shared.writes.run(move || segment.seal(end)).await;
        self.checked(sealed)?;
        if let Some(active) = self.active.take() {
            let bytes = active.segment.file.bytes();
            let mut state = self.shared.state();
            state.index.close(active.segment.number, end, bytes);
            drop(state);
            self.shared.crowded.notify_one();
            self.shared.room.notify_one();
        }
        Ok(())
    }

    /// A segment that has room for a record.
    async fn make_room(&mut self, header: &Header) -> Result<(), Stopped> {
        if self.has_room(header) {
            return Ok(());
        }
        self.close().await?;
        match self.shared.resume(header.record_bytes(), self.spare) {
            Some((segment, end, more)) => self.resume(segment, end, more).await,
            None => self.begin(header).await,
        }
    }

    /// Goes on in a segment of an earlier start, whose records are durable.
    async fn resume(&mut self, segment: Segment, end: u64, more: u64) -> Result<(), Stopped> {
        let shared = Arc::clone(&self.shared);
        let (number, cut) = (segment.number, segment.file.bytes());
        let copies = shared.state().index.copies_of(number).len();
        let file = Arc::clone(&segment.file);
        let grown = if_space(&shared, more, move |_| file.resize(cut + more)).await;
        let grown = self.checked(grown);
        let mut state = shared.state();
        match grown {
            Ok(Some(())) => {
                self.active = Some(Active {
                    segment,
                    end,
                    synced: end,
                    left: shared.shape.segment_copies().saturating_sub(copies).max(1),
                });
            }
            Ok(None) => {
                state.index.close(number, end, cut);
                state.resumable.insert((end, number));
            }
            // Nobody knows how long it is.
            Err(_) => state.index.close(number, end, cut + more),
        }
        drop(state);
        shared.crowded.notify_one();
        grown?.ok_or(Stopped::NoRoom)
    }

    /// Begins a segment that has room for a record.
    async fn begin(&mut self, header: &Header) -> Result<(), Stopped> {
        let (shared, spare) = (Arc::clone(&self.shared), self.spare);
        let bytes = shared.segment_for(header);
        if !shared.fits(bytes, spare) {
            shared.crowded.notify_one();
            return Err(Stopped::NoRoom);
        }
        let number = {
            let mut state = shared.state();
            state.next += 1;
            state.next
        };
        let made = if_space(&shared, bytes, move |files| files.create(number, bytes)).await;
        let Some(file) = self.checked(made)? else {
            return Err(Stopped::NoRoom);
        };
        let segment = Segment {
            store: shared.store,
            number,
            file,
        };
        let mut state = shared.state();
        state.index.open(number, bytes);
        state.open.insert(number, segment.clone());
        drop(state);
        shared.crowded.notify_one();
        self.active = Some(Active {
            segment,
            end: 0,
            synced: 0,
            left: shared.shape.segment_copies(),
        });
        Ok(())
    }

    /// Writes as many of the records as fit the segment and one write, at least one.
    async fn write(&mut self, records: &[Record]) -> Result<Vec<Place>, Stopped> {
        let Some(active) = &self.active else {
            return Ok(Vec::new());
        };
        let (segment, start) = (active.segment.clone(), active.end);
        let (mut places, mut end) = (Vec::new(), start);
        for record in records {
            let bytes = record.header.record_bytes();
            let too_much = end > start && end + bytes - start > WRITE_BYTES_MAX;
            if places.len() == active.left || too_much || end + bytes > segment.room() {
                break;
            }
            places.push(Place {
                segment: segment.number,
                offset: end,
                bytes,
            });
            end += bytes;
        }
        let records = records[..places.len()].to_vec();
        let written = self.shared.writes.run(move || {
            let raw = assembled(&segment, start, end, &records);
            segment.file.write(&raw, start)
        });
        let written = written.await;
        self.checked(written)?;
        if let Some(active) = &mut self.active {
            active.end = end;
            active.left -= places.len();
        }
        Ok(places)
    }

    /// Gives the segment up when the disk failed.
    fn checked<T>(&mut self, done: Result<T, PoolError<io::Error>>) -> Result<T, Stopped> {
        let error = match done {
            Ok(done) => return Ok(done),
            Err(error) => error,
        };
        warn!(%error, "the disk failed: blocks are not written to it for a while");
        self.shared.broke();
        if let Some(active) = self.active.take() {
            let number = active.segment.number;
            let mut state = self.shared.state();
            for (key, written) in state.index.copies_of(number) {
                if written.place.offset >= active.synced {
                    state.index.remove(&key);
                    state.departed.push(key);
                }
            }
            // Nobody knows what it holds: it keeps its size until the next start.
            let bytes = active.segment.file.bytes();
            state.index.close(number, active.end, bytes);
            drop(state);
            self.shared.crowded.notify_one();
        }
        Err(Stopped::Failed)
    }
}

/// Does what makes files longer by so many bytes. None: the file system is too full for that.
async fn if_space<T: Send + 'static>(
    shared: &Shared,
    bytes: u64,
    work: impl FnOnce(&dyn Files) -> io::Result<T> + Send + 'static,
) -> Result<Option<T>, PoolError<io::Error>> {
    let (files, shape) = (Arc::clone(&shared.files), shared.shape);
    let working = shared.writes.run(move || {
        let space = files.space()?;
        match space.used() + bytes <= shape.stop_bytes(space) {
            true => work(&*files).map(Ok),
            false => Ok(Err(space)),
        }
    });
    match working.await? {
        Ok(done) => Ok(Some(done)),
        Err(space) => {
            let (used, total, stop_percent) = (space.used(), space.total, shape.stop_percent);
            warn!(used, total, stop_percent, "the disk is too full to write");
            shared.shares(space);
            shared.crowded.notify_one();
            Ok(None)
        }
    }
}

/// Records as they are on disk.
fn assembled(segment: &Segment, start: u64, end: u64, records: &[Record]) -> Aligned {
    let mut raw = Aligned::zeroed(end - start);
    let mut at = 0;
    for Record { header, block } in records {
        let offset = start + at as u64;
        header.encode(&segment.spot(offset), &mut raw[at..]);
        let mut from = at + header.bytes() as usize;
        for piece in &block.pieces {
            raw[from..from + piece.len()].copy_from_slice(piece);
            from += piece.len();
        }
        at += header.record_bytes() as usize;
    }
    raw
}
