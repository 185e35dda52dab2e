//! One shard: a hash table over rows in chunks, made to be cloned.
//!
//! `rows` holds the entries without gaps, in no promised order. `places` is an
//! open-addressed table with linear probing: an occupied place has a row's number and,
//! in its upper bits, 4 bits of the key's hash, which spare most looks at wrong rows.
//! Cloning copies the places and one pointer a chunk; an entry costs its own size and
//! about 5 bytes. Nothing depends on the order of rows: iteration sorts.

use arrayvec::ArrayVec;
use twox_hash::XxHash3_64;

use crate::{
    state::chunks::{Chunks, ITEMS_MAX},
    words::BlockKey,
};

const ROW_BITS: u32 = 12;
const ROW_MASK: u16 = (1 << ROW_BITS) - 1;
/// Rows of one table, at most.
pub(super) const ROWS_MAX: usize = ITEMS_MAX;
// The last number is not used, so that no place looks free.
const _: () = assert!(ROWS_MAX <= ROW_MASK as usize);
/// A place without a row.
const FREE: u16 = u16::MAX;
const PLACES_MIN: usize = 8;

/// Keys of a run that are looked up together.
const RUN_BATCH: usize = 32;

type Batch<T> = ArrayVec<T, RUN_BATCH>;

/// A map from keys of one namespace to values.
#[derive(Debug, Clone)]
pub(super) struct Table<V> {
    rows: Chunks<(BlockKey, V)>,
    /// A power of two, at least 4/3 of the rows, so that probes end.
    places: Box<[u16]>,
}

impl<V: Clone> Table<V> {
    /// From rows with distinct keys.
    pub(super) fn from_rows(rows: Vec<(BlockKey, V)>) -> Self {
        let mut table = Self {
            rows: rows.into_iter().collect(),
            places: Box::default(),
        };
        table.rebuild();
        table
    }

    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }

    pub(super) fn rows(&self) -> impl Iterator<Item = &(BlockKey, V)> {
        self.rows.iter()
    }

    pub(super) fn get(&self, key: &BlockKey) -> Option<&V> {
        self.place_of(key)
            .map(|place| &self.rows.get(self.row_at(place)).1)
    }

    /// The first row whose place looks like that of a key with this hash; nearly always its own.
    /// `found` is what the first place has. No row is read.
    fn likely(&self, mut found: u16, hash: u64) -> Option<&(BlockKey, V)> {
        let (mask, upper) = (self.places.len() - 1, upper(hash));
        let mut place = hash as usize & mask;
        while found != FREE {
            if found & !ROW_MASK == upper {
                return Some(self.rows.get(usize::from(found & ROW_MASK)));
            }
            place = (place + 1) & mask;
            found = self.places[place];
        }
        None
    }

    /// The value that was there.
    pub(super) fn insert(&mut self, key: BlockKey, value: V) -> Option<V> {
        if let Some(place) = self.place_of(&key) {
            let row = self.row_at(place);
            return Some(std::mem::replace(&mut self.rows.get_mut(row).1, value));
        }
        debug_assert!(self.rows.len() < ROWS_MAX, "shards split before");
        self.rows.push((key, value));
        if self.rows.len() * 4 > self.places.len() * 3 {
            self.rebuild();
        } else {
            self.occupy(self.rows.len() - 1);
        }
        None
    }

    pub(super) fn remove(&mut self, key: &BlockKey) -> Option<V> {
        let place = self.place_of(key)?;
        let row = self.row_at(place);
        let last = self.rows.len() - 1;
        self.vacate(place);
        // The last row moves into the gap.
        if let Some(place_of_last) = self.place_of(&self.rows.get(last).0) {
            self.places[place_of_last] = self.places[place_of_last] & !ROW_MASK | row as u16;
        }
        self.rows.swap_remove(row).map(|(_, value)| value)
    }

    /// Empties a place and moves later ones of its run up, so that probes find them.
    fn vacate(&mut self, place: usize) {
        let mask = self.places.len() - 1;
        let (mut hole, mut next) = (place, (place + 1) & mask);
        while self.places[next] != FREE {
            let home = hash(&self.rows.get(self.row_at(next)).0) as usize & mask;
            // Cyclic distances: what sits at `next` may move unless its home is after the hole.
            if (next.wrapping_sub(home) & mask) >= (next.wrapping_sub(hole) & mask) {
                self.places[hole] = self.places[next];
                hole = next;
            }
            next = (next + 1) & mask;
        }
        self.places[hole] = FREE;
    }

    /// Changes values that fit, in key order.
    pub(super) fn change_where(
        &mut self,
        fits: impl Fn(&V) -> bool,
        change: &mut impl FnMut(&BlockKey, &mut V),
    ) {
        let mut fitting = self.rows.iter_mut_where(|(_, value)| fits(value));
        fitting.sort_unstable_by_key(|(key, _)| *key);
        for (key, value) in fitting {
            change(key, value);
        }
    }

    fn row_at(&self, place: usize) -> usize {
        usize::from(self.places[place] & ROW_MASK)
    }

    fn place_of(&self, key: &BlockKey) -> Option<usize> {
        let mask = self.places.len() - 1;
        let hash = hash(key);
        let upper = upper(hash);
        let mut place = hash as usize & mask;
        loop {
            let found = self.places[place];
            if found == FREE {
                return None;
            }
            if found & !ROW_MASK == upper && self.rows.get(usize::from(found & ROW_MASK)).0 == *key
            {
                return Some(place);
            }
            place = (place + 1) & mask;
        }
    }

    /// Finds a free place for a row that has none.
    fn occupy(&mut self, row: usize) {
        let mask = self.places.len() - 1;
        let hash = hash(&self.rows.get(row).0);
        let mut place = hash as usize & mask;
        while self.places[place] != FREE {
            place = (place + 1) & mask;
        }
        self.places[place] = upper(hash) | row as u16;
    }

    fn rebuild(&mut self) {
        let places = (self.rows.len() * 3 / 2)
            .max(PLACES_MIN)
            .next_power_of_two();
        self.places = vec![FREE; places].into_boxed_slice();
        (0..self.rows.len()).for_each(|row| self.occupy(row));
    }
}

/// How many keys are present before the first that is not; `shard_of` says where each would be,
/// `each` is given what they have, in order.
///
/// Each step of a lookup goes through memory that no cache has when there are millions of rows.
/// So many keys take a step before any takes the next one: reads that do not wait for one
/// another are what makes a long run fast.
pub(super) fn run<'a, V: Clone + 'a>(
    mut keys: impl Iterator<Item = BlockKey>,
    shard_of: impl Fn(&BlockKey) -> Option<&'a Table<V>>,
    mut each: impl FnMut(&V),
) -> usize {
    let mut present = 0;
    loop {
        let keys: Batch<BlockKey> = keys.by_ref().take(RUN_BATCH).collect();
        let shards: Batch<&Table<V>> = keys.iter().map_while(&shard_of).collect();
        let hashes: Batch<u64> = keys.iter().map(hash).collect();
        let tried = || shards.iter().zip(&hashes);
        let found: Batch<u16> = tried()
            .map(|(shard, hash)| shard.places[*hash as usize & (shard.places.len() - 1)])
            .collect();
        let rows: Batch<Option<&(BlockKey, V)>> = tried()
            .zip(found)
            .map(|((shard, hash), found)| shard.likely(found, *hash))
            .collect();
        let same: Batch<Option<&V>> = rows
            .into_iter()
            .zip(&keys)
            .map(|(row, key)| row.filter(|row| row.0 == *key).map(|row| &row.1))
            .collect();
        for ((same, shard), key) in same.into_iter().zip(&shards).zip(&keys) {
            let Some(value) = same.or_else(|| shard.get(key)) else {
                return present;
            };
            each(value);
            present += 1;
        }
        if shards.len() < RUN_BATCH {
            return present;
        }
    }
}

/// The bits of a hash that a place keeps; the lower ones say where it is.
fn upper(hash: u64) -> u16 {
    (hash >> 48) as u16 & !ROW_MASK
}

/// Over 36 bytes: hash, shard, group (big endian).
fn hash(key: &BlockKey) -> u64 {
    let mut raw = [0; 36];
    raw[..32].copy_from_slice(&key.hash.0);
    raw[32..34].copy_from_slice(&key.part.shard.to_be_bytes());
    raw[34..].copy_from_slice(&key.part.group.to_be_bytes());
    XxHash3_64::oneshot(&raw)
}
