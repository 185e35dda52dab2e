//! Bad input gets the right answer and stores nothing.

use bytes::Bytes;
use kvmesh_proto::v1::{self as wire, AckLevel, RefusalReason};
use tonic::Code;

use crate::{
    blocks_test::{Put, offered, payload},
    region_test::Region,
};

type SpoilOpen = fn(&mut wire::PutOpen);
type Spoil = fn(&mut wire::PutOpen, &mut wire::PutOffer, &mut Vec<Bytes>);

#[tokio::test]
async fn a_block_that_cannot_be_is_refused_with_its_reason() {
    let region = Region::start(1).await;
    let cases: Vec<(&str, RefusalReason, Spoil)> = vec![
        ("wrong bytes", RefusalReason::Checksum, |_, _, pieces| {
            pieces[0] = payload(9, pieces[0].len());
        }),
        ("wrong root", RefusalReason::Checksum, |_, offer, _| {
            offer.meta.as_mut().unwrap().checksum = Bytes::from_static(&[9; 16]);
        }),
        ("oversize", RefusalReason::TooLarge, |_, offer, _| {
            offer.meta.as_mut().unwrap().bytes = 257 << 20;
        }),
        ("empty", RefusalReason::Invalid, |_, offer, _| {
            offer.meta.as_mut().unwrap().bytes = 0;
        }),
        ("wrong width", RefusalReason::Invalid, |_, offer, _| {
            offer.hash = Bytes::from_static(&[1; 32]);
        }),
        ("unknown part", RefusalReason::Invalid, |_, offer, _| {
            offer.part = Some(wire::Part { shard: 1, group: 0 });
        }),
        ("no meta", RefusalReason::Invalid, |_, offer, _| {
            offer.meta = None
        }),
        ("a long piece", RefusalReason::Invalid, |_, _, pieces| {
            pieces[0] = payload(1, pieces[0].len() + 1);
        }),
        ("truncated", RefusalReason::Truncated, |_, _, pieces| {
            pieces.pop();
        }),
        (
            "a fill without a clock",
            RefusalReason::Invalid,
            |open, _, _| open.fill = true,
        ),
    ];
    for (case, reason, spoil) in cases {
        let (mut offer, mut pieces) = offered(1, &payload(1, (1 << 20) + 5));
        let mut open = region.opening(AckLevel::Memory);
        spoil(&mut open, &mut offer, &mut pieces);
        let put = region.put_raw(0, open, offer, pieces).await;
        assert_eq!(put.reason(), reason, "{case}");
    }
    let stats = region.stats(0).await;
    assert_eq!(
        (stats.blocks, stats.memory_used),
        (0, 0),
        "nothing is stored"
    );
}

#[tokio::test]
async fn a_call_that_cannot_be_fails_with_its_code() {
    let region = Region::start(1).await;
    let cases: Vec<(&str, Code, SpoilOpen)> = vec![
        ("unknown namespace", Code::NotFound, |open| {
            open.namespace_id = Bytes::from_static(&[3; 16]);
        }),
        ("cut namespace", Code::InvalidArgument, |open| {
            open.namespace_id = Bytes::from_static(&[3; 15]);
        }),
        ("stale epoch", Code::FailedPrecondition, |open| {
            open.ring_epoch = 0
        }),
        ("future epoch", Code::Unavailable, |open| {
            open.ring_epoch = 9
        }),
    ];
    for (case, code, spoil) in cases {
        let (offer, pieces) = offered(1, &payload(1, 100));
        let mut open = region.opening(AckLevel::Memory);
        spoil(&mut open);
        match region.put_raw(0, open, offer, pieces).await {
            Put::Failed(status) => assert_eq!(status.code(), code, "{case}: {status:?}"),
            other => panic!("{case}: {other:?}"),
        }
    }
    assert_eq!(region.stats(0).await.blocks, 0);
    let residency = wire::OpenRequest {
        description: Some(wire::NamespaceDescription {
            residency: vec!["eu-west".to_owned()],
            ..kvmesh_client::ToWire::to_wire(&crate::region_test::description("r"))
        }),
        ..Default::default()
    };
    let status = region.cache(0).open(residency).await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied);
    let taken = wire::OpenRequest {
        description: Some(kvmesh_client::ToWire::to_wire(
            &crate::region_test::description("other"),
        )),
        name: "test".to_owned(),
        ..Default::default()
    };
    let status = region.cache(0).open(taken).await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition);
    assert!(status.message().contains("model"), "{status:?}");
    let report = region
        .cache(0)
        .report(wire::ReportRequest::default())
        .await
        .unwrap_err();
    assert_eq!(report.code(), Code::Unimplemented);
}

#[tokio::test]
async fn overload_is_refused_with_a_hint() {
    let region = Region::start_with(1, |settings| {
        settings.memory_bytes = 64 << 20;
        settings.inflight_bytes_max = 100 << 10;
        settings.owner_timeout_ms = 200;
    })
    .await;
    let (slow, fast) = (
        offered(1, &payload(1, 90_000)),
        offered(2, &payload(2, 90_000)),
    );
    let frame = |frame| wire::PutRequest { frame: Some(frame) };
    let frames = vec![
        frame(wire::put_request::Frame::Open(
            region.opening(AckLevel::Memory),
        )),
        frame(wire::put_request::Frame::Offer(slow.0)),
    ];
    // Offers a block, is told to send it, and does not.
    let stalled = futures::StreamExt::chain(tokio_stream::iter(frames), tokio_stream::pending());
    let mut answers = region.cache(0).put(stalled).await.unwrap().into_inner();
    assert!(answers.message().await.unwrap().is_some());
    let refused = region
        .put_raw(0, region.opening(AckLevel::Memory), fast.0, fast.1)
        .await;
    match refused {
        Put::Refused(decision) => {
            assert_eq!(decision.reason(), RefusalReason::NoSpace);
            assert!(decision.retry_after_ms > 0);
        }
        other => panic!("{other:?}"),
    }
}
