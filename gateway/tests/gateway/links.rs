//! What gateways see of a link is told to region-sync, and what others saw is expected.

use kvmesh_client::ToWire;
use kvmesh_directory::namespace::Fallback;
use kvmesh_proto::v1 as wire;
use tokio::time::timeout;

use crate::fakes::{
    mesh::link,
    start::{World, chain, places, until},
};

const REGION: &str = "eu-west";

/// Ten blocks there, at a round trip of 80 ms.
async fn world() -> World {
    let world = World::start_with(1, Fallback::Always, |_| {}).await;
    let at = world.place_far(1, 0..10, 900);
    world.catch_up().await;
    world.reach(at).await;
    world
}

/// Milliseconds that fetching them is expected to take: half of the time, and 19 of 20 times.
async fn expected(world: &World) -> (f64, f64) {
    let query = wire::ChainQuery {
        chain: Some(chain(10)),
        ..Default::default()
    };
    let request = wire::LookupRequest {
        namespace_id: world.namespace.id.to_wire(),
        chains: vec![query],
        ..Default::default()
    };
    let answer = world.client.clone().lookup(request).await.unwrap();
    let remote = answer.into_inner().matches.remove(0).remote.remove(0);
    (remote.estimated_fetch_ms, remote.estimated_fetch_p95_ms)
}

async fn is_expected(world: &World, holds: impl Fn(f64, f64) -> bool) {
    let waited = async {
        loop {
            let (p50, p95) = expected(world).await;
            if holds(p50, p95) {
                return;
            }
        }
    };
    timeout(std::time::Duration::from_secs(10), waited)
        .await
        .unwrap();
}

#[tokio::test]
async fn what_a_fetch_showed_is_told_to_region_sync() {
    let world = world().await;
    let (got, _) = world.get(world.get_request(10)).await;
    assert_eq!(places(&got).len(), 10);
    until(|| !world.mesh.told.lock().unwrap().is_empty()).await;
    let told = world.mesh.told.lock().unwrap().clone();
    assert_eq!(told.len(), 1, "once: {told:?}");
    assert_eq!((told[0].region.as_str(), told[0].rtt_ms), (REGION, 80.0));
    assert!(told[0].first_byte_ms > 0.0, "{told:?}");
    assert_eq!(told[0].bytes, 9 * 900, "after the first block");
}

#[tokio::test]
async fn what_other_gateways_saw_is_expected() {
    let world = world().await;
    let near = |ms: f64, wanted: f64| (ms / wanted - 1.0).abs() < 0.01;
    is_expected(&world, |p50, _| near(p50, 80.0)).await;
    let say = |trips: f64, bandwidth: f64| {
        let seen = |median| wire::LinkSeen {
            median,
            sigma: 0.1,
            weight: 6.0,
            age_ms: 1_000,
        };
        let link = wire::LinkState {
            first_byte_trips: Some(seen(trips)),
            bandwidth_seen: Some(seen(bandwidth)),
            ..link(80.0, std::slice::from_ref(&world.far_address))
        };
        world.mesh.link_is(REGION, link);
    };
    // 9,000 bytes of bf16 at 100 kB/s: 63 ms, as they usually shrink.
    say(2.0, 100e3);
    is_expected(&world, |p50, p95| p50 > 160.0 && p50 < 260.0 && p95 > p50).await;
    // What is no estimate is as if nobody had seen anything.
    say(f64::NAN, -1.0);
    is_expected(&world, |p50, _| near(p50, 80.0)).await;
}
