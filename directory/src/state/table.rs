//! One shard: a hash table in two arrays, made to be cloned.
//!
//! `rows` holds the entries without gaps, in no promised order; `places` holds a
//! row's number for every occupied place of an open-addressed table with linear
//! probing. Cloning is two memory copies, and an entry costs its own size and
//! about 3 bytes. Nothing depends on the order of rows: iteration sorts.

use xxhash_rust::xxh3::xxh3_64;

use crate::words::BlockKey;

/// A place without a row.
const FREE: u16 = u16::MAX;
/// Rows of one table, at most: a row's number fits 16 bits.
pub(super) const ROWS_MAX: usize = FREE as usize;
const PLACES_MIN: usize = 8;

/// A map from keys of one namespace to values.
#[derive(Debug, Clone)]
pub(super) struct Table<V> {
    rows: Vec<(BlockKey, V)>,
    /// A power of two, at least 4/3 of the rows, so that probes end.
    places: Box<[u16]>,
}

impl<V> Table<V> {
    /// From rows with distinct keys.
    pub(super) fn from_rows(rows: Vec<(BlockKey, V)>) -> Self {
        let mut table = Self {
            rows,
            places: Box::default(),
        };
        table.rebuild();
        table
    }

    pub(super) fn into_rows(self) -> Vec<(BlockKey, V)> {
        self.rows
    }

    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }

    pub(super) fn rows(&self) -> &[(BlockKey, V)] {
        &self.rows
    }

    pub(super) fn get(&self, key: &BlockKey) -> Option<&V> {
        self.place_of(key)
            .map(|place| &self.rows[self.places[place] as usize].1)
    }

    /// The value that was there.
    pub(super) fn insert(&mut self, key: BlockKey, value: V) -> Option<V> {
        if let Some(place) = self.place_of(&key) {
            let row = self.places[place] as usize;
            return Some(std::mem::replace(&mut self.rows[row].1, value));
        }
        debug_assert!(self.rows.len() < ROWS_MAX, "shards split long before");
        if self.rows.len() == self.rows.capacity() {
            // Grows by an eighth, not by doubling: most of memory is in rows.
            self.rows.reserve_exact((self.rows.len() / 8).max(4));
        }
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
        let row = self.places[place];
        let last = (self.rows.len() - 1) as u16;
        if row != last {
            let key_of_last = self.rows[last as usize].0;
            if let Some(place_of_last) = self.place_of(&key_of_last) {
                self.places[place_of_last] = row;
            }
        }
        self.vacate(place, row, last);
        Some(self.rows.swap_remove(row as usize).1)
    }

    /// Empties a place and moves later ones of its run up, so that probes find them.
    /// The row `last` is about to be renumbered `row`, and its place says so already.
    fn vacate(&mut self, place: usize, row: u16, last: u16) {
        let mask = self.places.len() - 1;
        let (mut hole, mut next) = (place, (place + 1) & mask);
        while self.places[next] != FREE {
            let numbered = self.places[next];
            let stored = if numbered == row { last } else { numbered };
            let home = self.home(&self.rows[stored as usize].0);
            // Cyclic distances from home: the row may sit in the hole if that is not before its home.
            if (next.wrapping_sub(home) & mask) >= (next.wrapping_sub(hole) & mask) {
                self.places[hole] = numbered;
                hole = next;
            }
            next = (next + 1) & mask;
        }
        self.places[hole] = FREE;
    }

    fn home(&self, key: &BlockKey) -> usize {
        xxh3_64(&canonical(key)) as usize & (self.places.len() - 1)
    }

    fn place_of(&self, key: &BlockKey) -> Option<usize> {
        let mask = self.places.len() - 1;
        let mut place = self.home(key);
        loop {
            match self.places[place] {
                FREE => return None,
                row if self.rows[row as usize].0 == *key => return Some(place),
                _ => place = (place + 1) & mask,
            }
        }
    }

    /// Finds a free place for a row that has none.
    fn occupy(&mut self, row: usize) {
        let mask = self.places.len() - 1;
        let mut place = self.home(&self.rows[row].0);
        while self.places[place] != FREE {
            place = (place + 1) & mask;
        }
        self.places[place] = row as u16;
    }

    fn rebuild(&mut self) {
        let places = (self.rows.len() * 3 / 2)
            .max(PLACES_MIN)
            .next_power_of_two();
        self.places = vec![FREE; places].into_boxed_slice();
        (0..self.rows.len()).for_each(|row| self.occupy(row));
    }
}

/// 36 bytes: hash, shard, group (big endian).
fn canonical(key: &BlockKey) -> [u8; 36] {
    let mut raw = [0; 36];
    raw[..32].copy_from_slice(&key.hash.0);
    raw[32..34].copy_from_slice(&key.part.shard.to_be_bytes());
    raw[34..].copy_from_slice(&key.part.group.to_be_bytes());
    raw
}
