//! Fetches from another region over several connections, and such as break under way.

use crate::fakes::{
    Mood,
    start::{World, block, places},
};
use kvmesh_proto::v1::GetOutcome;

const PIECE: usize = 1 << 20;

/// What was asked for: indexes, and the first byte of each range.
fn asked(world: &World) -> Vec<(Vec<u32>, Vec<u64>)> {
    let asked = world.far.asked.lock().unwrap();
    let asked = asked.iter().map(|it| {
        let from = it.ranges.iter().map(|range| range.offset).collect();
        (it.select.clone(), from)
    });
    asked.collect()
}

#[tokio::test]
async fn a_long_fetch_is_dealt_to_lanes_and_comes_in_order() {
    let world = World::start(1, |_| {}).await;
    // 125 MB/s and 80 ms: five lanes of 2 MiB.
    let at = world.place_far(1, 0..12, PIECE);
    world.reach(at).await;
    let (got, summary) = world.get(world.get_request(12)).await;
    assert_eq!(places(&got), (0..12).collect::<Vec<_>>());
    assert_eq!(summary.outcome(), GetOutcome::Complete);
    for (index, got) in (0..).zip(&got) {
        assert_eq!(got.bytes, block(index, PIECE).pieces.concat());
    }
    let mut asked = asked(&world);
    asked.sort();
    let lane = |first: u32| (first..12).step_by(5).collect::<Vec<_>>();
    let lanes: Vec<_> = (0..5).map(|first| (lane(first), Vec::new())).collect();
    assert_eq!(asked, lanes);
}

#[tokio::test]
async fn a_fetch_that_breaks_goes_on_and_what_came_does_not_come_again() {
    let world = World::start(1, |_| {}).await;
    let at = world.place_far(1, 0..2, 2 * PIECE + 7);
    world
        .mesh
        .link("eu-west", 1.0, std::slice::from_ref(&world.far_address));
    let at_two = world.mesh.has("eu-west", 2, &[]);
    world.reach(at).await;
    world.reach(at_two).await;
    world.far.be(Mood::BreaksOnce);
    let (got, summary) = world.get(world.get_request(2)).await;
    assert_eq!(summary.outcome(), GetOutcome::Complete, "{summary:?}");
    for (index, got) in (0..).zip(&got) {
        assert_eq!(got.bytes, block(index, 2 * PIECE + 7).pieces.concat());
    }
    let rest = (vec![0], vec![PIECE as u64]);
    assert_eq!(
        asked(&world),
        [(vec![0, 1], vec![]), rest, (vec![1], vec![])]
    );
}

#[tokio::test]
async fn the_rest_of_another_put_is_not_taken_for_it() {
    let world = World::start(1, |_| {}).await;
    let at = world.place_far(1, 0..1, 2 * PIECE + 7);
    world.reach(at).await;
    world.far.be(Mood::Fickle);
    let (got, summary) = world.get(world.get_request(1)).await;
    assert!(got.is_empty(), "{summary:?}");
    assert_eq!(asked(&world).len(), 2);
    // It is had whole from now on.
    let (got, _) = world.get(world.get_request(1)).await;
    assert_eq!(got[0].bytes, block(0, 2 * PIECE + 7).pieces.concat());
}
