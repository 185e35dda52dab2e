//! An array in chunks of one size, made to be cloned and to grow without moving.
//!
//! A chunk is one allocation whatever the array's length: growing copies nothing, leaves no
//! holes of odd sizes behind, and wastes half a chunk on average. Cloning copies pointers; a
//! write after that copies the one chunk that it touches. Reading an item takes two steps
//! through memory: its chunk's pointer, which lies in the array itself, and the item. A chunk
//! has no length of its own, which would be a third step: what lies behind the array's length
//! is copies of items.

use std::sync::Arc;

use arrayvec::ArrayVec;

/// Items of one chunk. With blocks, 96 bytes each, a chunk fills an allocation of 8 KiB, which
/// is a size that allocators hand out without rounding up.
pub(super) const CHUNK_ITEMS: usize = 85;
/// Chunks of one array, at most.
const CHUNKS_MAX: usize = 13;
/// Items of one array, at most.
pub(super) const ITEMS_MAX: usize = CHUNKS_MAX * CHUNK_ITEMS;

type Chunk<T> = Arc<[T; CHUNK_ITEMS]>;

/// See the module.
#[derive(Debug, Clone)]
pub(super) struct Chunks<T> {
    /// As many as the items need.
    chunks: ArrayVec<Chunk<T>, CHUNKS_MAX>,
    len: usize,
}

impl<T> Chunks<T> {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// The item at an index below the length.
    pub(super) fn get(&self, index: usize) -> &T {
        &self.chunks[index / CHUNK_ITEMS][index % CHUNK_ITEMS]
    }

    /// In the order of their indexes.
    pub(super) fn iter(&self) -> impl Iterator<Item = &T> {
        let items = self.chunks.iter().flat_map(|chunk| chunk.iter());
        items.take(self.len)
    }
}

impl<T: Clone> Chunks<T> {
    /// The item at an index below the length.
    pub(super) fn get_mut(&mut self, index: usize) -> &mut T {
        &mut Arc::make_mut(&mut self.chunks[index / CHUNK_ITEMS])[index % CHUNK_ITEMS]
    }

    /// Those that fit; copies only chunks that have any.
    pub(super) fn iter_mut_where(&mut self, fits: impl Fn(&T) -> bool) -> Vec<&mut T> {
        let len = self.len;
        let chunks = self.chunks.iter_mut().enumerate();
        let filled = chunks.map(|(at, chunk)| (chunk, (len - at * CHUNK_ITEMS).min(CHUNK_ITEMS)));
        let with_any = filled.filter(|(chunk, filled)| chunk[..*filled].iter().any(&fits));
        let items = with_any.flat_map(|(chunk, filled)| Arc::make_mut(chunk)[..filled].iter_mut());
        items.filter(|item| fits(item)).collect()
    }

    /// Adds an item; there are fewer than [`ITEMS_MAX`].
    pub(super) fn push(&mut self, item: T) {
        let at = self.len;
        self.len += 1;
        match at / CHUNK_ITEMS < self.chunks.len() {
            true => *self.get_mut(at) = item,
            false => self
                .chunks
                .push(Arc::new([(); CHUNK_ITEMS].map(|()| item.clone()))),
        }
    }

    /// Removes an item; the last one takes its place.
    pub(super) fn swap_remove(&mut self, index: usize) -> Option<T> {
        let last = self.len.checked_sub(1)?;
        let item = self.get(last).clone();
        let removed = match index == last {
            true => item,
            false => std::mem::replace(self.get_mut(index), item),
        };
        self.len = last;
        self.chunks.truncate(last.div_ceil(CHUNK_ITEMS));
        Some(removed)
    }
}

impl<T: Clone> FromIterator<T> for Chunks<T> {
    fn from_iter<I: IntoIterator<Item = T>>(items: I) -> Self {
        let mut chunks = Self {
            chunks: ArrayVec::new(),
            len: 0,
        };
        for item in items {
            chunks.push(item);
        }
        chunks
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEN: u64 = 3 * CHUNK_ITEMS as u64 + 5;

    fn filled(items: u64) -> Chunks<u64> {
        (0..items).collect()
    }

    fn shared(a: &Chunks<u64>, b: &Chunks<u64>) -> usize {
        let pairs = a.chunks.iter().zip(&b.chunks);
        pairs.filter(|(a, b)| Arc::ptr_eq(a, b)).count()
    }

    #[test]
    fn removing_puts_the_last_item_into_the_gap() {
        let mut chunks = filled(LEN);
        let mut model: Vec<u64> = (0..LEN).collect();
        while let Some(last) = model.len().checked_sub(1) {
            let index = [0, last, last / 2][last % 3];
            assert_eq!(chunks.swap_remove(index), Some(model.swap_remove(index)));
            assert_eq!(chunks.len(), model.len());
            assert!(chunks.iter().eq(&model));
        }
        assert_eq!(chunks.swap_remove(0), None);
    }

    #[test]
    fn a_write_after_a_clone_copies_one_chunk() {
        let before = filled(LEN);
        let mut after = before.clone();
        *after.get_mut(3) = 99;
        assert_eq!((*before.get(3), *after.get(3)), (3, 99));
        assert_eq!(shared(&before, &after), 3);
        after.push(LEN);
        assert_eq!((before.len() as u64, after.len() as u64), (LEN, LEN + 1));
        assert_eq!(shared(&before, &after), 2);
    }

    #[test]
    fn only_chunks_with_a_fitting_item_are_copied() {
        let before = filled(LEN);
        let mut after = before.clone();
        for item in after.iter_mut_where(|item| *item == LEN - 1) {
            *item = 0;
        }
        assert_eq!(shared(&before, &after), 3);
        assert_eq!(*after.get(LEN as usize - 1), 0);
    }

    #[test]
    fn a_chunk_of_blocks_fills_its_allocation() {
        use crate::state::row::Row;
        type Item = (crate::words::BlockKey, Row);
        // Arc's two counts come before it.
        let bytes = 2 * size_of::<usize>() + size_of::<[Item; CHUNK_ITEMS]>();
        assert!((8_000..=8_192).contains(&bytes), "{bytes}");
    }
}
