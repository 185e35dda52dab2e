//! What is deleted is not read again.

use kvmesh_proto::v1::{self as wire, AckLevel};

use crate::{
    blocks_test::payload,
    region_test::{Region, until},
};

#[tokio::test]
async fn no_read_after_a_delete_returns_the_block() {
    let region = Region::start(3).await;
    let bytes = payload(1, 20_000);
    for number in 0..6 {
        let primary = region.locate(0, number).await.0[0];
        region
            .put_until_acked(primary, number, &bytes, AckLevel::Replicated)
            .await;
    }
    for node in 0..3 {
        let numbers = [node as u64 * 2, node as u64 * 2 + 1];
        let request = wire::DeleteRequest {
            namespace_id: region.namespace.clone(),
            chain: region.chain(numbers),
            ..Default::default()
        };
        let deleted = region
            .cache(node)
            .delete(request)
            .await
            .unwrap()
            .into_inner();
        assert_eq!(
            deleted.deleted, 2,
            "by node {node}, whether it leads or not"
        );
        for reader in 0..3 {
            let (blocks, _) = region.get_many(reader, &numbers).await;
            assert!(blocks.is_empty(), "node {reader} served a deleted block");
        }
    }
    let stats = region.stats(0).await;
    assert_eq!((stats.blocks, stats.tombstones), (0, 6));
    until(async || region.stats(0).await.memory_used == 0).await;
    let primary = region.locate(0, 1).await.0[0];
    let again = region
        .put_until_acked(primary, 1, &bytes, AckLevel::Replicated)
        .await;
    assert!(!again.existed, "a later put is a new block");
}
