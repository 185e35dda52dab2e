//! Where the ring is known, nobody is asked where blocks are.

use kvmesh_directory::NodeId;
use kvmesh_proto::v1 as wire;
use tokio::time::advance;

use super::*;
use crate::client::{
    Client, GetOptions, Path, PutBlock, PutOptions, PutResult,
    fake_gateway_test::{
        self as fake, Gateway, LONG, PutPlan, block, chain, frames, hash, opened, summary,
    },
};

fn member(node: u64, address: &str) -> Member {
    Member {
        node: NodeId(node),
        address: address.to_owned(),
        zone: String::new(),
        weight: 1,
        voter: true,
    }
}

/// The gateway's next answer: the one node of its ring holds the blocks, and who is on it.
fn says(gateway: &Gateway, epoch: u64, blocks: usize, ring: bool) {
    let node = member(1, "second:1");
    let here = wire::BlockOwners {
        owners: vec![0],
        holders: vec![0],
    };
    let located = wire::LocateResponse {
        ring_epoch: epoch,
        nodes: vec![wire::NodeEndpoint {
            node: 1,
            address: node.address.clone(),
            zone: String::new(),
        }],
        blocks: vec![here; blocks],
        ring: ring
            .then(|| crate::convert::ToWire::to_wire(&node))
            .into_iter()
            .collect(),
    };
    gateway.with(|script| script.locates.push_back(Ok(located)));
}

/// What the gateway was told of the ring that is known, each time that it was asked.
fn told(gateway: &Gateway) -> Vec<Option<u64>> {
    gateway.with(|script| {
        let asked = script.asked_locates.iter();
        asked.map(|asked| asked.ring_known).collect()
    })
}

/// Which way the first block of the chain comes; whoever is asked sends it.
async fn way(client: &Client, by: &Gateway, options: GetOptions) -> Path {
    by.with(|script| {
        let whole = [frames(0), vec![summary(wire::GetOutcome::Complete)]].concat();
        script.gets.push_back(Ok(whole));
    });
    let options = GetOptions {
        deadline: Some(LONG),
        ..options
    };
    let fetched = opened(client).get(&chain(1), options).await.unwrap();
    assert_eq!(fetched.blocks[0].block, block(0));
    fetched.blocks[0].path
}

#[tokio::test(start_paused = true)]
async fn a_gateway_that_names_no_node_serves_by_itself_and_is_not_asked_each_time() {
    let (gateway, node, client) = fake::start(&["first:1"]);
    let nowhere = || {
        let located = wire::LocateResponse {
            blocks: vec![wire::BlockOwners::default()],
            ..Default::default()
        };
        gateway.with(|script| script.locates.push_back(Ok(located)));
    };
    nowhere();
    // A ring would not do for this one.
    let whole = GetOptions {
        blocks_min: 2,
        ..GetOptions::default()
    };
    for options in [GetOptions::default(), whole, GetOptions::default()] {
        assert_eq!(way(&client, &gateway, options).await, Path::Gateway);
    }
    let put = [PutBlock {
        hash: hash(5),
        part: Part::default(),
        block: block(5),
    }];
    gateway.with(|script| script.puts.insert(hash(5), [PutPlan::Send].into()));
    let options = PutOptions {
        deadline: Some(LONG),
        ..PutOptions::default()
    };
    let put = opened(&client).put(&put, options).await.unwrap();
    let PutResult::Acked(acked) = &put[0] else {
        panic!("{put:?}");
    };
    assert_eq!(acked.path, Path::Gateway);
    assert_eq!(told(&gateway), [Some(0)]);
    node.with(|script| assert!(script.asked_gets.is_empty() && script.put_opens.is_empty()));
    // The address may be another gateway's by now.
    advance(CLOSED_MAX).await;
    says(&gateway, 7, 1, true);
    let path = way(&client, &node, GetOptions::default()).await;
    assert_eq!(path, Path::Node);
    assert_eq!(told(&gateway), [Some(0), Some(0)]);
}

#[tokio::test(start_paused = true)]
async fn a_gateway_that_said_the_ring_is_not_asked_again_for_a_while() {
    let (gateway, node, client) = fake::start(&["first:1"]);
    says(&gateway, 7, 1, true);
    for _ in 0..3 {
        let path = way(&client, &node, GetOptions::default()).await;
        assert_eq!(path, Path::Node);
    }
    assert_eq!(told(&gateway), [Some(0)]);
    // It is the same still: its members are not said again.
    advance(AGE_MAX).await;
    says(&gateway, 7, 1, false);
    for _ in 0..2 {
        assert_eq!(way(&client, &node, GetOptions::default()).await, Path::Node);
    }
    assert_eq!(told(&gateway), [Some(0), Some(7)]);
}

#[tokio::test]
async fn whether_a_run_is_long_enough_is_asked() {
    let (gateway, node, client) = fake::start(&["first:1"]);
    let options = || GetOptions {
        blocks_min: 2,
        ..GetOptions::default()
    };
    for known in [0, 7] {
        says(&gateway, 7, 1, known == 0);
        assert_eq!(way(&client, &node, options()).await, Path::Node);
        assert_eq!(told(&gateway).last(), Some(&Some(known)));
    }
}

#[tokio::test(start_paused = true)]
async fn a_ring_that_misled_is_asked_for_again() {
    let (gateway, node, client) = fake::start(&["first:1"]);
    says(&gateway, 7, 1, true);
    assert_eq!(way(&client, &node, GetOptions::default()).await, Path::Node);
    let without = |node: &Gateway| {
        let missing = wire::GetResponse {
            header: Some(wire::BlockHeader {
                part: Some(wire::Part::default()),
                ..Default::default()
            }),
            end: wire::BlockEnd::Aborted.into(),
            ..Default::default()
        };
        node.with(|script| script.gets.push_back(Ok(vec![Ok(missing)])));
    };
    // A block that is nowhere may be the cause: not at once.
    without(&node);
    let path = way(&client, &gateway, GetOptions::default()).await;
    assert_eq!((path, told(&gateway).len()), (Path::Gateway, 1));
    advance(AGE_MIN).await;
    without(&node);
    let path = way(&client, &gateway, GetOptions::default()).await;
    assert_eq!((path, told(&gateway).len()), (Path::Gateway, 1));
    says(&gateway, 8, 1, true);
    assert_eq!(way(&client, &node, GetOptions::default()).await, Path::Node);
    assert_eq!(told(&gateway), [Some(0), Some(7)]);
    assert_eq!(client.shared.ring.epoch(0), RingEpoch(8));
}

#[tokio::test(start_paused = true)]
async fn a_put_by_an_old_ring_is_refused_and_the_next_one_knows_better() {
    let (gateway, node, client) = fake::start(&["first:1"]);
    let put = async || {
        let blocks = [PutBlock {
            hash: hash(0),
            part: Part::default(),
            block: block(0),
        }];
        let options = PutOptions {
            deadline: Some(LONG),
            ..PutOptions::default()
        };
        let results = opened(&client).put(&blocks, options).await.unwrap();
        match &results[..] {
            [PutResult::Acked(acked)] => acked.path,
            other => panic!("{other:?}"),
        }
    };
    let epochs = || node.with(|script| script.put_opens.iter().map(|it| it.ring_epoch).collect());
    says(&gateway, 7, 1, true);
    assert_eq!(put().await, Path::Node);
    assert_eq!(put().await, Path::Node);
    advance(AGE_MIN).await;
    node.with(|script| {
        let stale = PutPlan::Refuse(wire::RefusalReason::StaleEpoch, 0);
        script.puts.entry(hash(0)).or_default().push_back(stale);
    });
    assert_eq!(put().await, Path::Gateway);
    says(&gateway, 9, 1, true);
    assert_eq!(put().await, Path::Node);
    let epochs: Vec<u64> = epochs();
    assert_eq!(epochs, [7, 7, 7, 9]);
    assert_eq!(told(&gateway), [Some(0), Some(7)]);
}

#[test]
fn owners_are_those_of_the_ring_and_of_the_gateway_that_said_it() {
    let members: Vec<Member> = (0..5)
        .map(|node| member(node, &format!("n{node}:1")))
        .collect();
    let topology = Topology {
        epoch: RingEpoch(3),
        members: members.clone(),
        ..Topology::empty()
    };
    let (ring, known) = (Ring::build(&topology), KnownRing::default());
    let of = Of {
        namespace: fake::namespace().id,
        replicas: 2,
    };
    let (chain, parts) = (chain(9), [Part::default()]);
    assert!(known.locate(0, of, &chain, &parts).is_none());
    // In any order.
    known.heard(0, RingEpoch(3), members.into_iter().rev().collect());
    let located = known.locate(0, of, &chain, &parts).unwrap();
    for (index, block) in (0..).zip(&located.blocks) {
        let name = BlockName {
            namespace: of.namespace,
            hash: BlockHash::from_engine(&chain.hash(index)).unwrap(),
            part: parts[0],
        };
        let owners: Vec<NodeId> = block
            .owners
            .iter()
            .map(|at| located.nodes[*at].node)
            .collect();
        assert_eq!(owners, ring.preference(&name)[..2]);
    }
    // Another gateway may be of another region, and one whose blocks move says no ring.
    assert!(known.locate(1, of, &chain, &parts).is_none());
    known.heard(0, RingEpoch(4), Vec::new());
    assert!(known.locate(0, of, &chain, &parts).is_none());
}
