//! Followers end where the region is.

use std::time::Duration;

use kvmesh_client::{
    FromWire, ToWire,
    convert::{mesh::MeshPart, snapshot::Assembler},
};
use kvmesh_directory::{Command, DirectoryState, FeedPosition, view::MeshStep, view::RegionView};
use kvmesh_proto::v1::{self as wire, AckLevel, feed_frame::Kind};
use tokio::time::timeout;
use tonic::Streaming;

use crate::{blocks_test::payload, region_test::Region};

async fn follow(
    region: &Region,
    node: usize,
    scope: wire::FeedScope,
    after: Option<wire::FeedPosition>,
) -> Streaming<wire::FeedFrame> {
    let request = wire::FollowRequest {
        scope: scope.into(),
        after,
        follower_region: "eu-west".to_owned(),
    };
    region
        .feed(node)
        .follow(request)
        .await
        .unwrap()
        .into_inner()
}

async fn next(frames: &mut Streaming<wire::FeedFrame>) -> Kind {
    let frame = timeout(Duration::from_secs(5), frames.message()).await;
    frame.unwrap().unwrap().unwrap().kind.unwrap()
}

/// Follows from a snapshot until a position is covered.
async fn state_at(frames: &mut Streaming<wire::FeedFrame>, index: u64) -> DirectoryState {
    let (mut assembler, mut view) = (Assembler::new(), None);
    loop {
        match next(frames).await {
            Kind::SnapshotChunk(chunk) => {
                if let Some(state) = assembler.push(chunk).unwrap() {
                    view = Some(RegionView::new(state));
                }
            }
            Kind::RegionStep(step) => {
                let command = step.command.map(|raw| Command::from_wire(raw).unwrap());
                let view = view.as_mut().unwrap();
                view.step(step.position.unwrap().index, command.as_ref());
            }
            Kind::Heartbeat(_) => {}
            other => panic!("{other:?}"),
        }
        if let Some(view) = &view
            && view.state().applied_index() >= index
        {
            return view.state().clone();
        }
    }
}

#[tokio::test]
async fn a_follower_of_the_region_equals_it() {
    let region = Region::start(3).await;
    let mut early = follow(&region, 1, wire::FeedScope::Region, None).await;
    let mut last = 0;
    for number in 0..10 {
        let primary = region.locate(0, number).await.0[0];
        let put = region
            .put(primary, number, &payload(number, 900), AckLevel::Replicated)
            .await;
        last = put.acked().position.unwrap().index;
    }
    let from_early = state_at(&mut early, last).await;
    let mut late = follow(&region, 2, wire::FeedScope::Region, None).await;
    let from_late = state_at(&mut late, from_early.applied_index()).await;
    let entries = |state: &DirectoryState| state.entries().collect::<Vec<_>>();
    assert_eq!(entries(&from_early).len(), 10);
    assert_eq!(entries(&from_late), entries(&from_early));
    assert_eq!(from_late.stats(), from_early.stats());

    let mut resumed = follow(
        &region,
        0,
        wire::FeedScope::Region,
        from_early.position().map(|position| position.to_wire()),
    )
    .await;
    match next(&mut resumed).await {
        Kind::RegionStep(step) => {
            assert_eq!(step.position.unwrap().index, from_early.applied_index() + 1);
        }
        Kind::Heartbeat(position) => assert!(position.index >= from_early.applied_index()),
        other => panic!("a known position is resumed: {other:?}"),
    }
    let mut foreign = from_early.position().unwrap();
    foreign.log_incarnation.0 ^= 1;
    let mut forced = follow(&region, 0, wire::FeedScope::Region, Some(foreign.to_wire())).await;
    assert!(matches!(next(&mut forced).await, Kind::SnapshotChunk(_)));
    let ahead = FeedPosition {
        index: u64::MAX,
        ..from_early.position().unwrap()
    };
    let request = wire::FollowRequest {
        scope: wire::FeedScope::Region.into(),
        after: Some(ahead.to_wire()),
        ..Default::default()
    };
    let status = region.feed(0).follow(request).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::Unavailable);
}

#[tokio::test]
async fn another_region_hears_of_first_copies_and_positions() {
    let region = Region::start(1).await;
    region
        .put_until_acked(0, 1, &payload(1, 900), AckLevel::Memory)
        .await;
    let mut frames = follow(&region, 0, wire::FeedScope::Mesh, None).await;
    let (mut blocks, mut namespaces) = (0, 0);
    loop {
        let Kind::MeshSnapshot(part) = next(&mut frames).await else {
            panic!("a follower without a position gets a snapshot");
        };
        let part = MeshPart::from_wire(part).unwrap();
        blocks += part.blocks.len();
        namespaces += part.namespaces.len();
        if part.last {
            break;
        }
    }
    assert_eq!((blocks, namespaces), (1, 1));
    let ack = region
        .put_until_acked(0, 2, &payload(2, 900), AckLevel::Memory)
        .await;
    loop {
        match next(&mut frames).await {
            Kind::Heartbeat(_) => {}
            Kind::MeshStep(step) => {
                let (position, step) = <(FeedPosition, MeshStep)>::from_wire(step).unwrap();
                assert_eq!(step.appeared.len(), 1);
                assert!(position.index <= ack.position.unwrap().index);
                break;
            }
            other => panic!("{other:?}"),
        }
    }
}
