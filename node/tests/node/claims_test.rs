//! Claims follow what nodes really hold.

use std::sync::atomic::{AtomicBool, Ordering};

use futures::future::join_all;
use kvmesh_client::BlockMeta;
use kvmesh_directory::{
    BlockHash, BlockName, ChangeKind, Command, Copy, CopyNumber, Incarnation, NamespaceId, NodeId,
    Part,
    command::{BlockChange, Claim},
    words::Hlc,
};
use kvmesh_proto::v1::{AckLevel, GetOutcome};

use crate::{
    blocks_test::{Put, hash, payload},
    region_test::{PATIENCE, Region, until},
};

#[tokio::test]
async fn a_node_that_was_given_up_offers_what_it_still_has() {
    let region = Region::start(1).await;
    let bytes = payload(1, 3_000);
    for number in 0..20 {
        region
            .put_until_acked(0, number, &bytes, AckLevel::Memory)
            .await;
    }
    let before = region.incarnation(0).await;
    let (node, incarnation) = (NodeId(1), Incarnation(before));
    region
        .propose(0, &Command::MarkDead { node, incarnation })
        .await;
    until(async || region.incarnation(0).await > before).await;
    until(async || region.stats(0).await.blocks == 20).await;
    for number in 0..20 {
        assert_eq!(region.get(0, number).await.as_deref(), Some(&bytes[..]));
    }
}

#[tokio::test]
async fn a_node_that_begins_anew_before_its_offers_are_answered_loses_nothing() {
    let region = Region::start(1).await;
    let bytes = payload(1, 3_000);
    for number in 0..20 {
        region
            .put_until_acked(0, number, &bytes, AckLevel::Memory)
            .await;
    }
    let node = NodeId(1);
    for _ in 0..30 {
        let before = region.incarnation(0).await;
        let incarnation = Incarnation(before);
        region
            .propose(0, &Command::MarkDead { node, incarnation })
            .await;
        until_soon(async || region.incarnation(0).await > before).await;
    }
    until(async || region.stats(0).await.blocks == 20).await;
    for number in 0..20 {
        assert_eq!(region.get(0, number).await.as_deref(), Some(&bytes[..]));
    }
}

/// As [`until`], without a pause: to be there before something else happens.
async fn until_soon(condition: impl AsyncFn() -> bool) {
    let met = async {
        while !condition().await {
            tokio::task::yield_now().await;
        }
    };
    let in_time = tokio::time::timeout(PATIENCE, met).await;
    in_time.expect("the condition is met in time");
}

#[tokio::test]
async fn a_claim_that_cannot_be_honoured_heals_itself() {
    let region = Region::start(1).await;
    let meta = BlockMeta::of(&payload(1, 100), 0);
    let copy = Copy {
        node: NodeId(1),
        incarnation: Incarnation(region.incarnation(0).await),
        copy: CopyNumber(99_999),
    };
    let claim = Claim {
        put_hlc: Hlc(1 << 60),
        checksum: meta.checksum,
        bytes: 100,
        depth: 0,
        replicas: 1,
        copies: vec![copy],
    };
    let name = BlockName {
        namespace: NamespaceId::try_from(&region.namespace[..]).unwrap(),
        hash: BlockHash::from_engine(&hash(1)).unwrap(),
        part: Part::default(),
    };
    let kind = ChangeKind::Claim(claim);
    let command = Command::Blocks(vec![BlockChange { name, kind }]);
    region.propose(0, &command).await;
    assert_eq!(region.get(0, 1).await, None);
    until(async || region.stats(0).await.blocks == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_put_whose_copy_went_right_after_it_was_claimed_is_acknowledged() {
    let region = Region::start(1).await;
    let bytes = payload(1, 3_000);
    let incarnation = Incarnation(region.incarnation(0).await);
    for number in 0..60 {
        let name = BlockName {
            namespace: NamespaceId::try_from(&region.namespace[..]).unwrap(),
            hash: BlockHash::from_engine(&hash(number)).unwrap(),
            part: Part::default(),
        };
        // Whatever number its copy has.
        let evicts = (1..=70).map(|copy| BlockChange {
            name,
            kind: ChangeKind::Evict(Copy {
                node: NodeId(1),
                incarnation,
                copy: CopyNumber(copy),
            }),
        });
        let evicts = Command::Blocks(evicts.collect());
        let done = AtomicBool::new(false);
        let evicting = (0..24).map(async |_| {
            while !done.load(Ordering::Relaxed) {
                region.propose(0, &evicts).await;
            }
        });
        let putting = async {
            let put = region.put(0, number, &bytes, AckLevel::Memory).await;
            done.store(true, Ordering::Relaxed);
            put
        };
        let (put, _) = tokio::join!(putting, join_all(evicting));
        assert!(!put.acked().existed);
    }
}

#[tokio::test]
async fn a_node_without_a_quorum_answers_misses_and_acknowledges_nothing() {
    let region = Region::start(3).await;
    let bytes = payload(1, 3_000);
    let primary = region.locate(0, 1).await.0[0];
    region
        .put_until_acked(primary, 1, &bytes, AckLevel::Replicated)
        .await;
    assert!(region.get(primary, 1).await.is_some());
    for node in (0..3).filter(|node| *node != primary) {
        region.stop(node);
    }
    until(async || region.get(primary, 1).await.is_none()).await;
    let (_, summary) = region.get_many(primary, &[1]).await;
    assert_eq!(summary.outcome(), GetOutcome::Miss);
    match region.put(primary, 2, &bytes, AckLevel::Memory).await {
        Put::Failed(_) | Put::Refused(_) => {}
        Put::Acked(ack) => panic!("{ack:?}"),
    }
}
