//! What region-sync asks to be brought here, and what is wanted often enough.

use std::sync::atomic::Ordering;

use crate::fakes::{
    Mood,
    start::{World, until},
};
use kvmesh_client::ToWire;
use kvmesh_directory::{
    Command, Hlc, Namespace, Policy,
    namespace::{Fallback, ReplicationMode},
};
use kvmesh_proto::v1::{self as wire, PrefetchEnd};
use tonic::{Code, Status};

/// Seventy blocks there, two of them here.
async fn world(fallback: Fallback, change: impl FnOnce(&mut Policy)) -> World {
    let world = World::start_with(2, fallback, |_| {}).await;
    let mut policy = world.namespace.policy.clone();
    change(&mut policy);
    let changed = Namespace {
        policy,
        policy_hlc: Hlc(9),
        ..world.namespace.clone()
    };
    world.region.apply(Command::OpenNamespace(changed));
    for index in 0..2 {
        world.place(index, 900, &[1, 2]);
    }
    let at = world.place_far(1, 0..70, 900);
    world.catch_up().await;
    world.reach(at).await;
    world
}

fn keys(world: &World, indexes: impl IntoIterator<Item = u32>) -> wire::PrefetchRequest {
    let key = |index| world.name(index, 0).key().to_wire();
    wire::PrefetchRequest {
        namespace_id: world.namespace.id.to_wire(),
        region: "eu-west".to_owned(),
        keys: indexes.into_iter().map(key).collect(),
        ..Default::default()
    }
}

async fn bring(
    world: &World,
    request: wire::PrefetchRequest,
) -> Result<wire::PrefetchResponse, Status> {
    let mut stream = world.client.clone().prefetch(request).await?.into_inner();
    loop {
        let answer = stream.message().await?.unwrap();
        if answer.end() != PrefetchEnd::Unspecified {
            return Ok(answer);
        }
    }
}

fn here(world: &World, index: u32) -> bool {
    world.region.state().entry(&world.name(index, 0)).is_some()
}

#[tokio::test]
async fn blocks_that_are_named_are_brought_here_in_few_calls() {
    // Gets of this namespace go nowhere; what is pushed to it comes all the same.
    let world = world(Fallback::Never, |policy| {
        policy.replication = ReplicationMode::Push;
        policy.regions = vec!["us-east".parse().unwrap()];
    })
    .await;
    let mut wanted: Vec<u32> = (0..70).rev().collect();
    wanted.push(7);
    let end = bring(&world, keys(&world, wanted)).await.unwrap();
    assert_eq!(end.end(), PrefetchEnd::Complete, "{end:?}");
    assert_eq!((end.done_blocks, end.failed_blocks), (68, 0), "{end:?}");
    assert!((0..70).all(|index| here(&world, index)));
    assert_eq!(world.far.gets.load(Ordering::Relaxed), 2);
    // Nobody wanted them there.
    let asked = world.far.asked.lock().unwrap();
    assert!(asked.iter().all(|get| get.aside && get.touch.is_empty()));
    let asides = world
        .nodes
        .iter()
        .map(|it| it.asides.load(Ordering::Relaxed));
    assert_eq!(asides.sum::<usize>(), 68, "nor here");
}

#[tokio::test]
async fn what_is_not_there_is_said_to_have_failed() {
    let world = world(Fallback::Always, |_| {}).await;
    let end = bring(&world, keys(&world, [5, 90])).await.unwrap();
    assert_eq!(end.end(), PrefetchEnd::Partial, "{end:?}");
    assert_eq!((end.done_blocks, end.failed_blocks), (1, 1));
    assert!(here(&world, 5) && !here(&world, 90));

    let elsewhere = wire::PrefetchRequest {
        region: String::new(),
        ..keys(&world, [6])
    };
    let mut no_part = keys(&world, [6]);
    no_part.keys[0].part = Some(wire::Part { shard: 9, group: 0 });
    let many = keys(&world, 0..4_097);
    for request in [elsewhere, no_part, many] {
        let refused = bring(&world, request).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
    }
}

#[tokio::test]
async fn a_hot_namespace_keeps_what_was_wanted_so_often() {
    let world = world(Fallback::Always, |policy| {
        policy.replication = ReplicationMode::Hot;
        policy.hot_after = 2;
    })
    .await;
    let get = async |blocks| {
        let request = wire::GetRequest {
            await_fill: true,
            ..world.get_request(blocks)
        };
        let (got, summary) = world.get(request).await;
        assert_eq!(got.len() as u32, blocks);
        assert_eq!(summary.fill_failures, 0);
    };
    get(10).await;
    get(6).await;
    // The first six were wanted twice, the others once.
    until(|| (0..6).all(|index| here(&world, index))).await;
    assert!((6..10).all(|index| !here(&world, index)));
    let asked = world.far.asked.lock().unwrap().clone();
    assert!(asked.iter().all(|get| !get.aside), "they were wanted");
    let asides = world
        .nodes
        .iter()
        .map(|it| it.asides.load(Ordering::Relaxed));
    assert_eq!(asides.sum::<usize>(), 0);
    let calls = world.far.gets.load(Ordering::Relaxed);
    get(6).await;
    assert_eq!(world.far.gets.load(Ordering::Relaxed), calls);
    // What somebody asks to be kept is kept at once.
    bring(&world, keys(&world, [20])).await.unwrap();
    assert!(here(&world, 20));
}

#[tokio::test]
async fn a_region_that_a_hot_policy_does_not_name_keeps_nothing() {
    let world = world(Fallback::Always, |policy| {
        policy.replication = ReplicationMode::Hot;
        policy.hot_after = 1;
        policy.regions = vec!["ap-south".parse().unwrap()];
    })
    .await;
    for calls in 1..4 {
        world.get(world.get_request(6)).await;
        assert_eq!(world.far.gets.load(Ordering::Relaxed), calls);
    }
    assert!((2..6).all(|index| !here(&world, index)));
}

#[tokio::test]
async fn what_is_pushed_leaves_the_link_to_a_get() {
    let world = World::start_with(2, Fallback::Always, |_| {}).await;
    let at = world.place_far(1, 0..24, 100_000);
    let gateways = std::slice::from_ref(&world.far_address);
    // A megabyte a second: the get wants more than a second of it.
    world.mesh.link_of("eu-west", 1.0, 1e6, gateways);
    world.reach(at).await;
    world.far.be(Mood::Busy);
    let mut client = world.client.clone();
    let mut get = client
        .get(world.get_request(20))
        .await
        .unwrap()
        .into_inner();
    // It has begun.
    get.message().await.unwrap().unwrap();
    let push = async |deadline_ms| {
        let order = wire::PrefetchRequest {
            deadline_ms,
            ..keys(&world, 20..23)
        };
        bring(&world, order).await.unwrap()
    };
    // At the least that it has in any case, the second block would come after more than four
    // seconds; at half of the link all of them would have come.
    let end = push(1_500).await;
    assert_eq!(end.end(), PrefetchEnd::OutOfTime, "{end:?}");
    assert!(end.done_blocks <= 1, "{end:?}");
    drop(get);
    let end = push(10_000).await;
    assert_eq!(end.end(), PrefetchEnd::Complete, "{end:?}");
    assert!((20..23).all(|index| here(&world, index)));
    let asked = world.far.asked.lock().unwrap();
    let asides = asked.iter().filter(|get| get.aside);
    assert!(asides.count() >= 3, "a block each");
}
