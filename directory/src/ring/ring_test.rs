//! Placements are frozen, spread over zones, balanced, and move no more than they must.

use proptest::prelude::*;
use rand::{Rng, SeedableRng, rngs::StdRng};

use super::Ring;
use crate::{
    BlockHash, BlockName, Member, NamespaceId, NodeId, Part, RingEpoch, Topology,
    limits::REPLICAS_MAX,
};

/// `5/c*2`: node 5 in zone c with weight 2.
fn topology(members: &str) -> Topology {
    let member = |word: &str| {
        let (node, place) = word.split_once('/').unwrap();
        let (zone, weight) = place.split_once('*').unwrap_or((place, "1"));
        Member {
            node: NodeId(node.parse().unwrap()),
            address: format!("127.0.0.1:{node}"),
            zone: zone.into(),
            weight: weight.parse().unwrap(),
            voter: true,
        }
    };
    let mut members: Vec<Member> = members.split_whitespace().map(member).collect();
    members.sort_by_key(|member| member.node);
    Topology {
        region: Some("us-east".parse().unwrap()),
        epoch: RingEpoch(7),
        members,
        ..Topology::empty()
    }
}

fn ring(members: &str) -> Ring {
    Ring::build(&topology(members))
}

fn name(number: u8) -> BlockName {
    BlockName {
        namespace: NamespaceId([number; 16]),
        hash: BlockHash([number.wrapping_mul(31); 32]),
        part: Part {
            shard: u16::from(number % 3),
            group: 0,
        },
    }
}

fn numbers(list: &[NodeId]) -> String {
    let words: Vec<String> = list.iter().map(NodeId::to_string).collect();
    words.join(" ")
}

const FIVE: &str = "1/a 2/b 3/c 4/a 5/b";

#[test]
fn placements_are_frozen() {
    let ring = ring(FIVE);
    for (number, want) in [
        (0, "3 4 2 1 5"),
        (1, "5 4 3 2 1"),
        (2, "2 3 1 4 5"),
        (3, "3 1 2 5 4"),
        (4, "3 1 5 2 4"),
        (100, "1 2 3 4 5"),
        (200, "4 5 3 2 1"),
        (255, "3 1 5 4 2"),
    ] {
        assert_eq!(numbers(ring.preference(&name(number))), want, "{number}");
    }
}

#[test]
fn the_order_of_members_does_not_matter() {
    let mut members = topology(FIVE);
    let ring = Ring::build(&members);
    members.members.reverse();
    let turned = Ring::build(&members);
    assert_eq!(ring.ends, turned.ends);
    assert_eq!(ring.lists, turned.lists);
}

#[test]
fn without_members_nobody_owns_anything() {
    let ring = Ring::build(&Topology::empty());
    assert_eq!(ring.preference(&name(1)), []);
    assert_eq!(ring.ownership(), []);
}

#[test]
fn the_epoch_is_the_topologys() {
    assert_eq!(ring(FIVE).epoch(), RingEpoch(7));
}

/// What [`Ring::build`] works out in one pass, from one point, by its definition.
fn by_walking(topology: &Topology, ring: &Ring, point: u64) -> Vec<NodeId> {
    let start = ring.ends.partition_point(|end| *end < point);
    let points = super::points::of(&topology.members);
    let mut met: Vec<&Member> = Vec::new();
    for &(_, member) in points.iter().cycle().skip(start).take(points.len()) {
        let member = &topology.members[member];
        if met.iter().all(|other| other.node != member.node) {
            met.push(member);
        }
    }
    let (mut list, mut rest): (Vec<&Member>, Vec<&Member>) = Default::default();
    for member in met {
        let new_zone = list.iter().all(|other| other.zone != member.zone);
        if new_zone { &mut list } else { &mut rest }.push(member);
    }
    list.extend(rest);
    let nodes = list.iter().map(|member| member.node);
    nodes.take(REPLICAS_MAX as usize).collect()
}

#[test]
fn lists_are_those_of_a_walk() {
    let mut rng = StdRng::seed_from_u64(1);
    for members in [
        FIVE,
        "1/a",
        "1/a 2/a",
        "9/a*2 3/b 4/b 8/c 1/d 2/a 5/a 6/a 7/a",
    ] {
        let topology = topology(members);
        let ring = Ring::build(&topology);
        let random = std::iter::repeat_with(|| rng.random());
        let edges = [0, u64::MAX, ring.ends[0], ring.ends[0] + 1];
        for point in edges.into_iter().chain(random.take(20)) {
            let want = by_walking(&topology, &ring, point);
            assert_eq!(ring.preference_at(point), want, "{members} at {point}");
        }
    }
}

#[test]
fn weight_2_owns_twice_as_much() {
    let shares = ring("1/a*2 2/b 3/c").ownership();
    assert_eq!(shares.len(), 3);
    assert!((shares.iter().map(|(_, share)| share).sum::<f64>() - 1.0).abs() < 1e-9);
    assert!((shares[0].1 - 0.5).abs() < 0.02, "{shares:?}");
}

#[test]
fn ten_equal_nodes_own_about_the_same_in_each_of_100_rings() {
    let mut worst: (f64, u64) = (0.0, 0);
    for seed in 0..100 {
        let mut rng = StdRng::seed_from_u64(seed);
        let members: Vec<String> = (0..10)
            .map(|_| format!("{}/a", rng.random::<u64>()))
            .collect();
        let shares = ring(&members.join(" ")).ownership();
        assert_eq!(shares.len(), 10, "seed {seed}");
        for (_, share) in shares {
            if share * 10.0 > worst.0 {
                worst = (share * 10.0, seed);
            }
        }
    }
    assert!(
        worst.0 <= 1.06,
        "{} times the mean with seed {}",
        worst.0,
        worst.1
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    /// Members are (number, zone); the last one comes new.
    #[test]
    fn a_new_node_moves_blocks_to_itself_only(
        members in proptest::collection::btree_map(0..1_000_u64, 0..4_u8, 2..9),
        points in proptest::collection::vec(any::<u64>(), 200),
        newcomer in 1_000..2_000_u64,
        newcomer_zone in 0..5_u8,
        replicas in 1..=4_usize,
    ) {
        let word = |(node, zone): (&u64, &u8)| format!("{node}/{zone} ");
        let before: String = members.iter().map(word).collect();
        let after = before.clone() + &word((&newcomer, &newcomer_zone));
        let (old, new) = (ring(&before), ring(&after));
        let moved = old.moved(&new, replicas);
        let bounds = moved.arcs().iter().flat_map(|&(first, last)| {
            [first.wrapping_sub(1), first, last, last.wrapping_add(1)]
        });
        for point in points.into_iter().chain(bounds.take(400)) {
            let owners = |ring: &Ring| {
                let list = ring.preference_at(point);
                list[..list.len().min(replicas)].to_vec()
            };
            let (was, is) = (owners(&old), owners(&new));
            prop_assert_eq!(moved.contains(point), was != is, "{} at {}", after, point);
            for owner in is {
                prop_assert!(was.contains(&owner) || owner == NodeId(newcomer));
            }
        }
    }
}
