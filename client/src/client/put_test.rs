//! Puts offer first, send what is wanted, and try each block again on its own.

use std::time::Duration;

use kvmesh_directory::Part;
use kvmesh_proto::v1 as wire;

use super::{
    Opened, PutBlock, PutOptions, PutResult,
    fake_gateway_test::{self as fake, Gateway, LONG, PutPlan, block, hash, opened, position},
};
use crate::RefusalReason;

fn blocks(count: u8) -> Vec<PutBlock> {
    let put = |number| PutBlock {
        hash: hash(number),
        part: Part::default(),
        block: block(number),
    };
    (0..count).map(put).collect()
}

fn plan(gateway: &Gateway, number: u8, plans: &[PutPlan]) {
    gateway.with(|script| {
        script.puts.insert(hash(number), plans.to_vec().into());
    });
}

async fn put(namespace: &Opened, count: u8) -> Vec<PutResult> {
    let options = PutOptions {
        deadline: Some(LONG),
        ..PutOptions::default()
    };
    namespace.put(&blocks(count), options).await.unwrap()
}

fn existed(result: &PutResult) -> bool {
    match result {
        PutResult::Acked(acked) => acked.existed,
        other => panic!("{other:?}"),
    }
}

fn offers(gateway: &Gateway, number: u8) -> usize {
    gateway.with(|script| {
        let of = script.offers.iter().filter(|offer| **offer == hash(number));
        of.count()
    })
}

#[tokio::test]
async fn only_wanted_blocks_are_sent() {
    let (first, _, client) = fake::start(&["first:1"]);
    plan(&first, 1, &[PutPlan::Have]);
    let results = put(&opened(&client), 3).await;
    assert_eq!(
        results.iter().map(existed).collect::<Vec<_>>(),
        [false, true, false]
    );
    first.with(|script| {
        let whole = |number: u8| block(number).pieces.concat();
        assert_eq!(script.stored[&hash(0)], whole(0));
        assert_eq!(script.stored[&hash(2)], whole(2));
        assert!(!script.stored.contains_key(&hash(1)));
        assert!(script.put_opens[0].deadline_ms > 0);
    });
    // The newest of the acknowledged positions is read afterwards.
    assert_eq!(client.positions(), [position(102)]);
}

#[tokio::test]
async fn more_blocks_than_may_be_undecided_all_arrive() {
    let (first, _, client) = fake::start(&["first:1"]);
    let many: Vec<PutBlock> = (0..600_u32)
        .map(|number| {
            let mut hash = [0; 16];
            hash[..4].copy_from_slice(&number.to_be_bytes());
            let bytes = bytes::Bytes::copy_from_slice(&number.to_be_bytes());
            PutBlock {
                hash: bytes::Bytes::copy_from_slice(&hash),
                part: Part::default(),
                block: crate::Block::of(&bytes, number),
            }
        })
        .collect();
    let options = PutOptions {
        deadline: Some(LONG),
        ..PutOptions::default()
    };
    let results = opened(&client).put(&many, options).await.unwrap();
    assert!(results.iter().all(|result| !existed(result)));
    first.with(|script| assert_eq!(script.stored.len(), 600));
}

#[tokio::test]
async fn a_passing_refusal_is_tried_again() {
    let (first, _, client) = fake::start(&["first:1"]);
    let overtaken = PutPlan::Refuse(wire::RefusalReason::Overtaken, 0);
    let full = PutPlan::Refuse(wire::RefusalReason::NoSpace, 5);
    plan(&first, 0, &[overtaken, full]);
    let results = put(&opened(&client), 2).await;
    assert!(results.iter().all(|result| !existed(result)));
    // Only the refused block was offered again.
    assert_eq!((offers(&first, 0), offers(&first, 1)), (3, 1));
}

#[tokio::test]
async fn a_final_refusal_is_the_answer() {
    let (first, _, client) = fake::start(&["first:1"]);
    plan(
        &first,
        0,
        &[PutPlan::Refuse(wire::RefusalReason::TooLarge, 0)],
    );
    let results = put(&opened(&client), 2).await;
    let PutResult::Refused(refused) = &results[0] else {
        panic!("{:?}", results[0]);
    };
    assert_eq!(refused.reason, RefusalReason::TooLarge);
    assert_eq!(refused.retry_after, None);
    assert!(!existed(&results[1]));
    assert_eq!(offers(&first, 0), 1);
}

#[tokio::test]
async fn a_broken_stream_is_put_again_elsewhere() {
    let (first, second, client) = fake::start(&["first:1", "second:1"]);
    plan(&first, 1, &[PutPlan::Break]);
    let results = put(&opened(&client), 3).await;
    assert!(results.iter().all(|result| !existed(result)));
    // Block 0 was acknowledged before the break and stays so.
    assert_eq!((offers(&first, 0), offers(&second, 0)), (1, 0));
    second.with(|script| assert!(script.stored.contains_key(&hash(1))));
}

#[tokio::test]
async fn what_nobody_answered_is_said_to_be_unknown() {
    let (_, _, client) = fake::start(&["first:1"]);
    let (first, _, refusing) = fake::start(&["first:1"]);
    let soon = PutOptions {
        deadline: Some(Duration::from_millis(300)),
        ..PutOptions::default()
    };
    let always: Vec<PutPlan> = (0..100)
        .map(|_| PutPlan::Refuse(wire::RefusalReason::Unavailable, 20))
        .collect();
    plan(&first, 0, &always);
    let results = opened(&refusing)
        .put(&blocks(1), soon.clone())
        .await
        .unwrap();
    assert!(
        matches!(&results[0], PutResult::Refused(refused) if refused.reason == RefusalReason::Unavailable)
    );

    let mut wrong = blocks(1);
    wrong[0].hash = vec![0; 8].into();
    let error = opened(&client).put(&wrong, soon).await.unwrap_err();
    assert!(error.to_string().contains("put"), "{error}");
}

#[tokio::test]
async fn what_an_earlier_gateway_may_have_stored_is_not_refused() {
    let (first, second, client) = fake::start(&["first:1", "second:1"]);
    plan(&first, 0, &[PutPlan::Break]);
    let never = PutPlan::Refuse(wire::RefusalReason::TooLarge, 0);
    plan(&second, 0, &[never]);
    let results = put(&opened(&client), 1).await;
    let PutResult::Unanswered { why } = &results[0] else {
        panic!("{:?}", results[0]);
    };
    assert_eq!(why, "as the script says");
    assert_eq!((offers(&first, 0), offers(&second, 0)), (1, 1));
}
