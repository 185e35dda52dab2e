//! What is held in the region comes from its nodes, and from gateways what they do not send.

use kvmesh_directory::RingEpoch;
use kvmesh_proto::v1 as wire;

use super::*;
use crate::{
    client::{
        BlockOwners, Fetched, GetOptions, GetOutcome, NodeEndpoint, Path,
        fake_gateway_test::{self as fake, LONG, block, chain, frames, hash, opened, summary},
    },
    convert::ToWire,
};

fn owners(owners: &[usize], holders: &[usize]) -> BlockOwners {
    BlockOwners {
        owners: owners.to_vec(),
        holders: holders.to_vec(),
    }
}

fn located(blocks: Vec<BlockOwners>) -> Located {
    let node = |node: u64| NodeEndpoint {
        node: kvmesh_directory::NodeId(node),
        address: format!("n{node}:1"),
        zone: String::new(),
    };
    Located {
        ring_epoch: RingEpoch(3),
        nodes: (0..3).map(node).collect(),
        blocks,
    }
}

fn asked(plan: &Plan) -> Vec<(&str, u16, &[u32], &[u32])> {
    let calls = plan.calls.iter();
    calls
        .map(|call| {
            let (wanted, touched) = (&call.wanted[..], &call.touched[..]);
            (&call.address[..], call.part.shard, wanted, touched)
        })
        .collect()
}

#[test]
fn each_block_is_asked_of_its_first_owner_that_holds_it_and_may_be_asked() {
    let here = located(vec![
        owners(&[0, 1], &[0, 1]),
        owners(&[1, 2], &[2]),
        owners(&[0, 1], &[0, 1]),
        // Its owners have changed since.
        owners(&[0, 1], &[2]),
        owners(&[1, 0], &[]),
        owners(&[0, 1], &[0, 1]),
    ]);
    let part = [Part::default()];
    let plan = Plan::new(&here, (1, 5), &part, |address| address != "n0:1");
    assert_eq!(
        asked(&plan),
        [("n2:1", 0, &[1, 3][..], &[][..]), ("n1:1", 0, &[2], &[0])]
    );
    assert_eq!((plan.order.as_slice(), plan.run(1)), (&[0, 1, 0][..], 3));
}

#[test]
fn a_block_counts_only_in_all_its_parts() {
    let parts = [0, 1].map(|shard| Part { shard, group: 0 });
    let here = located(vec![
        owners(&[0], &[0]),
        owners(&[1], &[1]),
        owners(&[0], &[0]),
        owners(&[1], &[]),
    ]);
    let plan = Plan::new(&here, (0, 2), &parts, |_| true);
    assert_eq!(
        asked(&plan),
        [("n0:1", 0, &[0][..], &[][..]), ("n1:1", 1, &[0], &[])]
    );
    assert_eq!(Plan::new(&here, (1, 1), &parts, |_| true), Plan::default());
}

fn options() -> GetOptions {
    GetOptions {
        deadline: Some(LONG),
        ..GetOptions::default()
    }
}

/// The node at `address` holds these.
fn held(address: &str, blocks: &[bool]) -> wire::LocateResponse {
    let held = |held: &bool| wire::BlockOwners {
        owners: vec![0],
        holders: if *held { vec![0] } else { Vec::new() },
    };
    wire::LocateResponse {
        ring_epoch: 3,
        nodes: vec![wire::NodeEndpoint {
            node: 1,
            address: address.to_owned(),
            zone: String::new(),
        }],
        blocks: blocks.iter().map(held).collect(),
        ..Default::default()
    }
}

/// The frames of a block at a place of the chain that was asked.
fn sent(place: u32, number: u8) -> Vec<Result<wire::GetResponse, tonic::Status>> {
    let mut frames = frames(number);
    if let Ok(wire::GetResponse {
        header: Some(header),
        ..
    }) = &mut frames[0]
    {
        header.index = place;
    }
    frames
}

fn missing(place: u32) -> wire::GetResponse {
    wire::GetResponse {
        header: Some(wire::BlockHeader {
            index: place,
            part: Some(Part::default().to_wire()),
            ..Default::default()
        }),
        end: wire::BlockEnd::Aborted.into(),
        ..Default::default()
    }
}

/// The blocks that came, each with its own bytes, and which way.
fn paths(fetched: &Fetched) -> Vec<(u32, Path)> {
    for got in &fetched.blocks {
        assert_eq!(got.block, block(got.index as u8));
    }
    fetched
        .blocks
        .iter()
        .map(|got| (got.index, got.path))
        .collect()
}

#[tokio::test]
async fn what_a_node_holds_comes_from_it_and_its_head_is_touched() {
    let (gateway, node, client) = fake::start(&["first:1"]);
    gateway.with(|script| script.locates.push_back(Ok(held("second:1", &[true; 3]))));
    node.with(|script| {
        let blocks = [sent(0, 1), sent(1, 2)].concat();
        script.gets.push_back(Ok(blocks));
    });
    let wanted = GetOptions {
        start: 1,
        ..options()
    };
    let fetched = opened(&client).get(&chain(3), wanted).await.unwrap();
    assert_eq!(paths(&fetched), [(1, Path::Node), (2, Path::Node)]);
    assert_eq!(fetched.summary.outcome, GetOutcome::Complete);
    assert_eq!(fetched.summary.blocks, 2);
    node.with(|script| {
        let (asked, timed) = &script.asked_gets[0];
        assert!(*timed && asked.deadline_ms > 0, "it has a deadline");
        assert_eq!(
            (&asked.select[..], &asked.touch[..]),
            (&[0, 1][..], &[2][..])
        );
        let hashes = &asked.chain.as_ref().unwrap().hashes;
        assert_eq!(hashes[..], [hash(1), hash(2), hash(0)].concat());
    });
    gateway.with(|script| assert!(script.asked_gets.is_empty()));
}

#[tokio::test]
async fn a_gateway_is_asked_for_what_a_node_does_not_send() {
    for gone in [
        // It has not got the block after all.
        vec![Ok(missing(1))],
        // What it sends is damaged.
        {
            let mut frames = sent(1, 1);
            if let Ok(frame) = &mut frames[0] {
                frame.piece = vec![0; frame.piece.len()].into();
            }
            frames
        },
        // It goes away.
        vec![Err(tonic::Status::unavailable("going away"))],
        // It ends early.
        vec![summary(wire::GetOutcome::OutOfTime)],
        Vec::new(),
    ] {
        let (gateway, node, client) = fake::start(&["first:1"]);
        gateway.with(|script| {
            script.locates.push_back(Ok(held("second:1", &[true; 3])));
            let mut rest = [frames(1), frames(2)].concat();
            rest.push(summary(wire::GetOutcome::Complete));
            script.gets.push_back(Ok(rest));
        });
        node.with(|script| {
            script
                .gets
                .push_back(Ok([sent(0, 0), gone.clone()].concat()))
        });
        let fetched = opened(&client).get(&chain(3), options()).await.unwrap();
        let (one, two) = ((1, Path::Gateway), (2, Path::Gateway));
        assert_eq!(paths(&fetched), [(0, Path::Node), one, two], "{gone:?}");
        assert_eq!(fetched.summary.outcome, GetOutcome::Complete);
        gateway.with(|script| {
            let asked = &script.asked_gets[0].0;
            assert_eq!((asked.start, asked.count), (1, 2));
        });
    }
}

#[tokio::test]
async fn a_run_that_is_here_in_part_goes_on_through_a_gateway() {
    let (gateway, node, client) = fake::start(&["first:1"]);
    gateway.with(|script| {
        let here = held("second:1", &[true, false, true]);
        script.locates.push_back(Ok(here));
        let mut rest = [frames(1), frames(2)].concat();
        rest.push(summary(wire::GetOutcome::Complete));
        script.gets.push_back(Ok(rest));
    });
    node.with(|script| script.gets.push_back(Ok(sent(0, 0))));
    let fetched = opened(&client).get(&chain(3), options()).await.unwrap();
    let ways = [(0, Path::Node), (1, Path::Gateway), (2, Path::Gateway)];
    assert_eq!(paths(&fetched), ways);
}

#[tokio::test]
async fn a_node_that_is_not_reached_is_left_alone_for_a_while() {
    let (gateway, node, client) = fake::start(&["first:1"]);
    for _ in 0..2 {
        gateway.with(|script| {
            script.locates.push_back(Ok(held("nobody:1", &[true])));
            let whole = [frames(0), vec![summary(wire::GetOutcome::Complete)]].concat();
            script.gets.push_back(Ok(whole));
        });
        let fetched = opened(&client).get(&chain(1), options()).await.unwrap();
        assert_eq!(paths(&fetched), [(0, Path::Gateway)]);
        let nodes = client.shared.nodes.as_ref().unwrap();
        assert!(!nodes.is_usable("nobody:1"));
    }
    node.with(|script| assert!(script.asked_gets.is_empty()));
}

#[tokio::test(start_paused = true)]
async fn a_node_that_falls_silent_is_given_up() {
    let (gateway, node, client) = fake::start(&["first:1"]);
    gateway.with(|script| {
        script.locates.push_back(Ok(held("second:1", &[true])));
        let whole = [frames(0), vec![summary(wire::GetOutcome::Complete)]].concat();
        script.gets.push_back(Ok(whole));
    });
    node.with(|script| {
        let mut half = sent(0, 0);
        half.truncate(1);
        script.silent = true;
        script.gets.push_back(Ok(half));
    });
    let began = Instant::now();
    let fetched = opened(&client).get(&chain(1), options()).await.unwrap();
    assert_eq!(paths(&fetched), [(0, Path::Gateway)]);
    assert!(began.elapsed() < LONG / 4);
}

#[tokio::test]
async fn gateways_only_are_asked_where_that_is_wished_or_the_run_is_too_short() {
    let (gateway, node, client) = fake::start(&["first:1"]);
    gateway.with(|script| {
        let here = held("second:1", &[true, false]);
        script.locates.push_back(Ok(here));
        script
            .gets
            .push_back(Ok(vec![summary(wire::GetOutcome::TooShort)]));
    });
    let wanted = GetOptions {
        blocks_min: 2,
        ..options()
    };
    let fetched = opened(&client).get(&chain(2), wanted).await.unwrap();
    assert_eq!(fetched.summary.outcome, GetOutcome::TooShort);
    node.with(|script| assert!(script.asked_gets.is_empty()));
}
