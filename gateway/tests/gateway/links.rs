//! What gateways see of a link is told to region-sync, and what others saw is expected; and new
//! connections are measured.

use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use kvmesh_client::{ToWire, channel::sent_at_once};
use kvmesh_directory::{limits::LINK_MEASURE_BYTES_MAX, namespace::Fallback};
use kvmesh_gateway::Settings;
use kvmesh_process::Environment;
use kvmesh_proto::v1::{self as wire, link_client::LinkClient};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tonic::Code;

use crate::fakes::{
    mesh::link,
    start::{World, chain, channel_to, gateway_at, places, until},
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
    timeout(Duration::from_secs(10), waited).await.unwrap();
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

/// A gateway of the other region, which knows nothing.
async fn far_gateway(stop: &CancellationToken) -> String {
    let settings = Settings {
        region: REGION.to_owned(),
        nodes: vec!["127.0.0.1:1".to_owned()],
        ..Settings::default()
    };
    let environment = Environment::real("eu-west/gateway");
    gateway_at(settings, environment, None, stop).await
}

#[tokio::test]
async fn a_new_connection_over_a_long_link_is_measured() {
    let stop = CancellationToken::new();
    let _stop = stop.clone().drop_guard();
    let far = far_gateway(&stop).await;
    let world = World::start(1, |settings| settings.measure_bytes_max = 8 << 20).await;
    // 1 Gbit/s: twice what is on the way is more than it may be.
    world.mesh.link(REGION, 80.0, std::slice::from_ref(&far));
    let told = || world.mesh.told.lock().unwrap().clone();
    until(|| !told().is_empty()).await;
    assert_eq!(told().len(), 1, "{:?}", told());
    let told = &told()[0];
    assert_eq!((told.region.as_str(), told.rtt_ms), (REGION, 80.0));
    // The first half came while the rate grew.
    assert_eq!(told.bytes, 4 << 20);
    assert!(told.took_ms > 0.0 && told.first_byte_ms > 0.0, "{told:?}");
}

#[tokio::test]
async fn bytes_that_say_nothing_are_served_and_bounded() {
    let stop = CancellationToken::new();
    let _stop = stop.clone().drop_guard();
    let far = far_gateway(&stop).await;
    let client = LinkClient::new(channel_to(&far)).max_decoding_message_size(8 << 20);
    let ask = async |bytes| {
        let asked = client.clone().measure(wire::MeasureRequest { bytes }).await;
        asked.map(tonic::Response::into_inner)
    };
    for bytes in [0, 1, 300 << 10, 5 << 20] {
        let came = ask(bytes).await.unwrap();
        let came: Vec<wire::MeasureResponse> = came.try_collect().await.unwrap();
        let filling = came.iter().map(|message| message.filling.len() as u64);
        assert_eq!(filling.sum::<u64>(), bytes);
        assert_eq!(came[0].sent_at_once, sent_at_once(""));
        assert!(came[1..].iter().all(|it| it.sent_at_once == 0));
    }
    let too_many = ask(LINK_MEASURE_BYTES_MAX + 1).await.unwrap_err();
    assert_eq!(too_many.code(), Code::InvalidArgument);

    // Those who do not read keep their places, up to the end of their time.
    let mut unread = Vec::new();
    for _ in 0..4 {
        let mut came = ask(LINK_MEASURE_BYTES_MAX).await.unwrap();
        came.next().await.unwrap().unwrap();
        unread.push(came);
    }
    let another = ask(1).await.unwrap_err();
    assert_eq!(another.code(), Code::ResourceExhausted);
    unread.pop();
    let served = async { while ask(1).await.is_err() {} };
    timeout(Duration::from_secs(10), served).await.unwrap();
}
