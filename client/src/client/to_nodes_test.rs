//! Blocks go to the nodes that own them, and through gateways where that fails.

use bytes::Bytes;
use kvmesh_proto::v1 as wire;

use super::*;
use crate::client::{
    PutOptions,
    fake_gateway_test::{self as fake, Gateway, LONG, PutPlan, block, hash, opened},
};

fn blocks(count: u8) -> Vec<PutBlock> {
    let block = |number: u8| PutBlock {
        hash: hash(number),
        part: Part::default(),
        block: block(number),
    };
    (0..count).map(block).collect()
}

/// All of the blocks belong to the node at `second:1`.
fn owned(gateway: &Gateway, blocks: usize, address: &str) {
    let owners = wire::BlockOwners {
        owners: vec![0],
        holders: Vec::new(),
    };
    let located = wire::LocateResponse {
        ring_epoch: 7,
        nodes: vec![wire::NodeEndpoint {
            node: 1,
            address: address.to_owned(),
            zone: String::new(),
        }],
        blocks: vec![owners; blocks],
        ..Default::default()
    };
    gateway.with(|script| script.locates.push_back(Ok(located)));
}

async fn put(client: &crate::client::Client, blocks: &[PutBlock]) -> Vec<PutResult> {
    let options = PutOptions {
        deadline: Some(LONG),
        ..PutOptions::default()
    };
    opened(client).put(blocks, options).await.unwrap()
}

fn path(result: &PutResult) -> Option<Path> {
    match result {
        PutResult::Acked(acked) => Some(acked.path),
        _ => None,
    }
}

#[tokio::test]
async fn blocks_go_to_their_owner_by_the_ring_that_named_it() {
    let (gateway, node, client) = fake::start(&["first:1"]);
    owned(&gateway, 3, "second:1");
    let results = put(&client, &blocks(3)).await;
    assert!(
        results.iter().all(|it| path(it) == Some(Path::Node)),
        "{results:?}"
    );
    node.with(|script| {
        assert_eq!(script.put_opens[0].ring_epoch, 7);
        assert!(script.put_opens[0].deadline_ms > 0);
        let want = (0..3).map(|it| {
            (
                hash(it),
                [&block(it).pieces[0][..], &block(it).pieces[1]].concat(),
            )
        });
        assert_eq!(script.stored, want.collect::<BTreeMap<Bytes, Vec<u8>>>());
    });
    gateway.with(|script| assert!(script.offers.is_empty()));
    assert!(!client.positions().is_empty(), "it reads what it wrote");
}

#[tokio::test]
async fn what_a_node_cannot_take_now_goes_through_a_gateway() {
    use wire::RefusalReason::{Checksum, StaleEpoch, Unavailable};
    let (gateway, node, client) = fake::start(&["first:1"]);
    owned(&gateway, 4, "second:1");
    node.with(|script| {
        let plans = [
            (0, PutPlan::Refuse(StaleEpoch, 50)),
            (1, PutPlan::Refuse(Unavailable, 50)),
            (2, PutPlan::Refuse(Checksum, 0)),
        ];
        for (number, plan) in plans {
            script.puts.insert(hash(number), [plan].into());
        }
    });
    let results = put(&client, &blocks(4)).await;
    let through = Some(Path::Gateway);
    let ways: Vec<_> = results.iter().map(path).collect();
    assert_eq!(ways, [through, through, None, Some(Path::Node)]);
    assert!(
        matches!(&results[2], PutResult::Refused(refused) if refused.reason == RefusalReason::Checksum)
    );
    gateway.with(|script| assert_eq!(script.offers, [hash(0), hash(1)]));
}

#[tokio::test]
async fn a_node_that_breaks_off_leaves_it_open_whether_it_stored_the_block() {
    let (gateway, node, client) = fake::start(&["first:1"]);
    owned(&gateway, 1, "second:1");
    node.with(|script| script.puts.insert(hash(0), [PutPlan::Break].into()));
    let refused = PutPlan::Refuse(wire::RefusalReason::TooLarge, 0);
    gateway.with(|script| script.puts.insert(hash(0), [refused].into()));
    let results = put(&client, &blocks(1)).await;
    assert!(
        matches!(results[0], PutResult::Unanswered { .. }),
        "{results:?}"
    );

    // It is left alone for a while, and a gateway takes the block.
    owned(&gateway, 1, "second:1");
    assert_eq!(
        path(&put(&client, &blocks(1)).await[0]),
        Some(Path::Gateway)
    );
    node.with(|script| assert_eq!(script.offers.len(), 1));
}

#[tokio::test]
async fn an_owner_that_is_not_reached_costs_no_block() {
    let (gateway, _, client) = fake::start(&["first:1"]);
    owned(&gateway, 2, "nobody:1");
    let results = put(&client, &blocks(2)).await;
    assert!(
        results.iter().all(|it| path(it) == Some(Path::Gateway)),
        "{results:?}"
    );
}
