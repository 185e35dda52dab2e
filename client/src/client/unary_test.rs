//! Calls that are answered at once.

use std::time::Duration;

use kvmesh_proto::v1 as wire;
use tonic::{Code, Status};

use super::{
    CallError,
    fake_gateway_test::{self as fake, LONG, chain, namespace, opened, position},
};
use crate::convert::ToWire;

fn found(blocks: u32) -> wire::LookupResponse {
    wire::LookupResponse {
        matches: vec![wire::ChainMatch {
            local_blocks: blocks,
            ..Default::default()
        }],
        ..Default::default()
    }
}

#[tokio::test]
async fn an_unavailable_gateway_is_passed_over() {
    let (first, second, client) = fake::start(&["first:1", "second:1"]);
    first.with(|script| {
        script
            .lookups
            .push_back(Err(Status::unavailable("starting")))
    });
    second.with(|script| {
        script.lookups.push_back(Ok(found(2)));
        script.lookups.push_back(Ok(found(3)));
    });
    let namespace = opened(&client);
    let answer = namespace.lookup(&[chain(4).into()], LONG).await.unwrap();
    assert_eq!(answer.matches[0].local_blocks, 2);
    // The next call starts at the one that answered.
    let answer = namespace.lookup(&[chain(4).into()], LONG).await.unwrap();
    assert_eq!(answer.matches[0].local_blocks, 3);
    first.with(|script| assert_eq!(script.asked_lookups.len(), 1));
}

#[tokio::test]
async fn what_was_written_is_read() {
    let (first, _, client) = fake::start(&["first:1"]);
    first.with(|script| {
        let behind = wire::LookupResponse {
            view_behind: true,
            ..Default::default()
        };
        script.lookups.push_back(Ok(behind));
        script.lookups.push_back(Ok(found(1)));
    });
    let namespace = opened(&client);
    let deleted = namespace.delete(&chain(1), 0, 0, &[], LONG).await.unwrap();
    assert_eq!((deleted.names, &deleted.position), (3, &position(77)));
    let answer = namespace.lookup(&[chain(1).into()], LONG).await.unwrap();
    assert!(!answer.view_behind);
    first.with(|script| {
        assert_eq!(script.asked_lookups.len(), 2);
        for asked in &script.asked_lookups {
            assert_eq!(asked.at_least, [position(77).to_wire()]);
        }
    });
}

#[tokio::test]
async fn a_namespace_is_opened() {
    let (first, _, client) = fake::start(&["first:1"]);
    first.with(|script| {
        script.opens.push_back(Ok(wire::OpenResponse {
            namespace: Some(namespace().to_wire()),
            region: "eu-west".to_owned(),
            position: Some(position(3).to_wire()),
            ..Default::default()
        }));
    });
    let opened = client
        .open(&namespace().description, "llama", "", LONG)
        .await
        .unwrap();
    assert_eq!(*opened.namespace(), namespace());
    assert_eq!(client.positions(), [position(3)]);
}

#[tokio::test]
async fn nodes_on_this_host_are_of_the_region_whose_nodes_serve_the_client() {
    let (first, _, client) = fake::start(&["first:1"]);
    let client = client.with_local("/nowhere");
    // The first gateway that answered is of another region.
    for (epoch, region, own) in [
        (0, "eu-west", None),
        (7, "us-east", Some("us-east")),
        (0, "eu-west", Some("us-east")),
    ] {
        first.with(|script| {
            script.opens.push_back(Ok(wire::OpenResponse {
                namespace: Some(namespace().to_wire()),
                ring_epoch: epoch,
                region: region.to_owned(),
                ..Default::default()
            }));
        });
        let opened = client.open(&namespace().description, "", "", LONG).await;
        opened.unwrap();
        let settled = client.shared.local.get().unwrap().region();
        assert_eq!(settled.map(ToString::to_string).as_deref(), own);
    }
}

#[tokio::test]
async fn the_last_failure_is_told_when_time_runs_out() {
    let (first, _, client) = fake::start(&["first:1"]);
    first.with(|script| {
        for _ in 0..1_000 {
            script
                .lookups
                .push_back(Err(Status::unavailable("starting")));
        }
    });
    // A slow machine asks at least once in it.
    let deadline = Duration::from_secs(2);
    let error = opened(&client)
        .lookup(&[chain(1).into()], deadline)
        .await
        .unwrap_err();
    assert_eq!(error.code(), Some(Code::Unavailable));
    assert!(error.to_string().contains("first:1: starting"), "{error}");
    first.with(|script| assert!(script.asked_lookups.len() > 1));
}

#[tokio::test]
async fn impossible_requests_do_not_leave() {
    let (first, _, client) = fake::start(&["first:1"]);
    let narrow = super::Chain::new([[0; 8]]).unwrap();
    let error = opened(&client)
        .lookup(&[narrow.into()], LONG)
        .await
        .unwrap_err();
    assert!(matches!(error, CallError::Request { .. }), "{error}");
    first.with(|script| assert!(script.asked_lookups.is_empty()));
    assert!(super::Chain::new(Vec::<Vec<u8>>::new()).is_err());
    assert!(super::Chain::new([vec![0; 16], vec![0; 17]]).is_err());
}

#[tokio::test]
async fn a_client_that_asks_once_does_not_mend() {
    let (net, [first, _], _) = fake::start_on_net(&["first:1"]);
    let behind = wire::LookupResponse {
        view_behind: true,
        ..Default::default()
    };
    first.with(|script| {
        script
            .lookups
            .push_back(Err(Status::unavailable("starting")));
        script.lookups.push_back(Ok(behind));
    });
    let channels = net.channels();
    let once = super::Client::connect_once("first:1", channels.clone()).unwrap();
    let namespace = opened(&once);
    let error = namespace
        .lookup(&[chain(1).into()], LONG)
        .await
        .unwrap_err();
    assert!(
        matches!(error, CallError::Status { broken: None, .. }),
        "{error}"
    );
    let answer = namespace.lookup(&[chain(1).into()], LONG).await.unwrap();
    assert!(answer.view_behind);
    first.with(|script| assert_eq!(script.asked_lookups.len(), 2));

    let nowhere = super::Client::connect_once("nowhere:1", channels).unwrap();
    let error = opened(&nowhere)
        .lookup(&[chain(1).into()], LONG)
        .await
        .unwrap_err();
    assert!(
        matches!(
            error,
            CallError::Status {
                broken: Some(_),
                ..
            }
        ),
        "{error}"
    );
}
