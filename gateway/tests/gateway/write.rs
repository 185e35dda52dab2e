//! Puts, opens, deletes and what is refused at the door.

use std::{sync::atomic::Ordering, time::Duration};

use crate::fakes::{
    Mood,
    start::{World, block, description, hash, places},
};
use bytes::Bytes;
use kvmesh_client::{Block, FromWire, ToWire};
use kvmesh_directory::{FeedPosition, Part};
use kvmesh_proto::v1::{
    self as wire, PutRequest, RefusalReason, put_decision::Verdict, put_request::Frame,
    put_response,
};
use tokio::{sync::mpsc, time::timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Streaming};

struct Put {
    requests: mpsc::Sender<PutRequest>,
    answers: Streaming<wire::PutResponse>,
}

impl Put {
    async fn begin(
        world: &World,
        change: impl FnOnce(&mut wire::PutOpen),
    ) -> Result<Self, tonic::Status> {
        let (requests, stream) = mpsc::channel(4_096);
        let mut open = wire::PutOpen {
            namespace_id: world.namespace.id.to_wire(),
            ..Default::default()
        };
        change(&mut open);
        let frame = Some(Frame::Open(open));
        requests.send(PutRequest { frame }).await.unwrap();
        let mut client = world.client.clone();
        let answers = client.put(ReceiverStream::new(stream)).await?.into_inner();
        Ok(Self { requests, answers })
    }

    async fn offer(&self, id: u64, block: &Block, change: impl FnOnce(&mut wire::PutOffer)) {
        let mut meta = block.meta.to_wire();
        meta.put_hlc = 0;
        let mut offer = wire::PutOffer {
            id,
            hash: hash(block.meta.depth).into(),
            part: Some(Part::default().to_wire()),
            meta: Some(meta),
        };
        change(&mut offer);
        let frame = Some(Frame::Offer(offer));
        self.requests.send(PutRequest { frame }).await.unwrap();
    }

    async fn pieces(&self, id: u64, pieces: &[Bytes]) {
        for data in pieces {
            let piece = wire::PutPiece {
                id,
                data: data.clone(),
            };
            let frame = Some(Frame::Piece(piece));
            self.requests.send(PutRequest { frame }).await.unwrap();
        }
    }

    async fn next(&mut self) -> Result<(u64, put_response::Frame), tonic::Status> {
        let answer = timeout(Duration::from_secs(20), self.answers.message());
        let answer = answer
            .await
            .expect("an answer in time")?
            .expect("an answer");
        Ok((answer.id, answer.frame.unwrap()))
    }

    async fn verdict(&mut self) -> (u64, Verdict, RefusalReason, String) {
        match self.next().await.unwrap() {
            (id, put_response::Frame::Decision(it)) => (id, it.verdict(), it.reason(), it.message),
            (_, put_response::Frame::Ack(ack)) => panic!("{ack:?}"),
        }
    }

    async fn ack(&mut self) -> (u64, wire::PutAck) {
        match self.next().await.unwrap() {
            (id, put_response::Frame::Ack(ack)) => (id, ack),
            (_, put_response::Frame::Decision(it)) => panic!("{it:?}"),
        }
    }
}

#[tokio::test]
async fn offers_go_to_the_primary_and_answers_come_back() {
    let world = World::start(3, |_| {}).await;
    let mut put = Put::begin(&world, |_| {}).await.unwrap();
    let blocks: Vec<Block> = (0..100)
        .map(|index| block(index, 3_000 + index as usize))
        .collect();
    for (id, block) in (0..).zip(&blocks) {
        put.offer(id, block, |_| {}).await;
    }
    let mut acked = 0;
    while acked < 100 {
        match put.next().await.unwrap() {
            (id, put_response::Frame::Decision(it)) => {
                assert_eq!(it.verdict(), Verdict::Send);
                put.pieces(id, &blocks[id as usize].pieces).await;
            }
            (_, put_response::Frame::Ack(ack)) => {
                assert!(!ack.existed && ack.position.is_some());
                acked += 1;
            }
        }
    }
    for index in 0..100 {
        let primary = world.owners(index)[0] as usize - 1;
        let name = world.name(index, 0);
        assert!(
            world.nodes[primary]
                .blocks
                .lock()
                .unwrap()
                .contains_key(&name)
        );
    }
    put.offer(200, &blocks[5], |_| {}).await;
    assert_eq!(put.verdict().await.1, Verdict::Have);
    let (id, ack) = put.ack().await;
    assert_eq!((id, ack.existed), (200, true));

    let at = FeedPosition::from_wire(ack.position.unwrap()).unwrap();
    world.reach(at).await;
    let (got, _) = world.get(world.get_request(100)).await;
    assert_eq!(places(&got), (0..100).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_client_may_send_without_waiting() {
    let world = World::start(3, |_| {}).await;
    let put = Put::begin(&world, |_| {}).await.unwrap();
    for index in 0..8 {
        let block = block(index, (5 << 20) / 2);
        put.offer(index.into(), &block, |_| {}).await;
        put.pieces(index.into(), &block.pieces).await;
    }
    let Put { requests, answers } = put;
    drop(requests); // everything was said; the answers still come
    let mut rest = Put {
        requests: mpsc::channel(1).0,
        answers,
    };
    let mut acked = 0;
    while acked < 8 {
        if let (_, put_response::Frame::Ack(_)) = rest.next().await.unwrap() {
            acked += 1;
        }
    }
    assert!(
        rest.answers.message().await.unwrap().is_none(),
        "the call has ended"
    );
}

#[tokio::test]
async fn the_next_owner_takes_over() {
    for mood in [Mood::Silent, Mood::Alone, Mood::StaleOnce] {
        let world = World::start(3, |_| {}).await;
        let owners = world.owners(0);
        world.nodes[owners[0] as usize - 1].be(mood);
        let mut put = Put::begin(&world, |_| {}).await.unwrap();
        let block = block(0, (3 << 20) / 2);
        put.offer(1, &block, |_| {}).await;
        put.pieces(1, &block.pieces).await;
        assert_eq!(put.verdict().await.1, Verdict::Send, "{mood:?}");
        put.ack().await;
        let want = if mood == Mood::StaleOnce {
            owners[0]
        } else {
            owners[1]
        };
        let name = world.name(0, 0);
        let holds = |node: u64| {
            let blocks = world.nodes[node as usize - 1].blocks.lock().unwrap();
            blocks.contains_key(&name)
        };
        assert!(holds(want), "{mood:?}");
    }
    let world = World::start(3, |_| {}).await;
    let owners = world.owners(0);
    world.stops[owners[0] as usize - 1].cancel();
    let mut put = Put::begin(&world, |_| {}).await.unwrap();
    let block = block(0, 900);
    put.offer(1, &block, |_| {}).await;
    put.pieces(1, &block.pieces).await;
    assert_eq!(put.verdict().await.1, Verdict::Send);
    put.ack().await;
}

#[tokio::test]
async fn nobody_to_take_it_is_unavailable() {
    let world = World::start(1, |_| {}).await;
    world.nodes[0].be(Mood::Alone);
    let mut put = Put::begin(&world, |_| {}).await.unwrap();
    put.offer(1, &block(0, 900), |_| {}).await;
    let (_, verdict, reason, message) = put.verdict().await;
    assert_eq!(
        (verdict, reason),
        (Verdict::Refused, RefusalReason::Unavailable)
    );
    assert_eq!(message, "too few owners");
}

/// `REFUSED` promises that nothing was stored: where an owner may have, the call fails instead.
#[tokio::test]
async fn what_an_owner_may_have_stored_is_not_refused() {
    for pieces in [1, 2] {
        let world = World::start(1, |_| {}).await;
        world.nodes[0].be(Mood::Mute);
        let mut put = Put::begin(&world, |_| {}).await.unwrap();
        let block = block(0, pieces << 20);
        put.offer(1, &block, |_| {}).await;
        assert_eq!(put.verdict().await.1, Verdict::Send);
        put.pieces(1, &block.pieces).await;
        let status = put.next().await.unwrap_err();
        assert_eq!(status.code(), Code::Unavailable);
        assert!(status.message().contains("may be stored"), "{status}");
        let kept = world.nodes[0].blocks.lock().unwrap();
        assert!(kept.contains_key(&world.name(0, 0)));
    }
}

#[tokio::test]
async fn bad_blocks_are_refused_and_not_stored() {
    type Spoil = fn(&mut wire::PutOffer);
    let cases: [(&str, Spoil, RefusalReason, &str); 7] = [
        (
            "hash",
            |it| it.hash = Bytes::from_static(b"short"),
            RefusalReason::Invalid,
            "hash_width is 16",
        ),
        (
            "part",
            |it| it.part = Some(wire::Part { shard: 2, group: 0 }),
            RefusalReason::Invalid,
            "(2, 0)",
        ),
        ("meta", |it| it.meta = None, RefusalReason::Invalid, "meta"),
        (
            "size",
            |it| it.meta.as_mut().unwrap().bytes = 257 << 20,
            RefusalReason::TooLarge,
            "use smaller blocks",
        ),
        (
            "empty",
            |it| it.meta.as_mut().unwrap().bytes = 0,
            RefusalReason::Invalid,
            "empty",
        ),
        (
            "root",
            |it| it.meta.as_mut().unwrap().checksum = vec![1; 16].into(),
            RefusalReason::Invalid,
            "checksum",
        ),
        (
            "clock",
            |it| it.meta.as_mut().unwrap().put_hlc = 9,
            RefusalReason::Invalid,
            "put_hlc",
        ),
    ];
    let world = World::start(1, |_| {}).await;
    let mut put = Put::begin(&world, |_| {}).await.unwrap();
    for (id, (case, spoil, want, says)) in (1..).zip(cases) {
        put.offer(id, &block(0, 900), spoil).await;
        put.pieces(id, &block(0, 900).pieces).await;
        let (answered, verdict, reason, message) = put.verdict().await;
        assert_eq!(
            (answered, verdict, reason),
            (id, Verdict::Refused, want),
            "{case}"
        );
        assert!(message.contains(says), "{case}: {message}");
    }
    assert_eq!(world.nodes[0].puts.load(Ordering::Relaxed), 0);

    // A piece of the wrong size; wrong bytes, as the node finds out.
    put.offer(20, &block(1, 900), |_| {}).await;
    put.pieces(20, &[Bytes::from_static(b"short")]).await;
    let (_, verdict, reason, message) = loop {
        let it = put.verdict().await;
        if it.1 != Verdict::Send {
            break it;
        }
    };
    assert_eq!(
        (verdict, reason),
        (Verdict::Refused, RefusalReason::Invalid)
    );
    assert_eq!(message, "piece 0 has 5 bytes, expected 900");
    put.offer(21, &block(2, 900), |_| {}).await;
    put.pieces(21, &[Bytes::from(vec![0; 900])]).await;
    assert_eq!(put.verdict().await.1, Verdict::Send);
    let (_, verdict, reason, _) = put.verdict().await;
    assert_eq!(
        (verdict, reason),
        (Verdict::Refused, RefusalReason::Checksum)
    );

    // A stream that ends too early.
    put.offer(22, &block(3, 3 << 20), |_| {}).await;
    put.pieces(22, &block(3, 3 << 20).pieces[..1]).await;
    let Put { requests, answers } = put;
    drop(requests);
    let mut rest = Put {
        requests: mpsc::channel(1).0,
        answers,
    };
    let (verdict, reason) = loop {
        let it = rest.verdict().await;
        if it.1 != Verdict::Send {
            break (it.1, it.2);
        }
    };
    assert_eq!(
        (verdict, reason),
        (Verdict::Refused, RefusalReason::Truncated)
    );
    assert!(world.nodes[0].blocks.lock().unwrap().is_empty());
}

#[tokio::test]
async fn calls_that_cannot_be_get_their_code() {
    let world = World::start(1, |_| {}).await;
    type Spoil = fn(&mut wire::PutOpen);
    let puts: [(Spoil, Code, &str); 3] = [
        (
            |it| it.namespace_id = vec![1; 16].into(),
            Code::NotFound,
            "open it first",
        ),
        (
            |it| it.namespace_id = Bytes::new(),
            Code::InvalidArgument,
            "namespace_id",
        ),
        (|it| it.fill = true, Code::InvalidArgument, "open.fill"),
    ];
    for (spoil, code, says) in puts {
        let status = Put::begin(&world, spoil).await.err().unwrap();
        assert_eq!(status.code(), code, "{status:?}");
        assert!(status.message().contains(says), "{status:?}");
    }
    let mut put = Put::begin(&world, |_| {}).await.unwrap();
    put.pieces(9, &[Bytes::from_static(b"x")]).await;
    assert_eq!(put.next().await.unwrap_err().code(), Code::InvalidArgument);

    type SpoilGet = fn(&mut wire::GetRequest);
    let gets: [(SpoilGet, Code, &str); 6] = [
        (
            |it| it.namespace_id = vec![1; 16].into(),
            Code::NotFound,
            "open it first",
        ),
        (|it| it.chain = None, Code::InvalidArgument, "chain"),
        (
            |it| it.chain.as_mut().unwrap().width = 8,
            Code::InvalidArgument,
            "hash_width is 16",
        ),
        (|it| it.start = 4, Code::InvalidArgument, "start"),
        (|it| it.count = 9, Code::InvalidArgument, "count"),
        (
            |it| it.select = vec![2, 1],
            Code::InvalidArgument,
            "ascending",
        ),
    ];
    for (spoil, code, says) in gets {
        let mut request = world.get_request(3);
        spoil(&mut request);
        let status = world.client.clone().get(request).await.unwrap_err();
        assert_eq!(status.code(), code, "{status:?}");
        assert!(status.message().contains(says), "{status:?}");
    }
}

#[tokio::test]
async fn open_is_idempotent_and_says_what_differs() {
    let world = World::start(3, |_| {}).await;
    let mut client = world.client.clone();
    let mut other = description();
    other.model = "other".to_owned();
    let open = |description: &kvmesh_directory::Description, name: &str| wire::OpenRequest {
        description: Some(description.to_wire()),
        name: name.to_owned(),
        template: String::new(),
    };
    let opened = client.open(open(&other, "")).await.unwrap().into_inner();
    let namespace = opened.namespace.unwrap();
    assert_eq!(namespace.id, other.id().to_wire());
    assert_eq!(namespace.name, other.id().to_string()[..12]);
    assert_eq!(
        (opened.region.as_str(), opened.protocol_version),
        ("us-east", 1)
    );
    assert_eq!(opened.limits.unwrap().block_bytes_max, 256 << 20);
    let again = client.open(open(&other, "")).await.unwrap().into_inner();
    assert_eq!(again.namespace.unwrap(), namespace);

    let status = client.open(open(&other, "n")).await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition, "{status:?}");
    assert!(status.message().contains("model"), "{status:?}");
    let mut bad = other.clone();
    bad.hash_width = 4;
    let status = client.open(open(&bad, "")).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    let mut residing = other.clone();
    residing.residency = vec!["eu-west".parse().unwrap()];
    let status = client.open(open(&residing, "")).await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied, "{status:?}");
    residing.residency.push("us-east".parse().unwrap());
    client.open(open(&residing, "")).await.unwrap();
    let mut templated = open(&other, "");
    templated.template = "none such".to_owned();
    let status = client.open(templated).await.unwrap_err();
    assert!(status.message().contains("always, default"), "{status:?}");
}

#[tokio::test]
async fn a_delete_is_seen_by_the_next_read() {
    let world = World::start(2, |_| {}).await;
    for index in 0..4 {
        world.place(index, 900, &[1, 2]);
    }
    world.catch_up().await;
    let mut client = world.client.clone();
    let get = world.get_request(4);
    let delete = wire::DeleteRequest {
        namespace_id: get.namespace_id.clone(),
        chain: get.chain.clone(),
        start: 2,
        count: 1,
        parts: Vec::new(),
    };
    let deleted = client.delete(delete).await.unwrap().into_inner();
    assert_eq!(deleted.deleted, 1);
    let (got, _) = world.get(get).await;
    assert_eq!(places(&got), [0, 1]);
}

#[tokio::test]
async fn locate_names_owners_and_holders() {
    let world = World::start(3, |_| {}).await;
    world.place(0, 900, &[3]);
    world.catch_up().await;
    let get = world.get_request(2);
    let locate = |ring_epoch| wire::LocateRequest {
        namespace_id: get.namespace_id.clone(),
        chain: get.chain.clone(),
        ring_epoch,
        ..Default::default()
    };
    let mut client = world.client.clone();
    let located = client.locate(locate(0)).await.unwrap().into_inner();
    let node = |at: &u32| located.nodes[*at as usize].node;
    assert_eq!(located.blocks.len(), 2);
    for (index, block) in (0..).zip(&located.blocks) {
        let owners: Vec<u64> = block.owners.iter().map(node).collect();
        assert_eq!(owners, world.owners(index)[..2]);
    }
    assert_eq!(
        located.blocks[0]
            .holders
            .iter()
            .map(node)
            .collect::<Vec<_>>(),
        [3]
    );
    let current = located.ring_epoch;
    assert!(client.locate(locate(current)).await.is_ok());
    let status = client.locate(locate(current + 1)).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    // Who wants the ring gets it, unless it is known.
    for (ring_known, members) in [(None, 0), (Some(0), 3), (Some(current), 0)] {
        let request = wire::LocateRequest {
            ring_known,
            ..locate(0)
        };
        let located = client.locate(request).await.unwrap().into_inner();
        assert_eq!(located.ring.len(), members, "{ring_known:?}");
    }
}
