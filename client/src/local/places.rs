//! Which places of staging hold pieces that the node has not taken yet. Pure.
//!
//! The lowest place that is large enough is used: its pages were touched before, if any were.

use std::collections::BTreeMap;

use kvmesh_directory::limits::LOCAL_PIECES_MAX;

/// Places begin at pages.
const PAGE_BYTES: u64 = 4_096;

/// See the module.
#[derive(Debug)]
pub(super) struct Places {
    bytes: u64,
    /// Ends by beginnings.
    used: BTreeMap<u64, u64>,
}

impl Places {
    pub(super) fn of(bytes: u64) -> Self {
        let used = BTreeMap::new();
        Self { bytes, used }
    }

    /// A place for so many bytes. None: there is none now.
    pub(super) fn take(&mut self, bytes: usize) -> Option<u64> {
        let bytes = (bytes as u64).next_multiple_of(PAGE_BYTES);
        let mut from = 0;
        for (at, end) in &self.used {
            if at - from >= bytes {
                break;
            }
            from = *end;
        }
        if from + bytes > self.bytes || self.used.len() >= LOCAL_PIECES_MAX {
            return None;
        }
        self.used.insert(from, from + bytes);
        Some(from)
    }

    /// A place can be used again. False: it was not in use.
    pub(super) fn give(&mut self, at: u64) -> bool {
        self.used.remove(&at).is_some()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.used.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_do_not_overlap_and_the_lowest_is_used_again() {
        let mut places = Places::of(5 * PAGE_BYTES);
        assert_eq!(places.take(5_000), Some(0));
        assert_eq!(places.take(1), Some(2 * PAGE_BYTES));
        assert_eq!(places.take(8_192), Some(3 * PAGE_BYTES));
        assert_eq!(places.take(1), None);
        assert!(places.give(0) && !places.give(0) && !places.give(1));
        assert_eq!(places.take(8_193), None);
        assert_eq!(places.take(4_096), Some(0));
        assert_eq!(places.take(4_096), Some(PAGE_BYTES));
        assert!(places.give(0) && places.give(PAGE_BYTES));
        assert!(places.give(2 * PAGE_BYTES) && !places.is_empty());
        assert!(places.give(3 * PAGE_BYTES) && places.is_empty());
    }

    #[test]
    fn no_more_pieces_wait_than_the_node_allows() {
        let mut places = Places::of(u64::MAX / 2);
        for _ in 0..LOCAL_PIECES_MAX {
            assert!(places.take(1).is_some());
        }
        assert_eq!(places.take(1), None);
    }
}
