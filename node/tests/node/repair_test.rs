//! What is lost with a node is made again.

use kvmesh_proto::v1::AckLevel;

use crate::{
    blocks_test::payload,
    region_test::{Region, until},
};

const BLOCKS: u64 = 24;

#[tokio::test]
async fn a_dead_nodes_blocks_are_repaired_and_a_restart_loses_nothing() {
    let mut region = Region::start(3).await;
    for number in 0..BLOCKS {
        let primary = region.locate(0, number).await.0[0];
        let bytes = payload(number, 10_000 + number as usize);
        region
            .put_until_acked(primary, number, &bytes, AckLevel::Replicated)
            .await;
    }
    for victim in 0..3 {
        region.stop(victim);
        let witness = (victim + 1) % 3;
        let region_now = &region;
        until(async || {
            let stats = region_now.stats(witness).await;
            let dead = region_now
                .topology(witness)
                .show(kvmesh_proto::v1::ShowRequest {})
                .await;
            let state = dead.unwrap().into_inner().nodes[victim].state();
            state == kvmesh_proto::v1::NodeState::Dead
                && (stats.blocks, stats.copies, stats.under_replicated) == (BLOCKS, 2 * BLOCKS, 0)
        })
        .await;
        for number in 0..BLOCKS {
            let bytes = payload(number, 10_000 + number as usize);
            let (_, holders) = region.locate(witness, number).await;
            assert!(!holders.contains(&victim));
            for holder in holders {
                let region = &region;
                until(async || region.get(holder, number).await.as_deref() == Some(&bytes[..]))
                    .await;
            }
        }
        region.restart(victim).await;
        region.all_alive().await;
    }
}

#[tokio::test]
async fn a_put_skips_an_owner_that_is_gone() {
    let region = Region::start(3).await;
    let (owners, _) = region.locate(0, 1).await;
    region.stop(owners[1]);
    let bytes = payload(1, 1_000);
    let ack = region
        .put_until_acked(owners[0], 1, &bytes, AckLevel::Replicated)
        .await;
    assert_eq!((ack.level(), ack.copies), (AckLevel::Replicated, 2));
}
