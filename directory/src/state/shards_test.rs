//! The copy-on-write map behaves like a `BTreeMap`, whatever is frozen meanwhile.

use std::collections::BTreeMap;

use proptest::prelude::*;

use crate::{
    limits::SHARD_ENTRIES_MAX,
    state::shards::CowMap,
    words::{BlockHash, BlockName, NamespaceId, Part},
};

const MAX: usize = 8;

/// Few enough names that runs of inserts and removals meet; some differ only in their part.
fn name(number: u16) -> BlockName {
    let mut hash = [0; 32];
    hash[(number % 3) as usize * 15] = (number >> 3) as u8;
    BlockName {
        namespace: NamespaceId([(number % 2) as u8; 16]),
        hash: BlockHash(hash),
        part: Part {
            shard: number & 3,
            group: 0,
        },
    }
}

#[derive(Debug, Clone)]
enum Step {
    Insert(u16, u32),
    Remove(u16),
    /// Everything in a range of numbers.
    RemoveMany(u16, u16),
    Freeze,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0..600_u16, any::<u32>()).prop_map(|(n, value)| Step::Insert(n, value)),
        3 => (0..600_u16).prop_map(Step::Remove),
        1 => (0..600_u16, 0..200_u16).prop_map(|(from, len)| Step::RemoveMany(from, len)),
        1 => Just(Step::Freeze),
    ]
}

fn same(map: &CowMap<u32, MAX>, model: &BTreeMap<BlockName, u32>) {
    assert_eq!(map.len(), model.len() as u64);
    assert!(
        map.iter()
            .eq(model.iter().map(|(name, value)| (*name, value)))
    );
    assert!(map.shard_lens().iter().all(|len| (1..=MAX).contains(len)));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn a_map_is_what_was_put_into_it(steps in prop::collection::vec(step(), 1..300)) {
        let (mut map, mut model) = (CowMap::<u32, MAX>::new(), BTreeMap::new());
        let mut frozen = Vec::new();
        for step in steps {
            match step {
                Step::Insert(n, value) => {
                    assert_eq!(map.insert(name(n), value), model.insert(name(n), value));
                }
                Step::Remove(n) => assert_eq!(map.remove(&name(n)), model.remove(&name(n))),
                Step::RemoveMany(from, len) => for n in from..from + len {
                    assert_eq!(map.remove(&name(n)), model.remove(&name(n)));
                },
                Step::Freeze => frozen.push((map.clone(), model.clone())),
            }
        }
        same(&map, &model);
        frozen.iter().for_each(|(map, model)| same(map, model));
        for n in 0..600 {
            assert_eq!(map.get(&name(n)), model.get(&name(n)));
            let rest = model.range(name(n)..).filter(|(other, _)| **other != name(n));
            assert!(n % 20 != 0 || map.iter_after(Some(name(n))).eq(rest.map(|(k, v)| (*k, v))));
        }
    }
}

#[test]
fn shards_split_at_the_limit_and_merge_again() {
    let mut map = CowMap::<u32>::new();
    let total = 3 * SHARD_ENTRIES_MAX as u32;
    let spread = |n: u32| {
        let mut name = name(0);
        name.hash.0[..4].copy_from_slice(&n.wrapping_mul(2_654_435_761).to_be_bytes());
        name
    };
    for n in 0..total {
        map.insert(spread(n), n);
    }
    let lens = map.shard_lens();
    assert!(
        lens.len() >= 3 && lens.iter().all(|len| *len <= SHARD_ENTRIES_MAX),
        "{lens:?}"
    );
    for n in 0..total - 10 {
        map.remove(&spread(n));
    }
    assert_eq!((map.len(), map.shard_lens().len()), (10, 1));
}

#[test]
fn an_entry_of_the_directory_costs_at_most_112_bytes_of_rows() {
    use crate::{state::row::Row, words::BlockKey};
    assert!(
        size_of::<(BlockKey, Row)>() <= 112,
        "{}",
        size_of::<(BlockKey, Row)>()
    );
}

#[test]
fn a_map_that_is_read_once_lets_go_of_what_was_read_and_of_nothing_else() {
    let mut live: CowMap<u16, MAX> = CowMap::new();
    for number in 0..600 {
        live.insert(name(number), number);
    }
    let (mut frozen, mut read, mut after) = (live.clone(), Vec::new(), None);
    let shards = frozen.shard_lens().len();
    loop {
        let batch: Vec<_> = frozen.iter_after(after).take(20).collect();
        let batch: Vec<(BlockName, u16)> = batch.into_iter().map(|(n, v)| (n, *v)).collect();
        let Some((last, _)) = batch.last() else { break };
        after = Some(*last);
        read.extend(batch);
        frozen.let_go(after.as_ref().unwrap());
    }
    let all: Vec<_> = live.iter().map(|(name, value)| (name, *value)).collect();
    assert_eq!(read, all);
    assert!(all.len() > 300);
    let left = frozen.shard_lens().len();
    assert!(
        shards > 40 && left <= 3,
        "{left} of {shards} shards are left"
    );
}
