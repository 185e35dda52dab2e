//! Blocks that another region is said to have, and says it has not.

use kvmesh_client::ToWire;
use kvmesh_proto::v1::{self as wire, GetOutcome};
use tokio::time::{Duration, Instant};

use crate::fakes::{
    Mood,
    start::{World, block, chain, places},
};

/// How often the other region was asked for a place.
fn asked_for(world: &World, index: u32) -> usize {
    let asked = world.far.asked.lock().unwrap();
    let all = asked.iter().flat_map(|it| &it.select);
    all.filter(|it| **it == index).count()
}

/// How far the mesh and the other region go, as a lookup says.
async fn looked_up(world: &World, blocks: u32) -> (u32, Vec<u32>) {
    let lookup = wire::LookupRequest {
        namespace_id: world.namespace.id.to_wire(),
        chains: vec![wire::ChainQuery {
            chain: Some(chain(blocks)),
            ..Default::default()
        }],
        ..Default::default()
    };
    let answer = world.client.clone().lookup(lookup).await.unwrap();
    let found = answer.into_inner().matches.remove(0);
    let remote = found.remote.iter().map(|remote| remote.blocks);
    (found.mesh_blocks, remote.collect())
}

fn one(world: &World, index: u32, blocks: u32) -> wire::GetRequest {
    wire::GetRequest {
        start: index,
        count: 1,
        ..world.get_request(blocks)
    }
}

#[tokio::test]
async fn what_a_region_lacks_is_asked_for_once_and_at_once_when_its_feed_names_it_again() {
    // It may say so of each block, or end before the first one.
    for mood in [Mood::Fine, Mood::EndsShort] {
        let world = World::start(1, |_| {}).await;
        let at = world.place_far(1, 0..3, 900);
        world.reach(at).await;
        world.far.be(mood);
        let lost = world.name(1, 0);
        world.far.blocks.lock().unwrap().remove(&lost);
        assert_eq!(looked_up(&world, 3).await, (3, vec![3]));
        let begun = Instant::now();
        for _ in 0..3 {
            let (got, summary) = world.get(world.get_request(3)).await;
            assert_eq!(places(&got), [0], "{mood:?}");
            assert_eq!(summary.outcome(), GetOutcome::Miss);
            let seen = (asked_for(&world, 1), looked_up(&world, 3).await);
            let forgotten = begun.elapsed() >= Duration::from_secs(2);
            assert!(seen == (1, (1, vec![1])) || forgotten, "{mood:?} {seen:?}");
        }
        // Of what lies behind it nothing was said.
        let (got, _) = world.get(one(&world, 2, 3)).await;
        assert_eq!(places(&got), [2], "{mood:?}");

        world.far.keep(lost, block(1, 900));
        let at = world.mesh.has("eu-west", 2, &[(lost, 900)]);
        world.reach(at).await;
        assert_eq!(looked_up(&world, 3).await.0, 3, "{mood:?}");
        let (got, _) = world.get(world.get_request(3)).await;
        assert_eq!(places(&got), [0, 1, 2], "{mood:?}");
        assert!(asked_for(&world, 1) >= 2, "{mood:?}");
    }
}

#[tokio::test]
async fn of_several_parts_none_is_said_to_be_missing() {
    let world = World::start(1, |_| {}).await;
    let at = world.place_far(1, 0..1, 900);
    world.far.be(Mood::EndsShort);
    // The region has lost this one, and says only that the two do not come.
    let second = world.mesh.has("eu-west", 2, &[(world.name(0, 1), 900)]);
    world.reach(at).await;
    world.reach(second).await;
    let parts = [0, 1].map(|shard| wire::Part { shard, group: 0 });
    let both = wire::GetRequest {
        parts: parts.to_vec(),
        ..world.get_request(1)
    };
    let (got, _) = world.get(both).await;
    assert!(got.is_empty());
    let first = wire::GetRequest {
        parts: vec![parts[0]],
        ..world.get_request(1)
    };
    let (got, _) = world.get(first).await;
    assert_eq!(places(&got), [0]);
}
