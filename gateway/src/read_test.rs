//! The read plan as tables.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use kvmesh_client::Ranges;
use kvmesh_directory::{BlockHash, Description, Hlc, Namespace, NodeId, Part, Policy};
use tokio::time::Instant;

use super::*;
use crate::{chain::Chain, deadline::Deadline, request::Want, way::Class};

fn want(indexes: &[u32], shards: &[u16]) -> Want {
    let description = Description {
        model: "m".to_owned(),
        dtype: "bf16".to_owned(),
        layout: "l".to_owned(),
        block_tokens: 16,
        hash_width: 8,
        short_hashes: true,
        shard_count: 4,
        group_count: 1,
        tenant: String::new(),
        salt: Vec::new(),
        residency: Vec::new(),
    };
    let raw: Vec<u8> = (0..16u64).flat_map(u64::to_be_bytes).collect();
    let hashes = raw
        .chunks(8)
        .map(|raw| BlockHash::from_engine(raw).unwrap());
    let hashes = hashes.collect();
    let namespace = Namespace {
        id: description.id(),
        name: "n".to_owned(),
        description,
        policy: Policy::default(),
        generation: Hlc(0),
        policy_hlc: Hlc(0),
        policy_region: "us".parse().unwrap(),
    };
    Want {
        namespace: Arc::new(namespace),
        chain: Chain::new(Bytes::from(raw), 8, hashes),
        indexes: indexes.to_vec(),
        parts: shards
            .iter()
            .map(|&shard| Part { shard, group: 0 })
            .collect(),
        touch: Vec::new(),
        ranges: Ranges::default(),
        blocks_min: 0,
        any_order: false,
        await_fill: false,
        from_afar: false,
        aside: false,
        class: Class::Demand,
        encoding: None,
        lossy_encoding: None,
        lossy: false,
        deadline: Deadline {
            at: Instant::now() + Duration::from_secs(5),
            named: false,
        },
    }
}

/// `places`: `index/shard: sources` separated by `;`, a source `n1` or a region's name.
fn check(indexes: &[u32], shards: &[u16], places: &str, expected: &str) {
    let want = want(indexes, shards);
    let mut known: BTreeMap<BlockName, Whereabouts> = BTreeMap::new();
    for place in places.split(';').filter(|place| !place.trim().is_empty()) {
        let (place, sources) = place.split_once(':').unwrap();
        let (index, shard) = place.trim().split_once('/').unwrap();
        let part = Part {
            shard: shard.parse().unwrap(),
            group: 0,
        };
        let name = want.name(index.parse().unwrap(), part);
        let found = known.entry(name).or_default();
        for source in sources.split_whitespace() {
            match source.strip_prefix('n') {
                Some(node) => found.nodes.push(NodeId(node.parse().unwrap())),
                None => found.regions.push(source.parse().unwrap()),
            }
        }
    }
    let plan = plan(&want, |name| known.get(name).cloned().unwrap_or_default());
    let mut got: Vec<String> = Vec::new();
    for slot in &plan.slots {
        let sources = slot.sources.iter().map(|source| match source {
            Source::Node(node) => format!("n{node}"),
            Source::Region(region) => region.to_string(),
        });
        let sources: Vec<String> = sources.collect();
        got.push(format!(
            "{}/{}:{}",
            slot.index,
            slot.part.shard,
            sources.join(">")
        ));
    }
    got.push(if plan.cut { "cut" } else { "all" }.to_owned());
    assert_eq!(got.join(" "), expected, "{places}");
    assert_eq!(plan.slots.len(), plan.run * shards.len());
}

#[tokio::test]
async fn local_comes_before_far_and_the_run_is_cut_at_the_first_hole() {
    check(&[0, 1], &[0], "0/0: n1 n2; 1/0: n2", "0/0:n1>n2 1/0:n2 all");
    check(
        &[0, 1],
        &[0],
        "0/0: n1 eu; 1/0: eu ap",
        "0/0:n1>eu 1/0:eu>ap all",
    );
    check(&[0, 1, 2], &[0], "0/0: n1; 2/0: n1", "0/0:n1 cut");
    check(&[0, 1, 2], &[0], "1/0: n1; 2/0: n1", "cut");
    check(&[5, 9], &[0], "5/0: n1; 9/0: eu", "5/0:n1 9/0:eu all");
    check(&[], &[0], "", "all");
}

#[tokio::test]
async fn a_block_counts_only_with_all_its_parts() {
    let here = "0/0: n1; 0/3: n2; 1/0: n1";
    check(&[0, 1], &[0, 3], here, "0/0:n1 0/3:n2 cut");
    let mixed = "0/0: n1; 0/3: n2; 1/0: n1; 1/3: eu";
    check(&[0, 1], &[0, 3], mixed, "0/0:n1 0/3:n2 1/0:n1 1/3:eu all");
}

#[test]
fn load_spreads_over_holders_and_the_failing_come_last() {
    let holders = || vec![NodeId(1), NodeId(2), NodeId(3)];
    let well = |node: NodeId| node != NodeId(2);
    let mut firsts = std::collections::BTreeSet::new();
    for turn in 0..3 {
        let order = holders_in_turn(holders(), 0, turn, well);
        assert_eq!(order[2], NodeId(2), "{order:?}");
        firsts.insert(order[0]);
    }
    assert_eq!(firsts.len(), 2);
}

#[tokio::test]
async fn rounds_are_bounded_by_bytes_and_count() {
    // Blocks, bytes of each, lengths of the rounds.
    let cases: [(usize, u64, &[usize]); 5] = [
        (0, 1, &[]),
        (3, 1 << 20, &[3]),
        (20, 1 << 20, &[8, 8, 4]),
        (3, 100 << 20, &[1, 1, 1]),
        (2_500, 16, &[1_024, 1_024, 452]),
    ];
    let want = want(&[0], &[0]);
    for (blocks, bytes, lengths) in cases {
        let slot = Slot {
            index: 0,
            part: Part::default(),
            name: want.name(0, Part::default()),
            bytes,
            asked: bytes,
            sources: VecDeque::new(),
            failover: false,
        };
        let rounds = rounds(&vec![slot; blocks]);
        let got: Vec<usize> = rounds
            .iter()
            .map(std::iter::ExactSizeIterator::len)
            .collect();
        assert_eq!(got, lengths, "{blocks} blocks of {bytes}");
        let ends: Vec<usize> = rounds.iter().map(|round| round.end).collect();
        let starts: Vec<usize> = rounds.iter().map(|round| round.start).skip(1).collect();
        assert_eq!(ends[..ends.len().saturating_sub(1)], starts[..]);
    }
}
