//! Gets that need another region.

use std::{sync::atomic::Ordering, time::Duration};

use crate::fakes::{
    Mood,
    mesh::position,
    start::{World, block, places},
};
use kvmesh_client::{FromWire, ToWire};
use kvmesh_directory::{Command, FeedPosition, Hlc, command::Deletion, namespace::Fallback};
use kvmesh_proto::v1::{self as wire, GetOutcome};
use tokio::time::{Instant, timeout};

const PIECE: usize = 1 << 20;

#[tokio::test]
async fn a_far_block_is_fetched_once_and_kept() {
    let world = World::start(2, |_| {}).await;
    for index in 0..2 {
        world.place(index, 900, &[1, 2]);
    }
    let at = world.place_far(1, 0..6, PIECE + 77);
    world.catch_up().await;
    world.reach(at).await;
    let request = wire::GetRequest {
        await_fill: true,
        ..world.get_request(7)
    };
    let (got, summary) = world.get(request.clone()).await;
    assert_eq!(places(&got), [0, 1, 2, 3, 4, 5]);
    assert_eq!((summary.outcome(), summary.blocks), (GetOutcome::Miss, 6));
    let counts = |summary: &wire::GetSummary| {
        let sources = summary.sources.iter();
        let count = |it: &wire::SourceCount| (it.region.clone(), it.blocks);
        sources.map(count).collect::<Vec<_>>()
    };
    assert_eq!(
        counts(&summary),
        [("eu-west".to_owned(), 4), ("us-east".to_owned(), 2)]
    );
    assert!(summary.fetch_ms.is_some() && summary.estimated_fetch_ms.unwrap() > 80.0);
    assert_eq!(summary.fill_failures, 0);
    let asked = world.far.asked.lock().unwrap().clone();
    let mut selected: Vec<u32> = asked.iter().flat_map(|it| it.select.clone()).collect();
    selected.sort_unstable();
    assert_eq!(selected, [2, 3, 4, 5]);
    let fits = |it: &wire::GetRequest| it.hop == 1 && (1..=5_000).contains(&it.deadline_ms);
    assert!(asked.iter().all(fits));
    let fills: Vec<_> = world
        .nodes
        .iter()
        .flat_map(|it| it.fills.lock().unwrap().clone())
        .collect();
    assert_eq!(fills.len(), 4);
    assert!(
        fills.iter().all(|(_, hlc)| *hlc == Hlc(50)),
        "a fill keeps the clock"
    );

    let fill = FeedPosition::from_wire(summary.fill_position.unwrap()).unwrap();
    let request = wire::GetRequest {
        at_least: vec![fill.to_wire()],
        ..request
    };
    let (got, summary) = world.get(request).await;
    assert_eq!(places(&got), [0, 1, 2, 3, 4, 5]);
    assert_eq!(counts(&summary), [("us-east".to_owned(), 6)]);
    assert_eq!(world.far.gets.load(Ordering::Relaxed), asked.len());
}

#[tokio::test]
async fn a_gateway_asked_from_afar_never_forwards() {
    let world = World::start(1, |_| {}).await;
    world.place(0, 900, &[1]);
    let at = world.place_far(1, 0..4, 900);
    world.catch_up().await;
    world.reach(at).await;
    let request = wire::GetRequest {
        hop: 1,
        ..world.get_request(4)
    };
    let (got, summary) = world.get(request).await;
    assert_eq!(places(&got), [0]);
    assert_eq!(summary.outcome(), GetOutcome::Miss);
    assert_eq!(world.far.gets.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn never_means_never() {
    let world = World::start_with(1, Fallback::Never, |_| {}).await;
    let at = world.place_far(1, 0..2, 900);
    world.reach(at).await;
    let (got, summary) = world.get(world.get_request(2)).await;
    assert!(got.is_empty());
    assert_eq!(summary.outcome(), GetOutcome::Miss);
    assert_eq!(world.far.gets.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn what_arrived_in_time_is_the_answer() {
    // The gateway's bound for `when_faster`, then the call's own deadline.
    for (deadline_ms, fallback) in [(0, Fallback::WhenFaster), (400, Fallback::Always)] {
        let world = World::start_with(1, fallback, |settings| {
            settings.remote_fetch_max_ms = 400;
        })
        .await;
        let at = world.place_far(1, 0..5, 2_000);
        world.reach(at).await;
        let held = world.far.gate.available_permits() - 3;
        world.far.gate.forget_permits(held);
        let request = wire::GetRequest {
            deadline_ms,
            await_fill: true,
            ..world.get_request(5)
        };
        let begun = Instant::now();
        let (got, summary) = world.get(request).await;
        assert!(begun.elapsed() < Duration::from_secs(3));
        assert_eq!(places(&got), [0, 1, 2]);
        assert_eq!(
            (summary.outcome(), summary.blocks),
            (GetOutcome::OutOfTime, 3)
        );
    }
}

#[tokio::test]
async fn a_named_deadline_overrides_the_gateways_bound() {
    let world = World::start_with(1, Fallback::WhenFaster, |settings| {
        settings.remote_fetch_max_ms = 1;
    })
    .await;
    let at = world.place_far(1, 0..3, PIECE);
    world.reach(at).await;
    let request = wire::GetRequest {
        deadline_ms: 60_000,
        ..world.get_request(3)
    };
    let (got, summary) = world.get(request).await;
    assert_eq!(places(&got), [0, 1, 2]);
    assert_eq!(summary.outcome(), GetOutcome::Complete);
}

#[tokio::test]
async fn concurrent_gets_share_one_fetch() {
    let world = World::start(1, |_| {}).await;
    let at = world.place_far(1, 0..4, PIECE / 2);
    world.reach(at).await;
    let held = world.far.gate.available_permits();
    world.far.gate.forget_permits(held);
    let gets = futures::future::join_all((0..8).map(|_| world.get(world.get_request(4))));
    let release = async {
        while world.far.gets.load(Ordering::Relaxed) == 0 {
            tokio::task::yield_now().await;
        }
        world.far.gate.add_permits(4);
    };
    let (gets, ()) = timeout(Duration::from_secs(10), async {
        tokio::join!(gets, release)
    })
    .await
    .unwrap();
    for (got, _) in gets {
        assert_eq!(places(&got), [0, 1, 2, 3]);
    }
    assert_eq!(world.far.gets.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_fetch_ends_when_its_last_waiter_leaves() {
    let world = World::start(1, |_| {}).await;
    let at = world.place_far(1, 0..1, PIECE);
    world.reach(at).await;
    world.far.be(Mood::Silent);
    let mut client = world.client.clone();
    let stream = client.get(world.get_request(1)).await.unwrap();
    let asked = || world.far.gets.load(Ordering::Relaxed);
    until(|| asked() == 1).await;
    drop(stream);
    // Another get then begins another fetch.
    world.far.be(Mood::Fine);
    let again = async {
        loop {
            let request = wire::GetRequest {
                deadline_ms: 200,
                ..world.get_request(1)
            };
            let (got, _) = world.get(request).await;
            if places(&got) == [0] {
                return;
            }
        }
    };
    timeout(Duration::from_secs(4), again).await.unwrap();
    assert!(asked() >= 2);
}

#[tokio::test]
async fn another_far_gateway_takes_over() {
    let world = World::start(1, |_| {}).await;
    let at = world.place_far(1, 0..3, 1_000);
    // Nobody listens there.
    let dead = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap().to_string()
    };
    world
        .mesh
        .link("eu-west", 80.0, &[dead, world.far_address.clone()]);
    let at_two = world.mesh.has("eu-west", 2, &[]);
    world.reach(at).await;
    world.reach(at_two).await;
    for _ in 0..2 {
        let (got, _) = world.get(world.get_request(3)).await;
        assert_eq!(places(&got), [0, 1, 2]);
    }
}

#[tokio::test]
async fn a_far_region_that_lost_the_block_makes_a_miss() {
    let world = World::start(1, |_| {}).await;
    let at = world.place_far(1, 0..3, 1_000);
    world.reach(at).await;
    world.far.blocks.lock().unwrap().remove(&world.name(1, 0));
    let (got, summary) = world.get(world.get_request(3)).await;
    assert_eq!(places(&got), [0]);
    assert_eq!(summary.outcome(), GetOutcome::Miss);
}

#[tokio::test]
async fn what_was_deleted_here_does_not_come_back_from_afar() {
    let world = World::start(1, |_| {}).await;
    let at = world.place_far(1, 0..2, 1_000);
    world.region.apply(Command::Delete(Deletion {
        namespace: world.namespace.id,
        keys: vec![world.name(1, 0).key()],
        hlc: Hlc(50),
    }));
    world.catch_up().await;
    world.reach(at).await;
    let (got, summary) = world.get(world.get_request(2)).await;
    assert_eq!(places(&got), [0]);
    assert_eq!(summary.outcome(), GetOutcome::Miss);
}

#[tokio::test]
async fn a_get_begun_after_a_delete_joins_no_earlier_fetch() {
    let world = World::start(1, |_| {}).await;
    let at = world.place_far(1, 0..1, 1_000);
    world.reach(at).await;
    // Its fill does not end, so the fetch stays in the table.
    world.nodes[0].be(Mood::Mute);
    let (got, _) = world.get(world.get_request(1)).await;
    assert_eq!(places(&got), [0]);
    world.region.apply(Command::Delete(Deletion {
        namespace: world.namespace.id,
        keys: vec![world.name(0, 0).key()],
        hlc: Hlc(1 << 60),
    }));
    world.catch_up().await;
    let (got, summary) = world.get(world.get_request(1)).await;
    assert_eq!(places(&got), [0; 0]);
    assert_eq!(summary.outcome(), GetOutcome::Miss);
}

/// A delete is acknowledged without waiting for gateways: one whose feed lags must find out.
#[tokio::test]
async fn a_gateway_that_lags_returns_no_deleted_block_from_afar() {
    let world = World::start(1, |_| {}).await;
    let at = world.place_far(1, 0..1, 1_000);
    world.reach(at).await;
    world.region.held.send_replace(true);
    world.region.apply(Command::Delete(Deletion {
        namespace: world.namespace.id,
        keys: vec![world.name(0, 0).key()],
        hlc: Hlc(1 << 60),
    }));
    let hasty = wire::GetRequest {
        deadline_ms: 500,
        ..world.get_request(1)
    };
    let (got, _) = world.get(hasty).await;
    assert_eq!(places(&got), [0; 0]);
    let catches_up = async {
        let asked = || world.nodes[0].lookups.load(Ordering::Relaxed);
        let before = asked();
        until(|| asked() > before).await;
        world.region.held.send_replace(false);
    };
    let get = world.get(world.get_request(1));
    let ((got, summary), ()) = tokio::join!(get, catches_up);
    assert_eq!(places(&got), [0; 0]);
    assert_eq!(summary.outcome(), GetOutcome::Miss);
}

#[tokio::test]
async fn no_block_comes_from_afar_while_no_node_holds_its_lease() {
    let world = World::start(1, |_| {}).await;
    let at = world.place_far(1, 0..1, 1_000);
    world.reach(at).await;
    world.nodes[0].be(Mood::CutOff);
    let (got, summary) = world.get(world.get_request(1)).await;
    assert_eq!(places(&got), [0; 0]);
    assert_eq!(summary.outcome(), GetOutcome::SourceFailed);
    world.nodes[0].be(Mood::Fine);
    let (got, _) = world.get(world.get_request(1)).await;
    assert_eq!(places(&got), [0]);
}

#[tokio::test]
async fn local_and_far_blocks_make_one_run() {
    let world = World::start(2, |_| {}).await;
    for index in [1, 3, 5] {
        world.place(index, PIECE, &[1 + u64::from(index) % 2]);
    }
    let at = world.place_far(1, 0..7, 3_000);
    world.catch_up().await;
    world.reach(at).await;
    let (got, summary) = world.get(world.get_request(7)).await;
    assert_eq!(places(&got), (0..7).collect::<Vec<_>>());
    assert_eq!(summary.outcome(), GetOutcome::Complete);
    let far = got.iter().filter(|got| got.region == "eu-west");
    assert_eq!(far.map(|got| got.index).collect::<Vec<_>>(), [0, 2, 4, 6]);
}

#[tokio::test]
async fn a_local_holder_that_fails_is_replaced_by_the_far_region() {
    let world = World::start(1, |_| {}).await;
    world.place(0, 3_000, &[1]);
    let at = world.place_far(1, 0..1, 3_000);
    world.catch_up().await;
    world.reach(at).await;
    world.nodes[0].be(Mood::Forgetful);
    let (got, summary) = world.get(world.get_request(1)).await;
    assert_eq!(places(&got), [0]);
    assert_eq!(got[0].region, "eu-west");
    assert_eq!(summary.outcome(), GetOutcome::Complete);
}

#[tokio::test]
async fn positions_of_other_regions_are_waited_for_in_the_mesh_view() {
    let world = World::start(1, |_| {}).await;
    let at = world.place_far(5, 0..1, 1_000);
    world.reach(at).await;
    let request = wire::GetRequest {
        at_least: vec![position("eu-west", 6).to_wire()],
        ..world.get_request(1)
    };
    let (_, summary) = world.get(request.clone()).await;
    assert_eq!(summary.outcome(), GetOutcome::ViewBehind);
    let arrives = async {
        tokio::task::yield_now().await;
        world.mesh.has(
            "eu-west",
            6,
            &[(world.name(0, 0), block(0, 1_000).meta.bytes as u32)],
        );
    };
    let patient = wire::GetRequest {
        deadline_ms: 5_000,
        ..request
    };
    let ((got, _), ()) = tokio::join!(world.get(patient), arrives);
    assert_eq!(places(&got), [0]);
}

async fn until(mut holds: impl FnMut() -> bool) {
    let held = async {
        while !holds() {
            tokio::task::yield_now().await;
        }
    };
    timeout(Duration::from_secs(10), held).await.unwrap();
}

#[tokio::test]
async fn a_far_gateway_is_connected_to_before_anything_is_asked_of_it() {
    let world = World::start(1, |_| {}).await;
    let far = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = far.local_addr().unwrap().to_string();
    world.mesh.link("ap-south", 10.0, &[address]);
    let connected = timeout(Duration::from_secs(5), far.accept()).await;
    connected.expect("nobody connected").unwrap();
}
