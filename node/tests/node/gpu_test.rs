//! Nodes with a device: candle's memory of the host.

use kvmesh_directory::Policy;
use kvmesh_proto::v1::{self as wire, AckLevel};
use tokio::time::{Duration, Instant};

use crate::{
    blocks_test::payload,
    region_test::{Region, until},
};

const BYTES: usize = 400_000;
const MEMORY_BYTES: u64 = 8 << 20;

/// A node whose memory has room for twenty blocks, and its device for ten.
async fn region(gpu_bytes: u64) -> Region {
    let region = Region::start_with(1, |settings| {
        settings.memory_bytes = MEMORY_BYTES;
        settings.gpu_bytes = gpu_bytes;
    })
    .await;
    let request = wire::SetPolicyRequest {
        namespace_id: region.namespace.clone(),
        policy: Some(kvmesh_client::ToWire::to_wire(&Policy {
            replicas: 1,
            ..Policy::default()
        })),
    };
    region.topology(0).set_policy(request).await.unwrap();
    region
}

async fn put(region: &Region, number: u64) {
    let bytes = payload(number, BYTES);
    let level = AckLevel::Memory;
    region.put_until_acked(0, number, &bytes, level).await;
}

/// Puts a block, reads it for some seconds, and then puts sixty others.
async fn heat_and_crowd(region: &Region, number: u64, others: u64) {
    put(region, number).await;
    let hot = Instant::now() + Duration::from_millis(2_500);
    while Instant::now() < hot {
        assert!(region.get(0, number).await.is_some());
    }
    for other in others..others + 60 {
        put(region, other).await;
    }
}

#[tokio::test]
async fn a_block_that_only_the_device_has_is_served_as_it_was_put() {
    // Without a device it is gone, so memory is not what serves it below.
    let without = region(0).await;
    heat_and_crowd(&without, 1, 100).await;
    assert_eq!(without.get(0, 1).await, None);
    drop(without);

    let with = region(10 * BYTES as u64).await;
    heat_and_crowd(&with, 1, 100).await;
    for round in 0..3 {
        let got = with.get(0, 1).await;
        assert!(got.is_some_and(|got| got == payload(1, BYTES)), "{round}");
    }
    // The directory says the same: it is held until it is deleted.
    until(async || with.stats(0).await.blocks == blocks_held(&with).await).await;
    let request = wire::DeleteRequest {
        namespace_id: with.namespace.clone(),
        chain: with.chain([1]),
        ..Default::default()
    };
    with.cache(0).delete(request).await.unwrap();
    until(async || with.get(0, 1).await.is_none()).await;
}

/// Blocks of the test that the node serves.
async fn blocks_held(region: &Region) -> u64 {
    let mut held = 0;
    for number in std::iter::once(1).chain(100..160) {
        held += u64::from(region.get(0, number).await.is_some());
    }
    held
}
