//! Which parts of an arena are taken. Pure.
//!
//! The arena is cut into chunks of [`PIECE_BYTES`], these into granules of [`GRANULE_BYTES`].
//! A piece takes neighbouring granules of one chunk, so a whole piece takes a whole chunk, and
//! less than one granule of a piece is waste. Of the chunks that have room, the one with the
//! least is used, and of these the lowest: large pieces keep finding whole chunks, and what
//! was never used stays untouched.
//!
//! A chunk that was used and is free again keeps its pages, unless more would be kept than
//! `resident_max`: then [`Granules::spare`] names one whose pages are to go.
//!
//! Invariants: no granule is given out twice; `by_room` lists every chunk by its longest
//! free run; `idle` lists the chunks that are free and were used since their pages last went.

use std::collections::BTreeSet;

use kvmesh_directory::limits::PIECE_BYTES;

/// The smallest part that is given out: a page.
pub(crate) const GRANULE_BYTES: usize = 4_096;
const PER_CHUNK: usize = PIECE_BYTES / GRANULE_BYTES;
const WORD: usize = u64::BITS as usize;
const _: () = assert!(PER_CHUNK.is_multiple_of(WORD) && PIECE_BYTES.is_multiple_of(GRANULE_BYTES));

/// One bit a granule: whether it is taken.
type Bits = [u64; PER_CHUNK / WORD];

/// See the module.
#[derive(Debug)]
pub(super) struct Granules {
    chunks: Vec<Bits>,
    /// Longest free run of a chunk, and the chunk.
    by_room: BTreeSet<(usize, usize)>,
    taken: usize,
    /// Granules before this one were given out at some time.
    high_water: usize,
    idle: BTreeSet<usize>,
    /// Chunks of which a part is taken.
    busy: usize,
    /// Chunks, busy and idle, that may keep their pages.
    resident_max: usize,
}

impl Granules {
    /// All free.
    pub(super) fn new(chunks: usize) -> Self {
        Self {
            chunks: vec![Bits::default(); chunks],
            by_room: (0..chunks).map(|chunk| (PER_CHUNK, chunk)).collect(),
            taken: 0,
            high_water: 0,
            idle: BTreeSet::new(),
            busy: 0,
            resident_max: usize::MAX,
        }
    }

    /// So many chunks may keep their pages, as far as they are not in use.
    pub(super) fn keep_resident(&mut self, chunks: usize) {
        self.resident_max = chunks;
    }

    /// A free chunk whose pages are to go; the caller lets them go before anybody takes it.
    pub(super) fn spare(&mut self) -> Option<usize> {
        let over = self.busy + self.idle.len() > self.resident_max;
        over.then(|| self.idle.pop_last()).flatten()
    }

    /// Takes `count` neighbours of one chunk; the first of them. None: no chunk has so many.
    pub(super) fn take(&mut self, count: usize) -> Option<usize> {
        let (room, chunk) = *self.by_room.range((count.max(1), 0)..).next()?;
        let start = runs(&self.chunks[chunk])
            .find(|(_, len)| *len >= count)
            .map(|(start, _)| start)?;
        self.mark(chunk, start, count, true, room);
        self.taken += count;
        let first = chunk * PER_CHUNK + start;
        self.high_water = self.high_water.max(first + count);
        Some(first)
    }

    /// Gives back what was taken.
    pub(super) fn give(&mut self, first: usize, count: usize) {
        let (chunk, start) = (first / PER_CHUNK, first % PER_CHUNK);
        let room = longest(&self.chunks[chunk]);
        self.mark(chunk, start, count, false, room);
        self.taken -= count;
    }

    fn mark(&mut self, chunk: usize, start: usize, count: usize, taken: bool, room: usize) {
        let bits = &mut self.chunks[chunk];
        for granule in start..start + count {
            let (word, bit) = (granule / WORD, 1 << (granule % WORD));
            debug_assert_eq!(
                bits[word] & bit == 0,
                taken,
                "given out once, given back once"
            );
            match taken {
                true => bits[word] |= bit,
                false => bits[word] &= !bit,
            }
        }
        let now = longest(bits);
        if now != room {
            self.by_room.remove(&(room, chunk));
            self.by_room.insert((now, chunk));
        }
        if room == PER_CHUNK && now < PER_CHUNK {
            self.idle.remove(&chunk);
            self.busy += 1;
        } else if room < PER_CHUNK && now == PER_CHUNK {
            self.idle.insert(chunk);
            self.busy -= 1;
        }
    }

    /// Granules that are taken.
    pub(super) fn taken(&self) -> usize {
        self.taken
    }

    /// See the field.
    pub(super) fn high_water(&self) -> usize {
        self.high_water
    }

    /// Free granules in chunks of which others are taken: room that whole pieces do not find.
    pub(super) fn scattered(&self) -> usize {
        let whole = self.by_room.range((PER_CHUNK, 0)..).count();
        (self.chunks.len() - whole) * PER_CHUNK - self.taken
    }
}

/// The free runs of a chunk: start and length.
fn runs(bits: &Bits) -> impl Iterator<Item = (usize, usize)> {
    let mut from = 0;
    std::iter::from_fn(move || {
        let start = next(bits, from, false)?;
        let end = next(bits, start, true).unwrap_or(PER_CHUNK);
        from = end;
        Some((start, end - start))
    })
}

fn longest(bits: &Bits) -> usize {
    runs(bits).map(|(_, len)| len).max().unwrap_or(0)
}

/// The first granule from `from` on that is taken, or is not.
fn next(bits: &Bits, from: usize, taken: bool) -> Option<usize> {
    let mut granule = from;
    while granule < PER_CHUNK {
        let word = match taken {
            true => bits[granule / WORD],
            false => !bits[granule / WORD],
        };
        let ahead = word >> (granule % WORD);
        if ahead != 0 {
            return Some(granule + ahead.trailing_zeros() as usize);
        }
        granule = (granule / WORD + 1) * WORD;
    }
    None
}

#[cfg(test)]
#[path = "granules_test.rs"]
mod granules_test;
