//! Deleted names. Bounded: over the bound the oldest are forgotten, and the floor rises.
//!
//! There is no index by age: that would cost more memory than the tombstones do.
//! Instead, whoever is over the bound drops a sixteenth at once, for one pass over the table.

use crate::{
    limits::TOMBSTONES_MAX,
    state::{
        model::{Tombstone, TombstoneFloor},
        shards::CowMap,
    },
    words::{BlockName, Hlc},
};

#[derive(Debug, Clone)]
pub(super) struct Tombstones {
    names: CowMap<Tombstone>,
    floor: TombstoneFloor,
    max: u64,
}

impl Tombstones {
    pub(super) fn new(floor: TombstoneFloor) -> Self {
        Self::with_max(floor, TOMBSTONES_MAX as u64)
    }

    pub(super) fn with_max(floor: TombstoneFloor, max: u64) -> Self {
        Self {
            names: CowMap::new(),
            floor,
            max,
        }
    }

    pub(super) fn get(&self, name: &BlockName) -> Option<Tombstone> {
        self.names.get(name).copied()
    }

    pub(super) fn len(&self) -> u64 {
        self.names.len()
    }

    pub(super) fn floor(&self) -> TombstoneFloor {
        self.floor
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (BlockName, Tombstone)> {
        self.iter_after(None)
    }

    /// In key order, from a name on (exclusive).
    pub(super) fn iter_after(
        &self,
        after: Option<BlockName>,
    ) -> impl Iterator<Item = (BlockName, Tombstone)> {
        self.names
            .iter_after(after)
            .map(|(name, tombstone)| (name, *tombstone))
    }

    /// Puts back what a snapshot has.
    pub(super) fn restore(&mut self, name: BlockName, tombstone: Tombstone) {
        self.names.insert(name, tombstone);
    }

    /// Whether the name is deleted further than before. May leave the table over its bound.
    pub(super) fn raise(&mut self, name: BlockName, hlc: Hlc, index: u64) -> bool {
        let newer = self.names.get(&name).is_none_or(|known| known.hlc < hlc);
        if newer {
            self.names.insert(name, Tombstone { hlc, index });
        }
        newer
    }

    /// Back under the bound: forgets the oldest by (clock, name).
    pub(super) fn trim(&mut self) {
        if self.names.len() <= self.max {
            return;
        }
        let keep = self.max - self.max / 16;
        let forget = (self.names.len() - keep) as usize;
        let mut clocks: Vec<Hlc> = self.names.values().map(|tombstone| tombstone.hlc).collect();
        let (_, &mut newest, _) = clocks.select_nth_unstable(forget - 1);
        self.forget(self.names.names_where(|tombstone| tombstone.hlc < newest));
        let left = (self.names.len() - keep) as usize;
        let mut ties = self.names.names_where(|tombstone| tombstone.hlc == newest);
        ties.truncate(left);
        self.forget(ties);
    }

    /// Forgets those of a clock and older.
    pub(super) fn drop_up_to(&mut self, hlc: Hlc) {
        self.forget(self.names.names_where(|tombstone| tombstone.hlc <= hlc));
    }

    fn forget(&mut self, names: Vec<BlockName>) {
        for tombstone in names.iter().filter_map(|name| self.names.remove(name)) {
            self.floor.index = self.floor.index.max(tombstone.index);
            self.floor.hlc = self.floor.hlc.max(tombstone.hlc);
        }
    }
}
