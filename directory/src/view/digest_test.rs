//! Digests are equal exactly where the content is, in a view and in a directory.

use std::collections::BTreeMap;

use proptest::{collection::vec, prelude::*};

use super::{
    Digest, MeshView, MeshWalk, RangeDigest,
    follow_test::{FAR, Region, act},
    mesh_blocks, range_of,
};
use crate::{
    BlockName, DirectoryState, FeedPosition, LogIncarnation, RegionId, Tag, limits::DIGEST_RANGES,
};

const REGIONS: [&str; 3] = ["ap", "eu", "us"];

fn region(number: usize) -> RegionId {
    REGIONS[number].parse().unwrap()
}

/// Few of them, in three ranges.
fn tag(number: u64) -> Tag {
    Tag((number % 3) << 60 | number)
}

fn digest_of(blocks: impl IntoIterator<Item = (Tag, u32)>) -> Digest {
    let mut digest = Digest::default();
    for (tag, bytes) in blocks {
        digest.add(tag, bytes);
    }
    digest
}

/// What `FAR` is told of a directory, looking at so many blocks at a time.
fn walk(state: &DirectoryState, look_at: usize) -> Vec<(BlockName, u32)> {
    let mut walk = MeshWalk::new(state.clone(), FAR.parse().unwrap());
    let steps = std::iter::from_fn(|| walk.step(look_at));
    steps.flatten().collect()
}

#[derive(Debug, Clone)]
enum Op {
    Step(usize, Vec<(u64, u32)>, Vec<u64>),
    Mend(usize, Vec<(u64, u32)>, Vec<u64>),
    Reset(usize),
}

fn op() -> impl Strategy<Value = Op> {
    let change = || {
        let appeared = vec((0..12_u64, 1..3_u32), 0..4);
        (0..3_usize, appeared, vec(0..12_u64, 0..3))
    };
    prop_oneof![
        6 => change().prop_map(|(of, appeared, vanished)| Op::Step(of, appeared, vanished)),
        2 => change().prop_map(|(of, appeared, vanished)| Op::Mend(of, appeared, vanished)),
        1 => (0..3_usize).prop_map(Op::Reset),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever regions share, each one's blocks are told apart, sizes included; a clone stays
    /// as it was.
    #[test]
    fn a_view_is_its_model_and_its_digests_are_those_of_its_blocks(ops in vec(op(), 1..40)) {
        let mut view = MeshView::new();
        let mut model: [BTreeMap<Tag, u32>; 3] = Default::default();
        let mut frozen = Vec::new();
        for (index, op) in ops.iter().enumerate() {
            frozen.push((view.clone(), model.clone()));
            let (Op::Step(of, ..) | Op::Mend(of, ..) | Op::Reset(of)) = op;
            let (name, known) = (region(*of), view.position(&region(*of)).is_some());
            if let Op::Reset(_) = op {
                view.reset(&name);
                model[*of].clear();
                continue;
            }
            let (Op::Step(_, appeared, vanished) | Op::Mend(_, appeared, vanished)) = op else {
                unreachable!()
            };
            let appeared: Vec<(Tag, u32)> = appeared.iter().map(|(n, b)| (tag(*n), *b)).collect();
            let vanished: Vec<Tag> = vanished.iter().map(|n| tag(*n)).collect();
            if let Op::Step(..) = op {
                let position = FeedPosition {
                    region: name.clone(),
                    log_incarnation: LogIncarnation(1),
                    index: index as u64 + 1,
                };
                view.step(&name, &appeared, &vanished, Some(position));
            } else if known {
                view.mend(&name, &appeared, &vanished);
            } else {
                continue;
            }
            vanished.iter().for_each(|tag| { model[*of].remove(tag); });
            model[*of].extend(appeared);
        }
        frozen.push((view, model));
        for (view, model) in &frozen {
            for (number, blocks) in model.iter().enumerate() {
                let of = region(number);
                let want: Vec<(Tag, u32)> = blocks.iter().map(|(t, b)| (*t, *b)).collect();
                prop_assert_eq!(view.tags_of(&of), want.clone());
                prop_assert_eq!(view.digest(&of), digest_of(want.into_iter().rev()));
                let told = view.regions().find(|(name, _, _)| **name == of);
                prop_assert_eq!(told.map_or(0, |(_, _, n)| n), blocks.len() as u64);
            }
        }
        // Two moments have the same digest exactly if they have the same blocks.
        for pair in frozen.windows(2) {
            for number in 0..3 {
                let of = region(number);
                let same = pair[0].1[number] == pair[1].1[number];
                prop_assert_eq!(pair[0].0.digest(&of) == pair[1].0.digest(&of), same);
            }
        }
    }

    /// Over random logs with namespaces of all, of both and of one region.
    #[test]
    fn a_directory_has_the_digest_of_what_the_follower_may_know(
        acts in vec(act(), 1..60),
        look_at in 1..9_usize,
    ) {
        let far: RegionId = FAR.parse().unwrap();
        let mut region = Region::new();
        let content = |state: &DirectoryState| mesh_blocks(state, &far).collect::<Vec<_>>();
        let digest = |blocks: &[(BlockName, u32)]| {
            digest_of(blocks.iter().map(|(name, bytes)| (name.tag(), *bytes)))
        };
        let mut before = content(&region.state);
        for act in &acts {
            let command = region.command(act);
            region.commit(command);
            let now = content(&region.state);
            prop_assert_eq!(walk(&region.state, look_at), now.clone());
            prop_assert_eq!(digest(&before) == digest(&now), before == now);
            before = now;
        }
    }

    #[test]
    fn one_block_changes_exactly_its_range(tags in vec(any::<u64>(), 1..60), bytes in 1..9_u32) {
        let blocks: BTreeMap<Tag, u32> = tags.iter().map(|tag| (Tag(*tag), bytes)).collect();
        let whole = digest_of(blocks.clone());
        for tag in blocks.keys() {
            let mut without = blocks.clone();
            without.remove(tag);
            prop_assert_eq!(whole.differing(&digest_of(without.clone())), [range_of(*tag)]);
            without.insert(*tag, bytes + 1);
            prop_assert_eq!(whole.differing(&digest_of(without)), [range_of(*tag)]);
        }
    }
}

/// Both sides compute it: these numbers are part of the protocol.
#[test]
fn the_sum_is_what_it_always_was() {
    let one = digest_of([(Tag(0x0123_4567_89ab_cdef), 4_096)]);
    let range = RangeDigest {
        blocks: 1,
        sum: 9_032_148_354_380_671_478,
    };
    assert_eq!(range_of(Tag(0x0123_4567_89ab_cdef)), 4);
    assert_eq!(one.ranges()[4], range);
    assert_eq!(one.total(), range);
    assert_eq!(range_of(Tag(u64::MAX)), DIGEST_RANGES - 1);
}
