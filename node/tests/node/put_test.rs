//! Puts, acknowledgements and gets.

use kvmesh_directory::Hlc;
use kvmesh_proto::v1::{self as wire, AckLevel, GetOutcome};

use crate::{
    blocks_test::{offered, payload},
    region_test::{Region, until},
};

#[tokio::test]
async fn one_node_is_a_region() {
    let region = Region::start(1).await;
    let bytes = payload(1, 5_000);
    let ack = region.put_until_acked(0, 1, &bytes, AckLevel::Memory).await;
    assert_eq!(
        (ack.level(), ack.copies, ack.existed),
        (AckLevel::Memory, 1, false)
    );
    assert_eq!(region.get(0, 1).await.as_deref(), Some(&bytes[..]));
    assert_eq!(region.get(0, 2).await, None);
    let refused = region.put(0, 2, &bytes, AckLevel::Replicated).await;
    assert_eq!(refused.reason(), wire::RefusalReason::Unavailable);
    assert_eq!(region.stats(0).await.blocks, 1);
    let again = region
        .topology(0)
        .init_region(wire::InitRegionRequest {})
        .await;
    assert_eq!(again.unwrap_err().code(), tonic::Code::AlreadyExists);
}

#[tokio::test]
async fn a_replicated_put_is_on_two_nodes_and_a_second_one_is_had() {
    let region = Region::start(3).await;
    let bytes = payload(7, (2 << 20) + 17);
    let (owners, none) = region.locate(0, 7).await;
    assert_eq!((owners.len(), none.len()), (2, 0));
    let primary = owners[0];
    let ack = region
        .put_until_acked(primary, 7, &bytes, AckLevel::Unspecified)
        .await;
    assert_eq!(
        (ack.level(), ack.copies, ack.existed),
        (AckLevel::Replicated, 2, false)
    );
    assert!(ack.put_hlc > 0 && ack.position.is_some());
    for owner in &owners {
        until(async || region.get(*owner, 7).await.as_deref() == Some(&bytes[..])).await;
    }
    let third = (0..3).find(|node| !owners.contains(node)).unwrap();
    assert_eq!(region.get(third, 7).await, None, "only holders serve");

    let again = region
        .put_until_acked(primary, 7, &bytes, AckLevel::Unspecified)
        .await;
    assert!(again.existed && again.put_hlc == ack.put_hlc);
    let other = region
        .put_until_acked(primary, 7, &payload(8, 100), AckLevel::Unspecified)
        .await;
    assert!(other.existed, "the first content stays");
    assert_eq!(region.get(primary, 7).await.as_deref(), Some(&bytes[..]));
    let stats = region.stats(primary).await;
    assert_eq!(
        (stats.blocks, stats.copies, stats.under_replicated),
        (1, 2, 0)
    );
}

#[tokio::test]
async fn writers_of_one_block_agree() {
    let region = Region::start(3).await;
    let bytes = payload(3, 300_000);
    let puts =
        (0..12).map(|writer| region.put_until_acked(writer % 3, 3, &bytes, AckLevel::Replicated));
    let acks = futures::future::join_all(puts).await;
    let stamps: std::collections::BTreeSet<u64> = acks.into_iter().map(|ack| ack.put_hlc).collect();
    assert_eq!(stamps.len(), 1, "one put was first");
}

#[tokio::test]
async fn a_memory_put_gets_its_second_copy_from_repair() {
    let region = Region::start(3).await;
    let bytes = payload(5, 50_000);
    let primary = region.locate(0, 5).await.0[0];
    region
        .put_until_acked(primary, 5, &bytes, AckLevel::Memory)
        .await;
    until(async || region.stats(0).await.copies == 2).await;
    until(async || region.stats(0).await.under_replicated == 0).await;
}

#[tokio::test]
async fn a_chain_comes_in_order_and_says_what_is_missing() {
    let region = Region::start(1).await;
    for number in [1, 2, 4] {
        region
            .put_until_acked(0, number, &payload(number, 4_096), AckLevel::Memory)
            .await;
    }
    let (blocks, summary) = region.get_many(0, &[1, 2, 3, 4]).await;
    assert_eq!(blocks.keys().copied().collect::<Vec<_>>(), [0, 1, 3]);
    assert_eq!(
        (summary.outcome(), summary.blocks),
        (wire::GetOutcome::Miss, 2)
    );
    assert_eq!(summary.sources[0].bytes, 3 * 4_096);
    let request = wire::LookupRequest {
        namespace_id: region.namespace.clone(),
        chains: vec![wire::ChainQuery {
            chain: region.chain([1, 2, 3, 4]),
            ..Default::default()
        }],
        ..Default::default()
    };
    let found = region.cache(0).lookup(request).await.unwrap().into_inner();
    assert_eq!(
        (found.matches[0].local_blocks, found.matches[0].local_bytes),
        (2, 8_192)
    );
}

#[tokio::test]
async fn what_does_not_fit_makes_room_and_is_said_in_the_directory() {
    let region = Region::start_with(1, |settings| settings.memory_bytes = 1 << 20).await;
    for number in 0..40 {
        let put = region
            .put(0, number, &payload(number, 60_000), AckLevel::Memory)
            .await;
        put.acked();
    }
    let max = region.stats(0).await;
    assert!(max.memory_used <= max.memory_max);
    until(async || region.stats(0).await.blocks <= 17).await;
    assert_eq!(region.get(0, 0).await, None);
    assert!(region.get(0, 39).await.is_some());
    let refused = region
        .put(0, 99, &payload(1, 900_000), AckLevel::Memory)
        .await;
    assert_eq!(refused.reason(), wire::RefusalReason::NoSpace);
}

#[tokio::test]
async fn blocks_in_any_order_are_whole_and_end_before_a_hole() {
    let region = Region::start(1).await;
    for number in [0, 1, 2, 4, 5] {
        let bytes = payload(number, (1 << 20) + 10);
        region
            .put_until_acked(0, number, &bytes, AckLevel::Memory)
            .await;
    }
    let request = wire::GetRequest {
        namespace_id: region.namespace.clone(),
        chain: region.chain(0..6),
        any_order: true,
        ..Default::default()
    };
    let (blocks, summary) = region.get_as(0, request.clone()).await;
    assert_eq!(blocks.keys().copied().collect::<Vec<_>>(), [0, 1, 2]);
    assert_eq!((summary.outcome(), summary.blocks), (GetOutcome::Miss, 3));
    let selected = wire::GetRequest {
        select: (0..6).collect(),
        ..request
    };
    let (blocks, summary) = region.get_as(0, selected).await;
    assert_eq!(blocks.keys().copied().collect::<Vec<_>>(), [0, 1, 2, 4, 5]);
    assert_eq!((summary.outcome(), summary.blocks), (GetOutcome::Miss, 3));
    let bytes = payload(4, (1 << 20) + 10);
    assert_eq!(blocks[&4], bytes);
}

#[tokio::test]
async fn what_nobody_wants_yet_pushes_out_nothing_that_was_used_since() {
    let region = Region::start_with(1, |settings| settings.memory_bytes = 1 << 20).await;
    let fill = async |number, aside, put_ms| {
        let (mut offer, pieces) = offered(number, &payload(number, 60_000));
        offer.meta.as_mut().unwrap().put_hlc = Hlc::from_millis(put_ms).0;
        let open = wire::PutOpen {
            fill: true,
            aside,
            ..region.opening(AckLevel::Memory)
        };
        region.put_raw(0, open, offer, pieces).await
    };
    let long_ago = 1_000;
    let ack = region
        .put_until_acked(0, 0, &payload(0, 60_000), AckLevel::Memory)
        .await;
    fill(1, true, long_ago).await.acked();
    for number in 2..40 {
        let bytes = payload(number, 60_000);
        region
            .put(0, number, &bytes, AckLevel::Memory)
            .await
            .acked();
    }
    let refused = fill(50, true, long_ago).await;
    assert_eq!(refused.reason(), wire::RefusalReason::NoSpace);
    // What somebody wants is kept, and so is what is as new as what would go for it.
    fill(50, false, long_ago).await.acked();
    let later = Hlc(ack.put_hlc).millis() + 3_600_000;
    fill(51, true, later).await.acked();
}
