//! Gets of byte ranges: only the pieces that they touch go to the client, and only from afar
//! comes more.

use std::{sync::atomic::Ordering, time::Duration};

use crate::fakes::{
    Mood,
    start::{Got, World, block, places, until},
};
use kvmesh_proto::v1::{self as wire, GetOutcome};
use tokio::time::timeout;
use tonic::{Code, Status};

const PIECE: usize = 1 << 20;
/// Three whole pieces and a short one.
const BYTES: usize = 3 * PIECE + 9;

/// Bytes of pieces 1 and 3.
fn request(world: &World, blocks: u32) -> wire::GetRequest {
    let piece = PIECE as u64;
    let range = |(offset, length)| wire::ByteRange { offset, length };
    wire::GetRequest {
        ranges: [(piece + 7, 100), (2 * piece - 1, 1), (3 * piece, 9)]
            .map(range)
            .to_vec(),
        ..world.get_request(blocks)
    }
}

/// The places that came, each with pieces 1 and 3 and no other byte.
fn ranged(got: &[Got]) -> Vec<u32> {
    let places = got.iter().map(|got| {
        let whole = block(got.index, BYTES).pieces;
        assert_eq!(got.pieces, [1, 3], "of block {}", got.index);
        let right = got.bytes == [&whole[1][..], &whole[3]].concat();
        assert!(right, "bytes of block {}", got.index);
        got.index
    });
    places.collect()
}

/// Bytes that a get's blocks had, by its summary.
fn counted(summary: &wire::GetSummary) -> u64 {
    summary.sources.iter().map(|it| it.bytes).sum()
}

#[tokio::test]
async fn nodes_are_asked_for_the_ranges_and_their_pieces_are_passed_on() {
    for any_order in [false, true] {
        let world = World::start(2, |_| {}).await;
        // Of whole blocks it would take several rounds.
        for index in 0..7 {
            world.place(index, BYTES, &[1 + u64::from(index) % 2]);
        }
        world.catch_up().await;
        let request = wire::GetRequest {
            any_order,
            ..request(&world, 7)
        };
        let (got, summary) = world.get(request.clone()).await;
        let mut came = ranged(&got);
        came.sort_unstable();
        assert_eq!(came, (0..7).collect::<Vec<_>>());
        assert_eq!(summary.outcome(), GetOutcome::Complete);
        assert_eq!(counted(&summary), 7 * (PIECE as u64 + 9));
        for node in &world.nodes {
            let asked = node.asked.lock().unwrap();
            let wanting = asked.iter().filter(|ask| !ask.select.is_empty());
            let ranges: Vec<_> = wanting.map(|ask| &ask.ranges).collect();
            assert_eq!(ranges, [&request.ranges], "once, by the bytes that come");
        }
    }
}

#[tokio::test]
async fn a_node_that_does_not_know_ranges_makes_no_difference() {
    for mood in [Mood::Wholesale, Mood::Dated] {
        let world = World::start(1, |_| {}).await;
        for index in 0..4 {
            world.place(index, BYTES, &[1]);
        }
        world.catch_up().await;
        world.nodes[0].be(mood);
        let (got, summary) = world.get(request(&world, 4)).await;
        assert_eq!(ranged(&got), [0, 1, 2, 3], "{mood:?}");
        assert_eq!(summary.outcome(), GetOutcome::Complete, "{mood:?}");
        assert_eq!(counted(&summary), 4 * (PIECE as u64 + 9), "{mood:?}");
    }
}

#[tokio::test]
async fn another_holder_takes_over_in_the_middle() {
    for mood in [Mood::Forgetful, Mood::BreaksOff] {
        let world = World::start(2, |_| {}).await;
        for index in 0..6 {
            world.place(index, BYTES, &[1, 2]);
        }
        world.catch_up().await;
        world.nodes[0].be(mood);
        let (got, summary) = world.get(request(&world, 6)).await;
        assert_eq!(ranged(&got), (0..6).collect::<Vec<_>>(), "{mood:?}");
        assert_eq!(summary.outcome(), GetOutcome::Complete, "{mood:?}");
    }
}

#[tokio::test]
async fn a_far_block_is_fetched_and_kept_whole_and_its_pieces_go_to_the_client() {
    for any_order in [false, true] {
        let world = World::start(1, |_| {}).await;
        let at = world.place_far(1, 0..3, BYTES);
        world.reach(at).await;
        let ranged_get = wire::GetRequest {
            await_fill: true,
            any_order,
            ..request(&world, 3)
        };
        let (got, summary) = world.get(ranged_get.clone()).await;
        let mut came = ranged(&got);
        came.sort_unstable();
        assert_eq!(came, [0, 1, 2]);
        assert_eq!(summary.outcome(), GetOutcome::Complete);
        assert_eq!(counted(&summary), 3 * (PIECE as u64 + 9));
        assert_eq!(summary.fill_failures, 0);
        let asked = world.far.asked.lock().unwrap().clone();
        assert!(asked.iter().all(|ask| ask.ranges.is_empty()), "whole");
        for index in 0..3 {
            let kept = world.nodes[0].blocks.lock().unwrap();
            assert_eq!(kept[&world.name(index, 0)], block(index, BYTES));
        }
        // It is here now.
        let again = wire::GetRequest {
            at_least: vec![summary.fill_position.unwrap()],
            ..ranged_get
        };
        let (got, _) = world.get(again).await;
        assert_eq!(got.len(), 3);
        assert!(got.iter().all(|got| got.region == "us-east"));
        world.far.asked_once();
    }
}

#[tokio::test]
async fn gets_of_ranges_and_of_whole_blocks_share_one_fetch() {
    let world = World::start(1, |_| {}).await;
    let at = world.place_far(1, 0..2, BYTES);
    world.reach(at).await;
    let held = world.far.gate.available_permits();
    world.far.gate.forget_permits(held);
    let ranged_gets = futures::future::join_all((0..3).map(|_| world.get(request(&world, 2))));
    let whole_gets = futures::future::join_all((0..3).map(|_| world.get(world.get_request(2))));
    let release = async {
        until(|| world.far.gets.load(Ordering::Relaxed) > 0).await;
        world.far.gate.add_permits(2);
    };
    let all = async { tokio::join!(ranged_gets, whole_gets, release) };
    let (ranged_gets, whole_gets, ()) = timeout(Duration::from_secs(10), all).await.unwrap();
    for (got, _) in ranged_gets {
        assert_eq!(ranged(&got), [0, 1]);
    }
    for (got, summary) in whole_gets {
        assert_eq!(places(&got), [0, 1]);
        assert!(got.iter().all(|got| got.bytes.len() == BYTES));
        assert_eq!(counted(&summary), 2 * BYTES as u64);
    }
    world.far.asked_once();
}

/// How a get fails, and the blocks that ended before it did.
async fn failed(world: &World, request: wire::GetRequest) -> (usize, Status) {
    let mut client = world.client.clone();
    let mut stream = match client.get(request).await {
        Ok(stream) => stream.into_inner(),
        Err(status) => return (0, status),
    };
    let mut ended = 0;
    let reading = async {
        loop {
            match stream.message().await {
                Ok(Some(frame)) if frame.end() == wire::BlockEnd::Complete => ended += 1,
                Ok(Some(frame)) => assert!(frame.summary.is_none(), "{frame:?}"),
                Ok(None) => panic!("it ended well"),
                Err(status) => return status,
            }
        }
    };
    let status = timeout(Duration::from_secs(10), reading).await.unwrap();
    (ended, status)
}

#[tokio::test]
async fn a_block_that_is_too_short_refuses_the_get_and_names_range_and_length() {
    for any_order in [false, true] {
        let world = World::start(1, |_| {}).await;
        for index in 0..3 {
            world.place(index, BYTES - index as usize, &[1]);
        }
        let at = world.place_far(1, 3..4, BYTES);
        let at_short = {
            world.far.keep(world.name(4, 0), block(4, 2 * PIECE));
            // The view is wrong about it.
            world
                .mesh
                .has("eu-west", 2, &[(world.name(4, 0), BYTES as u32)])
        };
        world.catch_up().await;
        world.reach(at).await;
        world.reach(at_short).await;
        let wanted = |blocks, start| wire::GetRequest {
            any_order,
            start,
            ..request(&world, blocks)
        };
        let (ended, status) = failed(&world, wanted(3, 0)).await;
        assert_eq!((ended, status.code()), (0, Code::InvalidArgument));
        let (from, end, has) = (3 * PIECE, BYTES, BYTES - 1);
        let says = format!("range {from}..{end} goes past the block's end: it has {has} bytes");
        assert!(status.message().contains(&says), "{status:?}");
        assert_eq!(world.nodes[0].gets.load(Ordering::Relaxed), 0);
        // Of another region, what it is said to be is not believed.
        let (_, status) = failed(&world, wanted(5, 3)).await;
        assert_eq!(status.code(), Code::InvalidArgument);
        let says = format!("it has {} bytes", 2 * PIECE);
        assert!(status.message().contains(&says), "{status:?}");
    }
}

#[tokio::test]
async fn ranges_that_cannot_be_are_refused_by_name() {
    let world = World::start(1, |_| {}).await;
    let range = |&(offset, length): &(u64, u64)| wire::ByteRange { offset, length };
    for (spans, says) in [
        (&[(3, 0)][..], "range from 3 has no byte"),
        (&[(0, 5), (4, 2)], "range from 4 begins before"),
        (&[(8, 1), (0, 5)], "range from 0 begins before"),
        (&[(5, u64::MAX)], "range from 5 goes past"),
        (&[(0, 1); 257], "over 256 ranges"),
    ] {
        let request = wire::GetRequest {
            ranges: spans.iter().map(range).collect(),
            ..world.get_request(3)
        };
        let (_, status) = failed(&world, request).await;
        assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
        let message = status.message();
        let named = message.contains(says) && message.contains("field ranges");
        assert!(named, "{message}");
    }
}
