//! Fetches whose first bytes are late, and that are asked for a second time.

use std::sync::{Arc, atomic::Ordering};

use kvmesh_client::ToWire;
use kvmesh_directory::{Description, Hlc, Namespace};
use kvmesh_proto::v1::{self as wire, GetOutcome, LeftOutReason};
use tokio::time::{Duration, Instant, timeout};
use tokio_util::sync::CancellationToken;

use crate::{
    fakes::{
        Holder, Mood,
        start::{World, block, chain, description, places, until},
    },
    reach::goes_by_a_way,
};

const PIECE: usize = 1 << 20;

/// Two regions that have the same blocks; the nearer one is `world.far`, at so many milliseconds.
async fn two_regions(world: &World, rtt_ms: f64, blocks: u32, bytes: usize) -> Arc<Holder> {
    let at = world.place_far(1, 0..blocks, bytes);
    let near = std::slice::from_ref(&world.far_address);
    world.mesh.link("eu-west", rtt_ms, near);
    let near = world.mesh.has("eu-west", 2, &[]);
    let (other, address) = world.another_far("ap-south").await;
    for index in 0..blocks {
        other.keep(world.name(index, 0), block(index, bytes));
    }
    world.mesh.link("ap-south", rtt_ms + 10.0, &[address]);
    let names: Vec<_> = (0..blocks)
        .map(|index| (world.name(index, 0), bytes as u32))
        .collect();
    let there = world.mesh.has("ap-south", 1, &names);
    for position in [at, near, there] {
        world.reach(position).await;
    }
    other
}

fn gets(holder: &Holder) -> usize {
    holder.gets.load(Ordering::Relaxed)
}

fn left(holder: &Holder) -> usize {
    holder.left.load(Ordering::Relaxed)
}

fn hold(holder: &Holder) {
    let held = holder.gate.available_permits();
    holder.gate.forget_permits(held);
}

fn one(world: &World, index: u32, deadline_ms: u32) -> wire::GetRequest {
    wire::GetRequest {
        start: index,
        count: 1,
        deadline_ms,
        ..world.get_request(index + 1)
    }
}

#[tokio::test]
async fn another_region_brings_what_is_late_and_the_first_one_is_left() {
    let world = World::start(1, |_| {}).await;
    let other = two_regions(&world, 10.0, 2, 900).await;
    // It began to answer, and sends nothing.
    world.far.be(Mood::Silent);
    let calls = |holder: &Holder| holder.calls.load(Ordering::Relaxed);
    for index in [1, 0] {
        let begun = Instant::now();
        let (got, summary) = world.get(one(&world, index, 60_000)).await;
        assert_eq!(places(&got), [index]);
        assert_eq!(got[0].region, "ap-south");
        assert_eq!(summary.outcome(), GetOutcome::Complete);
        assert!(summary.left_out.is_empty());
        // Long before the call's deadline.
        assert!(begun.elapsed() < Duration::from_secs(5));
        let asked = 2 - index as usize;
        until(|| left(&world.far) == asked).await;
        assert_eq!((calls(&world.far), calls(&other)), (asked, asked));
    }
}

#[tokio::test]
async fn another_gateway_of_the_region_is_asked_before_another_region() {
    let world = World::start(1, |_| {}).await;
    let other = two_regions(&world, 10.0, 8, 900).await;
    let (beside, address) = world.another_far("eu-west").await;
    for index in 0..8 {
        beside.keep(world.name(index, 0), block(index, 900));
    }
    let gateways = [world.far_address.clone(), address];
    world.mesh.link("eu-west", 10.0, &gateways);
    world.reach(world.mesh.has("eu-west", 3, &[])).await;
    world.far.be(Mood::Silent);
    // Either may be the first one.
    for index in 0..8 {
        let (got, _) = world.get(one(&world, index, 60_000)).await;
        assert_eq!(places(&got), [index]);
        assert_eq!(got[0].region, "eu-west");
        if gets(&world.far) > 0 {
            break;
        }
    }
    assert_eq!(gets(&world.far), 1);
    until(|| left(&world.far) == 1).await;
    assert_eq!(gets(&other), 0);
}

#[tokio::test]
async fn the_first_one_may_win_and_the_second_one_is_left() {
    let world = World::start(1, |_| {}).await;
    let other = two_regions(&world, 10.0, 1, 900).await;
    hold(&world.far);
    other.be(Mood::Silent);
    let get = world.get(one(&world, 0, 60_000));
    let release = async {
        until(|| gets(&other) == 1).await;
        world.far.gate.add_permits(1);
    };
    let ((got, _), ()) = tokio::join!(get, release);
    assert_eq!(got[0].region, "eu-west");
    until(|| left(&other) == 1).await;
}

/// What the second one lacks says nothing of the first one.
#[tokio::test]
async fn a_second_one_without_the_block_does_not_end_the_fetch() {
    let world = World::start(1, |_| {}).await;
    let other = two_regions(&world, 10.0, 1, 900).await;
    hold(&world.far);
    other.be(Mood::EndsShort);
    other.blocks.lock().unwrap().clear();
    let get = world.get(one(&world, 0, 60_000));
    let release = async {
        until(|| gets(&other) == 1).await;
        world.far.gate.add_permits(1);
    };
    let ((got, _), ()) = tokio::join!(get, release);
    assert_eq!(places(&got), [0]);
    assert_eq!((gets(&world.far), gets(&other)), (1, 1));
}

#[tokio::test]
async fn what_is_not_late_is_asked_for_once() {
    let world = World::start(1, |_| {}).await;
    // Over a link of 3 s nothing is late here.
    let other = two_regions(&world, 3_000.0, 2, 900).await;
    hold(&world.far);
    let get = world.get(world.get_request(2));
    let release = async {
        until(|| gets(&world.far) == 1).await;
        let asked = until(|| gets(&other) > 0);
        let asked = timeout(Duration::from_millis(300), asked).await;
        assert!(asked.is_err());
        world.far.gate.add_permits(2);
    };
    let ((got, _), ()) = tokio::join!(get, release);
    assert_eq!(places(&got), [0, 1]);
    assert_eq!((gets(&world.far), gets(&other)), (1, 0));
}

/// Gets of eight blocks, all at once, of a region that sends nothing; those served.
async fn served_late(budget: u64) -> usize {
    let blocks = 8;
    let world = World::start(1, |settings| settings.hedge_budget_permille = budget).await;
    let other = two_regions(&world, 10.0, blocks, 900).await;
    world.far.be(Mood::Silent);
    let gets_of = (0..blocks).map(|index| world.get(one(&world, index, 1_500)));
    let all = futures::future::join_all(gets_of).await;
    let served = all.iter().filter(|(got, _)| !got.is_empty()).count();
    assert_eq!(gets(&other), served);
    assert_eq!(gets(&world.far), blocks as usize);
    served
}

#[tokio::test]
async fn no_more_is_asked_for_twice_than_the_budget_has() {
    assert_eq!(served_late(0).await, 0);
    // A few, and a share of these is not one yet.
    assert_eq!(served_late(50).await, 4);
}

#[tokio::test]
async fn only_a_region_that_has_all_and_may_is_asked() {
    let world = World::start(1, |_| {}).await;
    let other = two_regions(&world, 10.0, 1, 900).await;
    // Of these, the other one has the first only.
    world.far.keep(world.name(1, 0), block(1, 900));
    let at = world.mesh.has("eu-west", 3, &[(world.name(1, 0), 900)]);
    world.reach(at).await;
    world.far.be(Mood::Silent);
    let both = wire::GetRequest {
        deadline_ms: 500,
        ..world.get_request(2)
    };
    let (got, summary) = world.get(both).await;
    assert!(got.is_empty());
    assert_eq!(summary.outcome(), GetOutcome::OutOfTime);
    assert_eq!(gets(&other), 0);

    // It has this one, too, and the namespace may not be there.
    let description = Description {
        residency: ["eu-west", "us-east"].map(|it| it.parse().unwrap()).into(),
        ..description()
    };
    let residing = Namespace {
        id: description.id(),
        name: "stays".to_owned(),
        description,
        ..world.namespace.clone()
    };
    world.region.open(residing.clone());
    world.catch_up().await;
    let name = kvmesh_directory::BlockName {
        namespace: residing.id,
        ..world.name(0, 0)
    };
    for (region, index) in [("eu-west", 4), ("ap-south", 4)] {
        world
            .reach(world.mesh.has(region, index, &[(name, 900)]))
            .await;
    }
    let request = wire::GetRequest {
        namespace_id: residing.id.to_wire(),
        ..one(&world, 0, 500)
    };
    let before = gets(&world.far);
    assert!(world.get(request).await.0.is_empty());
    assert_eq!((gets(&world.far), gets(&other)), (before + 1, 0));
}

/// The second one breaks off in the middle: the first one is asked for the rest, and what it
/// sends is taken if it is of the same block.
#[tokio::test]
async fn no_block_is_made_of_two_contents() {
    let bytes = 2 * PIECE + 7;
    for same in [true, false] {
        let world = World::start(1, |_| {}).await;
        let other = two_regions(&world, 10.0, 1, bytes).await;
        if !same {
            let mut second = block(9, bytes);
            second.meta.put_hlc = Hlc(51);
            other.keep(world.name(0, 0), second);
        }
        world.far.be(Mood::Silent);
        other.be(Mood::BreaksOnce);
        let get = world.get(one(&world, 0, 60_000));
        let recovers = async {
            until(|| gets(&other) == 1).await;
            world.far.be(Mood::Fine);
        };
        let ((got, summary), ()) = tokio::join!(get, recovers);
        let asked = world.far.asked.lock().unwrap().clone();
        let rest: Vec<u64> = asked
            .iter()
            .flat_map(|it| it.ranges.iter().map(|range| range.offset))
            .collect();
        assert_eq!(rest, [PIECE as u64], "{summary:?}");
        match same {
            true => assert_eq!(places(&got), [0]),
            // From whom it is asked next: whole, and of one of them.
            false => got.iter().for_each(|got| {
                assert_eq!(got.bytes, block(9, bytes).pieces.concat());
            }),
        }
    }
}

async fn unreached(world: &World) -> bool {
    let lookup = wire::LookupRequest {
        namespace_id: world.namespace.id.to_wire(),
        chains: vec![wire::ChainQuery {
            chain: Some(chain(1)),
            ..Default::default()
        }],
        ..Default::default()
    };
    let answer = world.client.clone().lookup(lookup).await.unwrap();
    let left_out = answer.into_inner().left_out;
    let lost =
        |it: &wire::LeftOut| it.region == "eu-west" && it.reason() == LeftOutReason::Unreached;
    left_out.iter().any(lost)
}

#[tokio::test]
async fn a_region_that_is_dead_is_found_though_another_one_answers_for_it() {
    let world = World::start(1, |_| {}).await;
    two_regions(&world, 10.0, 2, 900).await;
    let dead = CancellationToken::new();
    goes_by_a_way(&world, &dead).await;
    dead.cancel();
    let begun = Instant::now();
    let (got, _) = world.get(one(&world, 1, 60_000)).await;
    assert_eq!(got[0].region, "ap-south");
    assert!(
        begun.elapsed() < Duration::from_secs(2),
        "{:?}",
        begun.elapsed()
    );
    // Sooner than whoever keeps connections warm comes by in its turn.
    let found = async {
        while !unreached(&world).await {
            tokio::task::yield_now().await;
        }
    };
    timeout(Duration::from_secs(5), found).await.unwrap();
}

/// What it answers beside a dead one is that it lacks the block, and there is no time to ask it
/// by itself.
#[tokio::test]
async fn a_region_of_which_another_gateway_answers_is_not_lost() {
    let world = World::start(1, |settings| settings.connect_timeout_ms = 100).await;
    let at = world.place_far(1, 0..4, 900);
    let (beside, address) = world.another_far("eu-west").await;
    let dead = CancellationToken::new();
    let way = goes_by_a_way(&world, &dead).await;
    world.reach(at).await;
    world.mesh.link("eu-west", 200.0, &[way, address]);
    world.reach(world.mesh.has("eu-west", 2, &[])).await;
    dead.cancel();
    // Either may be the first one. The dead one takes as long as all may take.
    let begun = Instant::now();
    for index in 0..4 {
        let (got, _) = world.get(one(&world, index, 60_000)).await;
        assert!(got.is_empty());
        assert!(!unreached(&world).await);
        if begun.elapsed() > Duration::from_millis(450) {
            break;
        }
    }
    assert!(begun.elapsed() > Duration::from_millis(450));
    assert!(gets(&beside) > 0);
}
