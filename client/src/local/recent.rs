//! What is remembered by key, of the keys that were used last. Pure.

use std::collections::BTreeMap;

/// At most so many; the one whose last use is longest ago is forgotten first.
#[derive(Debug)]
pub(super) struct Recent<K, V> {
    max: usize,
    uses: u64,
    values: BTreeMap<K, (u64, V)>,
}

impl<K: Ord + Copy, V: Default> Recent<K, V> {
    pub(super) fn new(max: usize) -> Self {
        Self {
            max,
            uses: 0,
            values: BTreeMap::new(),
        }
    }

    /// What is remembered of a key; something new, if nothing is.
    pub(super) fn of(&mut self, key: K) -> &mut V {
        if !self.values.contains_key(&key) && self.values.len() >= self.max {
            let oldest = self.values.iter().min_by_key(|(_, (used, _))| *used);
            if let Some(oldest) = oldest.map(|(key, _)| *key) {
                self.values.remove(&oldest);
            }
        }
        self.uses += 1;
        let (used, value) = self.values.entry(key).or_default();
        *used = self.uses;
        value
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_one_that_was_not_used_for_longest_is_forgotten() {
        let mut recent = Recent::new(2);
        *recent.of(1) = "one";
        *recent.of(2) = "two";
        assert_eq!(*recent.of(1), "one");
        *recent.of(3) = "three";
        assert_eq!((*recent.of(1), *recent.of(3)), ("one", "three"));
        assert_eq!(*recent.of(2), "");
        assert_eq!(recent.values.len(), 2);
    }
}
