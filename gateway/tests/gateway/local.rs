//! Gets that the region itself can answer.

use std::{sync::atomic::Ordering, time::Duration};

use crate::fakes::{
    Mood,
    start::{World, places},
};
use kvmesh_client::ToWire;
use kvmesh_directory::FeedPosition;
use kvmesh_proto::v1::{self as wire, GetOutcome};

const PIECE: usize = 1 << 20;

#[tokio::test]
async fn blocks_of_two_nodes_come_in_chain_order() {
    let world = World::start(2, |_| {}).await;
    for index in 0..40 {
        world.place(
            index,
            if index % 7 == 0 { PIECE + 9 } else { 5_000 },
            &[1 + u64::from(index) % 2],
        );
    }
    world.catch_up().await;
    let (got, summary) = world.get(world.get_request(40)).await;
    assert_eq!(places(&got), (0..40).collect::<Vec<_>>());
    assert_eq!(summary.outcome(), GetOutcome::Complete);
    assert_eq!((summary.blocks, summary.tokens), (40, 640));
    assert_eq!(summary.sources[0].region, "us-east");
    assert!(got.iter().all(|got| got.region == "us-east"));
}

#[tokio::test]
async fn a_large_run_needs_several_rounds() {
    let world = World::start(3, |_| {}).await;
    for index in 0..24 {
        world.place(
            index,
            3 * PIECE / 2,
            &[1 + u64::from(index) % 3, 1 + u64::from(index + 1) % 3],
        );
    }
    world.catch_up().await;
    let (got, _) = world.get(world.get_request(24)).await;
    assert_eq!(places(&got), (0..24).collect::<Vec<_>>());
}

#[tokio::test]
async fn every_part_of_a_block_comes_before_the_next() {
    let world = World::start(2, |_| {}).await;
    for index in 0..4u32 {
        for shard in 0..2 {
            let node = 1 + (index as u64 + u64::from(shard)) % 2;
            let (name, block) = (
                world.name(index, shard),
                crate::fakes::start::block(index, 900),
            );
            world.nodes[node as usize - 1].keep(name, block.clone());
            if (index, shard) != (3, 1) {
                world.region.claim(name, &block.meta, &[node]);
            }
        }
    }
    world.catch_up().await;
    let part = |shard| wire::Part { shard, group: 0 };
    let request = wire::GetRequest {
        parts: vec![part(1), part(0)],
        ..world.get_request(4)
    };
    let (got, summary) = world.get(request).await;
    let order: Vec<_> = got.iter().map(|got| (got.index, got.shard)).collect();
    assert_eq!(order, [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (2, 1)]);
    assert_eq!((summary.outcome(), summary.blocks), (GetOutcome::Miss, 3));
}

#[tokio::test]
async fn a_stale_claim_costs_one_failed_read() {
    for mood in [Mood::Forgetful, Mood::BreaksOff, Mood::Silent] {
        let world = World::start(2, |_| {}).await;
        for index in 0..6 {
            world.place(index, PIECE + 1, &[1, 2]);
        }
        world.catch_up().await;
        world.nodes[0].be(mood);
        let (got, summary) = world.get(world.get_request(6)).await;
        assert_eq!(places(&got), (0..6).collect::<Vec<_>>(), "{mood:?}");
        assert_eq!(summary.outcome(), GetOutcome::Complete, "{mood:?}");
    }
}

#[tokio::test]
async fn a_node_that_is_gone_is_replaced_by_other_holders() {
    let world = World::start(2, |_| {}).await;
    for index in 0..20 {
        world.place(index, 4_000, &[1, 2]);
    }
    world.catch_up().await;
    world.stops[0].cancel();
    for _ in 0..3 {
        let (got, _) = world.get(world.get_request(20)).await;
        assert_eq!(places(&got), (0..20).collect::<Vec<_>>());
    }
}

#[tokio::test]
async fn the_run_ends_where_no_holder_has_the_block() {
    let world = World::start(2, |_| {}).await;
    for index in [0, 1, 2, 4, 5] {
        world.place(index, 700, &[1]);
    }
    world.catch_up().await;
    let (got, summary) = world.get(world.get_request(6)).await;
    assert_eq!(places(&got), [0, 1, 2]);
    assert_eq!((summary.outcome(), summary.blocks), (GetOutcome::Miss, 3));
    // A claim that nobody honours, while the view still shows it: worth asking again.
    let lost = world.name(2, 0);
    world.nodes[0].blocks.lock().unwrap().remove(&lost);
    let (got, summary) = world.get(world.get_request(6)).await;
    assert_eq!(places(&got), [0, 1]);
    assert_eq!(summary.outcome(), GetOutcome::SourceFailed);
}

#[tokio::test]
async fn the_unwanted_head_is_touched_on_its_holders() {
    let world = World::start(2, |_| {}).await;
    for index in 0..6 {
        world.place(index, 700, &[1 + u64::from(index) % 2]);
    }
    world.catch_up().await;
    let request = wire::GetRequest {
        start: 5,
        ..world.get_request(6)
    };
    let (got, _) = world.get(request).await;
    assert_eq!(places(&got), [5]);
    let touched = |node: usize| {
        let asked = world.nodes[node].asked.lock().unwrap();
        asked.iter().map(|ask| ask.touch.len()).sum::<usize>()
    };
    let touching = async {
        while touched(0) + touched(1) < 5 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), touching)
        .await
        .unwrap();
    assert_eq!((touched(0), touched(1)), (3, 2));
}

#[tokio::test]
async fn too_short_a_run_and_an_old_view_send_nothing() {
    let world = World::start(1, |_| {}).await;
    world.place(0, 700, &[1]);
    world.catch_up().await;
    let request = wire::GetRequest {
        blocks_min: 2,
        ..world.get_request(3)
    };
    let (got, summary) = world.get(request).await;
    assert!(got.is_empty());
    assert_eq!(summary.outcome(), GetOutcome::TooShort);

    let ahead = FeedPosition {
        index: 1_000,
        ..world.region.state().position().unwrap()
    };
    let request = wire::GetRequest {
        at_least: vec![ahead.to_wire()],
        ..world.get_request(1)
    };
    let (got, summary) = world.get(request).await;
    assert!(got.is_empty());
    assert_eq!(summary.outcome(), GetOutcome::ViewBehind);
    assert_eq!(world.nodes[0].gets.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn a_lookup_sends_nothing() {
    let world = World::start(1, |_| {}).await;
    for index in 0..3 {
        world.place(index, 700, &[1]);
    }
    let position = world.place_far(1, 1..6, 1_000);
    world.catch_up().await;
    world.reach(position).await;
    let request = wire::LookupRequest {
        namespace_id: world.namespace.id.to_wire(),
        chains: vec![
            wire::ChainQuery {
                chain: Some(crate::fakes::start::chain(8)),
                start: 1,
                parts: Vec::new(),
            },
            wire::ChainQuery {
                chain: Some(crate::fakes::start::chain(8)),
                ..Default::default()
            },
        ],
        ..Default::default()
    };
    let calls = world.nodes[0].calls.load(Ordering::Relaxed);
    let answer = world
        .client
        .clone()
        .lookup(request)
        .await
        .unwrap()
        .into_inner();
    let [second, first] = &answer.matches[..] else {
        panic!("{answer:?}");
    };
    assert_eq!(
        (first.local_blocks, first.local_bytes, first.mesh_blocks),
        (3, 2_100, 6)
    );
    assert!(first.remote.is_empty(), "block 0 is only here");
    assert_eq!((second.local_blocks, second.mesh_blocks), (2, 5));
    let remote = &second.remote[0];
    assert_eq!(
        (remote.region.as_str(), remote.blocks, remote.fetch_bytes),
        ("eu-west", 5, 3_000)
    );
    // 24 us at the link's 1 Gbit/s, less what bf16 usually shrinks to.
    assert!(
        (remote.estimated_fetch_ms - 80.017).abs() < 0.001,
        "{remote:?}"
    );
    assert_eq!(answer.regions[0].region, "eu-west");
    assert_eq!(world.nodes[0].calls.load(Ordering::Relaxed), calls);
    assert_eq!(world.far.calls.load(Ordering::Relaxed), 0);
}
