//! Gets whose blocks may come in any order.

use std::time::Duration;

use crate::fakes::{
    Mood,
    start::{Got, World, places},
};
use kvmesh_proto::v1::{self as wire, GetOutcome};
use tokio::{sync::Semaphore, time::timeout};
use tonic::Streaming;

const PIECE: usize = 1 << 20;

fn request(world: &World, blocks: u32) -> wire::GetRequest {
    wire::GetRequest {
        any_order: true,
        deadline_ms: 60_000,
        ..world.get_request(blocks)
    }
}

fn close(gate: &Semaphore) {
    gate.forget_permits(gate.available_permits());
}

async fn begin(world: &World, request: wire::GetRequest) -> Streaming<wire::GetResponse> {
    world
        .client
        .clone()
        .get(request)
        .await
        .unwrap()
        .into_inner()
}

/// The next whole block's place.
async fn next(stream: &mut Streaming<wire::GetResponse>) -> u32 {
    let mut index = None;
    loop {
        let frame = timeout(Duration::from_secs(20), stream.message()).await;
        let frame = frame.expect("a block in time").unwrap().unwrap();
        assert!(frame.summary.is_none(), "{frame:?}");
        let end = frame.end();
        index = frame.header.map(|header| header.index).or(index);
        if end == wire::BlockEnd::Complete {
            return index.unwrap();
        }
    }
}

fn sorted(got: &[Got]) -> Vec<u32> {
    let mut places = places(got);
    places.sort_unstable();
    places
}

#[tokio::test]
async fn blocks_of_a_node_do_not_wait_for_those_of_another() {
    let world = World::start(2, |settings| settings.owner_timeout_ms = 60_000).await;
    for index in 0..6 {
        world.place(index, PIECE + 7, &[1 + u64::from(index) % 2]);
    }
    world.catch_up().await;
    close(&world.nodes[0].gate);
    let mut stream = begin(&world, request(&world, 6)).await;
    for place in [1, 3, 5] {
        assert_eq!(next(&mut stream).await, place);
    }
    world.nodes[0].gate.add_permits(3);
    for place in [0, 2, 4] {
        assert_eq!(next(&mut stream).await, place);
    }
    let summary = stream.message().await.unwrap().unwrap().summary.unwrap();
    assert_eq!(summary.outcome(), GetOutcome::Complete);
    assert_eq!((summary.blocks, summary.sources[0].blocks), (6, 6));
}

#[tokio::test]
async fn blocks_of_the_region_do_not_wait_for_those_from_afar() {
    let world = World::start(1, |_| {}).await;
    for index in 2..4 {
        world.place(index, 2_000, &[1]);
    }
    let at = world.place_far(1, 0..2, PIECE + 1);
    world.catch_up().await;
    world.reach(at).await;
    close(&world.far.gate);
    let mut stream = begin(&world, request(&world, 4)).await;
    assert_eq!((next(&mut stream).await, next(&mut stream).await), (2, 3));
    world.far.gate.add_permits(2);
    let mut last = [next(&mut stream).await, next(&mut stream).await];
    last.sort_unstable();
    assert_eq!(last, [0, 1]);
    let asked = world.far.asked.lock().unwrap()[0].clone();
    assert!(asked.any_order, "the far gateway may do so, too");
}

#[tokio::test]
async fn time_that_runs_out_leaves_whole_blocks_and_the_run_before_the_first_hole() {
    let world = World::start(1, |_| {}).await;
    for index in [0, 1, 3, 4] {
        world.place(index, 2_000, &[1]);
    }
    let at = world.place_far(1, 2..3, 2_000);
    world.catch_up().await;
    world.reach(at).await;
    close(&world.far.gate);
    let hasty = wire::GetRequest {
        deadline_ms: 2_000,
        ..request(&world, 5)
    };
    let (got, summary) = world.get(hasty).await;
    assert_eq!(sorted(&got), [0, 1, 3, 4]);
    assert_eq!(
        (summary.outcome(), summary.blocks),
        (GetOutcome::OutOfTime, 2)
    );
    // A run that is too short is not begun.
    let picky = wire::GetRequest {
        blocks_min: 6,
        ..request(&world, 8)
    };
    let (got, summary) = world.get(picky).await;
    assert!(got.is_empty());
    assert_eq!(summary.outcome(), GetOutcome::TooShort);
}

#[tokio::test]
async fn what_lies_behind_a_hole_is_not_waited_for() {
    let world = World::start(2, |settings| settings.owner_timeout_ms = 60_000).await;
    for index in 0..4 {
        world.place(index, 2_000, &[1]);
    }
    for index in 4..6 {
        world.place(index, 2_000, &[2]);
    }
    world.catch_up().await;
    close(&world.nodes[1].gate);
    let lost = world.name(2, 0);
    world.nodes[0].blocks.lock().unwrap().remove(&lost);
    let (got, summary) = world.get(request(&world, 6)).await;
    assert_eq!(&sorted(&got)[..2], [0, 1]);
    assert_eq!(
        (summary.outcome(), summary.blocks),
        (GetOutcome::SourceFailed, 2)
    );
}

#[tokio::test]
async fn holders_that_fail_are_replaced_and_rounds_go_on() {
    for mood in [Mood::Forgetful, Mood::BreaksOff, Mood::Silent] {
        // A fake on a busy machine is not a silent one.
        let world = World::start(3, |settings| settings.owner_timeout_ms = 3_000).await;
        for index in 0..12 {
            let other = 2 + u64::from(index) % 2;
            world.place(index, 3 * PIECE / 2, &[1, other]);
        }
        let at = world.place_far(1, 12..14, PIECE);
        world.catch_up().await;
        world.reach(at).await;
        world.nodes[0].be(mood);
        let (got, summary) = world.get(request(&world, 14)).await;
        assert_eq!(sorted(&got), (0..14).collect::<Vec<_>>(), "{mood:?}");
        assert_eq!(summary.outcome(), GetOutcome::Complete, "{mood:?}");
        assert_eq!(summary.blocks, 14);
        let most = world.nodes[1].asked.lock().unwrap().clone();
        let most = most.iter().map(|asked| asked.select.len()).max();
        assert!(most < Some(6), "one call asked for all: {most:?}");
    }
}
