//! The table of blocks, with what is counted over it and the set of those that lack copies.
//!
//! Every change goes through [`BlockTable::put`] and [`BlockTable::take`], so that the
//! counts cannot drift. A row without holders is never kept.

use crate::{
    state::{
        row::{Row, Slot},
        shards::CowMap,
    },
    words::{BlockKey, BlockName, NamespaceId},
};

#[derive(Debug, Clone)]
pub(super) struct BlockTable {
    rows: CowMap<Row>,
    /// Names with fewer copies than wanted.
    lacking: CowMap<()>,
    copies: u64,
    bytes: u64,
}

impl BlockTable {
    pub(super) fn new() -> Self {
        Self {
            rows: CowMap::new(),
            lacking: CowMap::new(),
            copies: 0,
            bytes: 0,
        }
    }

    pub(super) fn get(&self, name: &BlockName) -> Option<&Row> {
        self.rows.get(name)
    }

    /// How many keys are present before the first that is not; `each` is given their rows.
    pub(super) fn run(
        &self,
        namespace: NamespaceId,
        keys: impl Iterator<Item = BlockKey>,
        each: impl FnMut(&Row),
    ) -> usize {
        self.rows.run(namespace, keys, each)
    }

    /// Inserts or replaces a row that has holders.
    pub(super) fn put(&mut self, name: BlockName, row: Row) {
        debug_assert!(row.holders.len() > 0);
        self.copies += row.holders.len() as u64;
        self.bytes += u64::from(row.bytes);
        let lacks = row.is_under_replicated();
        let before = self.rows.insert(name, row);
        let lacked = before.as_ref().is_some_and(Row::is_under_replicated);
        self.uncount(before.as_ref());
        if lacks && !lacked {
            self.lacking.insert(name, ());
        } else if lacked && !lacks {
            self.lacking.remove(&name);
        }
    }

    pub(super) fn take(&mut self, name: &BlockName) -> Option<Row> {
        let row = self.rows.remove(name)?;
        self.uncount(Some(&row));
        self.lacking.remove(name);
        Some(row)
    }

    /// Removes a node's copies. Blocks that had no other are removed: their names, in key order.
    pub(super) fn lose(&mut self, slot: Slot) -> Vec<BlockName> {
        let (mut gone, mut lacking) = (Vec::new(), Vec::new());
        let copies = &mut self.copies;
        let held = |row: &Row| row.holders.copy_of(slot).is_some();
        self.rows.change_where(held, |name, row| {
            row.holders.remove(slot);
            *copies -= 1;
            if row.holders.len() == 0 {
                gone.push(name);
            } else if row.is_under_replicated() {
                lacking.push(name);
            }
        });
        for name in lacking {
            self.lacking.insert(name, ());
        }
        for name in &gone {
            self.take(name);
        }
        gone
    }

    /// Whether a node has any copy.
    pub(super) fn any_of(&self, slot: Slot) -> bool {
        let mut rows = self.rows.values();
        rows.any(|row| row.holders.copy_of(slot).is_some())
    }

    fn uncount(&mut self, row: Option<&Row>) {
        if let Some(row) = row {
            self.copies -= row.holders.len() as u64;
            self.bytes -= u64::from(row.bytes);
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (BlockName, &Row)> {
        self.rows.iter()
    }

    /// In key order, from a name on (exclusive).
    pub(super) fn iter_after(
        &self,
        after: Option<BlockName>,
    ) -> impl Iterator<Item = (BlockName, &Row)> {
        self.rows.iter_after(after)
    }

    /// See [`CowMap::let_go`].
    pub(super) fn let_go(&mut self, up_to: &BlockName) {
        self.rows.let_go(up_to);
    }

    /// In key order, from a name on (exclusive).
    pub(super) fn lacking(&self, after: Option<BlockName>) -> impl Iterator<Item = BlockName> {
        self.lacking.iter_after(after).map(|(name, ())| name)
    }

    /// In key order.
    pub(super) fn names_in(
        &self,
        namespace: NamespaceId,
        fits: impl Fn(&Row) -> bool,
    ) -> Vec<BlockName> {
        self.rows.names_in(namespace, fits)
    }

    pub(super) fn len(&self) -> u64 {
        self.rows.len()
    }

    pub(super) fn copies(&self) -> u64 {
        self.copies
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn lacking_len(&self) -> u64 {
        self.lacking.len()
    }

    #[cfg(test)]
    pub(super) fn shard_lens(&self) -> Vec<usize> {
        let mut lens = self.rows.shard_lens();
        lens.extend(self.lacking.shard_lens());
        lens
    }
}
