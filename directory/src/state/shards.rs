//! A map from block names to values that is cheap to freeze.
//!
//! Shards are key ranges inside of one namespace, none over `MAX` entries. Cloning the
//! map copies one pointer; a write then copies the one shard that it touches, and the
//! pointers to the others. Iteration is in key order and sorts one shard at a time.

use std::{collections::BTreeMap, sync::Arc};

use crate::{
    limits::SHARD_ENTRIES_MAX,
    state::table::{self, ROWS_MAX, Table},
    words::{BlockKey, BlockName, NamespaceId},
};

/// Entries at which a shard splits. Under the limit, since each of the 256 changes of a
/// log entry may have to copy a shard of its own after a freeze.
const SPLIT_AT: usize = 1_024;
/// Shards that are let go together: fewer would move the lists of the others too often.
const LET_GO: usize = if cfg!(test) { 2 } else { 64 };
const _: () = assert!(SPLIT_AT <= SHARD_ENTRIES_MAX && SPLIT_AT <= ROWS_MAX);

/// See the module.
#[derive(Debug, Clone)]
pub(super) struct CowMap<V, const MAX: usize = SPLIT_AT> {
    spaces: Arc<BTreeMap<NamespaceId, Arc<Space<V>>>>,
    len: u64,
}

/// The shards of one namespace, ascending; none is empty.
#[derive(Debug, Clone)]
struct Space<V> {
    /// Lower bounds of the shards; the first shard also has whatever is below its own.
    starts: Vec<BlockKey>,
    /// The first 8 bytes of `starts`, which decide nearly every search.
    heads: Vec<u64>,
    shards: Vec<Arc<Table<V>>>,
}

impl<V> Default for Space<V> {
    fn default() -> Self {
        Self {
            starts: Vec::new(),
            heads: Vec::new(),
            shards: Vec::new(),
        }
    }
}

impl<V: Clone> Space<V> {
    /// The shard that has a key if any has; none when there are no shards.
    fn shard_of(&self, key: &BlockKey) -> Option<usize> {
        let wanted = head(key);
        let mut after = self.heads.partition_point(|head| *head <= wanted);
        if after > 0 && self.heads[after - 1] == wanted {
            let first = self.heads.partition_point(|head| *head < wanted);
            after = first + self.starts[first..after].partition_point(|start| start <= key);
        }
        (!self.shards.is_empty()).then(|| after.saturating_sub(1))
    }

    fn get(&self, key: &BlockKey) -> Option<&V> {
        self.shards[self.shard_of(key)?].get(key)
    }

    fn drop_shard(&mut self, at: usize) -> Arc<Table<V>> {
        self.starts.remove(at);
        self.heads.remove(at);
        self.shards.remove(at)
    }

    fn add_shard(&mut self, at: usize, start: BlockKey, shard: Table<V>) {
        self.starts.insert(at, start);
        self.heads.insert(at, head(&start));
        self.shards.insert(at, Arc::new(shard));
    }
}

impl<V: Clone> Space<V> {
    fn insert<const MAX: usize>(&mut self, key: BlockKey, value: V) -> Option<V> {
        let Some(mut at) = self.shard_of(&key) else {
            self.add_shard(0, key, Table::from_rows(vec![(key, value)]));
            return None;
        };
        if self.shards[at].len() >= MAX && self.shards[at].get(&key).is_none() {
            self.split(at);
            at += usize::from(self.starts[at + 1] <= key);
        }
        Arc::make_mut(&mut self.shards[at]).insert(key, value)
    }

    /// At the median key.
    fn split(&mut self, at: usize) {
        let mut lower: Vec<_> = self.shards[at].rows().cloned().collect();
        lower.sort_unstable_by_key(|(key, _)| *key);
        let upper = lower.split_off(lower.len() / 2);
        let start = upper[0].0;
        self.shards[at] = Arc::new(Table::from_rows(lower));
        self.add_shard(at + 1, start, Table::from_rows(upper));
    }

    fn remove<const MAX: usize>(&mut self, key: &BlockKey) -> Option<V> {
        let at = self.shard_of(key)?;
        let removed = Arc::make_mut(&mut self.shards[at]).remove(key)?;
        let len = self.shards[at].len();
        if len == 0 {
            self.drop_shard(at);
        } else if len < MAX / 4 {
            self.merge::<MAX>(at);
        }
        Some(removed)
    }

    /// Joins a shard with a neighbour if both together are at most half full.
    fn merge<const MAX: usize>(&mut self, at: usize) {
        let fits = |left: usize| {
            left + 1 < self.shards.len()
                && self.shards[left].len() + self.shards[left + 1].len() <= MAX / 2
        };
        let Some(left) = [Some(at), at.checked_sub(1)]
            .into_iter()
            .flatten()
            .find(|left| fits(*left))
        else {
            return;
        };
        let right = self.drop_shard(left + 1);
        let left = Arc::make_mut(&mut self.shards[left]);
        for (key, value) in right.rows().cloned() {
            left.insert(key, value);
        }
    }
}

fn head(key: &BlockKey) -> u64 {
    let mut first = [0; 8];
    first.copy_from_slice(&key.hash.0[..8]);
    u64::from_be_bytes(first)
}

impl<V: Clone, const MAX: usize> CowMap<V, MAX> {
    pub(super) fn new() -> Self {
        Self {
            spaces: Arc::new(BTreeMap::new()),
            len: 0,
        }
    }

    pub(super) fn len(&self) -> u64 {
        self.len
    }

    pub(super) fn get(&self, name: &BlockName) -> Option<&V> {
        self.spaces.get(&name.namespace)?.get(&name.key())
    }

    /// How many keys of one namespace are present before the first that is not; `each` is given
    /// what they have.
    pub(super) fn run(
        &self,
        namespace: NamespaceId,
        keys: impl Iterator<Item = BlockKey>,
        each: impl FnMut(&V),
    ) -> usize {
        let Some(space) = self.spaces.get(&namespace) else {
            return 0;
        };
        let shard_of = |key: &BlockKey| Some(&*space.shards[space.shard_of(key)?]);
        table::run(keys, shard_of, each)
    }

    /// In key order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (BlockName, &V)> {
        self.iter_after(None)
    }

    /// In key order, from a name on (exclusive).
    pub(super) fn iter_after(
        &self,
        after: Option<BlockName>,
    ) -> impl Iterator<Item = (BlockName, &V)> {
        let lowest = after.map_or(NamespaceId([0; 16]), |name| name.namespace);
        self.spaces
            .range(lowest..)
            .flat_map(move |(namespace, space)| {
                let after = after.filter(|name| name.namespace == *namespace);
                let after = after.map(|name| name.key());
                let first = after.and_then(|key| space.shard_of(&key)).unwrap_or(0);
                space.shards[first..].iter().flat_map(move |shard| {
                    let mut rows: Vec<_> = shard.rows().collect();
                    rows.retain(|(key, _)| after.is_none_or(|after| *key > after));
                    rows.sort_unstable_by_key(|(key, _)| *key);
                    rows.into_iter()
                        .map(|(key, value)| (BlockName::new(*namespace, *key), value))
                })
            })
    }

    /// Lets shards go that have nothing behind a name. Only [`Self::iter_after`], from that name
    /// on, is as it was.
    pub(super) fn let_go(&mut self, up_to: &BlockName) {
        let spaces = Arc::make_mut(&mut self.spaces);
        if spaces
            .first_key_value()
            .is_some_and(|(first, _)| *first < up_to.namespace)
        {
            *spaces = spaces.split_off(&up_to.namespace);
        }
        let Some(space) = spaces.get_mut(&up_to.namespace) else {
            return;
        };
        let gone = space.shard_of(&up_to.key()).unwrap_or(0);
        if gone >= LET_GO {
            let space = Arc::make_mut(space);
            space.starts.drain(..gone);
            space.heads.drain(..gone);
            space.shards.drain(..gone);
        }
    }

    /// Names whose value fits, in key order.
    pub(super) fn names_where(&self, fits: impl Fn(&V) -> bool) -> Vec<BlockName> {
        self.spaces
            .keys()
            .flat_map(|namespace| self.names_in(*namespace, &fits))
            .collect()
    }

    /// Names of one namespace whose value fits, in key order.
    pub(super) fn names_in(
        &self,
        namespace: NamespaceId,
        fits: impl Fn(&V) -> bool,
    ) -> Vec<BlockName> {
        let mut names = Vec::new();
        for shard in self
            .spaces
            .get(&namespace)
            .iter()
            .flat_map(|space| &space.shards)
        {
            let fitting = shard.rows().filter(|(_, value)| fits(value));
            let first = names.len();
            names.extend(fitting.map(|(key, _)| BlockName::new(namespace, *key)));
            names[first..].sort_unstable();
        }
        names
    }

    /// Values in no promised order: for sums only.
    pub(super) fn values(&self) -> impl Iterator<Item = &V> {
        let shards = self.spaces.values().flat_map(|space| &space.shards);
        shards.flat_map(|shard| shard.rows().map(|(_, value)| value))
    }

    #[cfg(test)]
    pub(super) fn shard_lens(&self) -> Vec<usize> {
        let shards = self.spaces.values().flat_map(|space| &space.shards);
        shards.map(|shard| shard.len()).collect()
    }
}

impl<V: Clone, const MAX: usize> CowMap<V, MAX> {
    /// The value that was there.
    pub(super) fn insert(&mut self, name: BlockName, value: V) -> Option<V> {
        let space = Arc::make_mut(&mut self.spaces)
            .entry(name.namespace)
            .or_default();
        let before = Arc::make_mut(space).insert::<MAX>(name.key(), value);
        self.len += u64::from(before.is_none());
        before
    }

    /// Changes values that fit, in key order; copies only shards that have any.
    pub(super) fn change_where(
        &mut self,
        fits: impl Fn(&V) -> bool,
        mut change: impl FnMut(BlockName, &mut V),
    ) {
        let any = |shard: &Arc<Table<V>>| shard.rows().any(|(_, value)| fits(value));
        for (namespace, space) in Arc::make_mut(&mut self.spaces) {
            if !space.shards.iter().any(any) {
                continue;
            }
            let space = Arc::make_mut(space);
            for shard in space.shards.iter_mut().filter(|shard| any(shard)) {
                Arc::make_mut(shard).change_where(&fits, &mut |key, value| {
                    change(BlockName::new(*namespace, *key), value);
                });
            }
        }
    }

    /// The value that was there; a name that is absent copies nothing.
    pub(super) fn remove(&mut self, name: &BlockName) -> Option<V> {
        self.get(name)?;
        let spaces = Arc::make_mut(&mut self.spaces);
        let space = Arc::make_mut(spaces.get_mut(&name.namespace)?);
        let removed = space.remove::<MAX>(&name.key());
        if space.shards.is_empty() {
            spaces.remove(&name.namespace);
        }
        self.len -= u64::from(removed.is_some());
        removed
    }
}
