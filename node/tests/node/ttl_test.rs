//! What a namespace's policy makes a node let go.

use kvmesh_client::ToWire;
use kvmesh_directory::Policy;
use kvmesh_proto::v1::{self as wire, AckLevel};

use crate::{
    blocks_test::payload,
    region_test::{Region, until},
};

async fn set(region: &Region, policy: &Policy) {
    let request = wire::SetPolicyRequest {
        namespace_id: region.namespace.clone(),
        policy: Some(policy.to_wire()),
    };
    region.topology(0).set_policy(request).await.unwrap();
}

#[tokio::test]
async fn blocks_go_when_their_time_is_over_and_are_not_repaired() {
    let region = Region::start(3).await;
    let bytes = payload(1, 5_000);
    for number in 0..5 {
        let primary = region.locate(0, number).await.0[0];
        let put = region.put(primary, number, &bytes, AckLevel::Replicated);
        put.await.acked();
    }
    assert_eq!(region.stats(0).await.blocks, 5);
    let policy = Policy {
        ttl_ms: 1,
        ..Policy::default()
    };
    set(&region, &policy).await;
    until(async || region.stats(0).await.blocks == 0).await;
    for node in 0..3 {
        until(async || region.stats(node).await.memory_used == 0).await;
    }
    // What expires is evicted on purpose: nothing lacks copies.
    assert_eq!(region.stats(0).await.under_replicated, 0);

    set(
        &region,
        &Policy {
            ttl_ms: 0,
            ..policy
        },
    )
    .await;
    let primary = region.locate(0, 1).await.0[0];
    let put = region.put(primary, 1, &bytes, AckLevel::Replicated);
    assert!(!put.await.acked().existed);
    assert!(region.get(primary, 1).await.is_some(), "0: it stays");
}
