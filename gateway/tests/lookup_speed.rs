//! How long a lookup takes over loopback. Only a release build says something:
//! `cargo test --release -p kvmesh-gateway --test lookup_speed -- --ignored --nocapture`.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod fakes;

use std::{sync::atomic::Ordering, time::Duration};

use fakes::start::{World, block, chain};
use kvmesh_client::ToWire;
use kvmesh_proto::v1 as wire;
use tokio::time::Instant;

const BLOCKS: u32 = 1_024;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "measures: run it alone, in a release build"]
async fn half_of_the_lookups_of_1024_blocks_take_under_500_microseconds() {
    let world = World::start(3, |_| {}).await;
    let meta = block(0, 16_384).meta;
    for index in 0..BLOCKS {
        world.region.claim(world.name(index, 0), &meta, &[1, 2]);
    }
    let at = world.place_far(1, 0..BLOCKS, 1);
    world.catch_up().await;
    world.reach(at).await;
    let request = wire::LookupRequest {
        namespace_id: world.namespace.id.to_wire(),
        chains: vec![wire::ChainQuery {
            chain: Some(chain(BLOCKS)),
            ..Default::default()
        }],
        ..Default::default()
    };
    let mut client = world.client.clone();
    let calls = || {
        let nodes = world
            .nodes
            .iter()
            .map(|it| it.calls.load(Ordering::Relaxed));
        nodes.sum::<usize>() + world.far.calls.load(Ordering::Relaxed)
    };
    let before = calls();
    let mut times: Vec<Duration> = Vec::new();
    for _ in 0..2_000 {
        let begun = Instant::now();
        let answer = client.lookup(request.clone()).await.unwrap().into_inner();
        times.push(begun.elapsed());
        assert_eq!(answer.matches[0].local_blocks, BLOCKS);
        assert_eq!(answer.matches[0].remote[0].blocks, BLOCKS);
    }
    times.sort_unstable();
    let at = |share: usize| times[times.len() * share / 100];
    println!("p50 {:?}, p95 {:?}, p99 {:?}", at(50), at(95), at(99));
    assert_eq!(calls(), before, "a lookup asked somebody");
    assert!(at(50) < Duration::from_micros(500), "p50 is {:?}", at(50));
}
