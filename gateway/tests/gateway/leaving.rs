//! Clients that leave or do not read: what was done for them alone ends, and nobody else waits
//! for them.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use crate::fakes::{
    Mood,
    start::{World, block, hash, until},
};
use kvmesh_client::{Block, ToWire};
use kvmesh_directory::{Checksum, Part, limits::BLOCK_BYTES_MAX};
use kvmesh_proto::v1::{self as wire, GetOutcome, put_request::Frame, put_response};
use tokio::{
    sync::{Semaphore, mpsc},
    time::timeout,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Streaming};

const PIECE: usize = 1 << 20;
const PATIENCE: Duration = Duration::from_secs(30);

fn count(counter: &AtomicUsize) -> usize {
    counter.load(Ordering::Relaxed)
}

fn close(gate: &Semaphore) {
    gate.forget_permits(gate.available_permits());
}

fn patient(world: &World, blocks: u32) -> wire::GetRequest {
    wire::GetRequest {
        deadline_ms: 60_000,
        ..world.get_request(blocks)
    }
}

async fn begin(world: &World, request: wire::GetRequest) -> Streaming<wire::GetResponse> {
    world
        .client
        .clone()
        .get(request)
        .await
        .unwrap()
        .into_inner()
}

#[tokio::test]
async fn a_get_that_is_left_ends_its_calls_to_nodes_and_afar() {
    for any_order in [false, true] {
        let world = World::start(1, |settings| settings.owner_timeout_ms = 60_000).await;
        world.place(0, 2_000, &[1]);
        let at = world.place_far(1, 1..3, 2_000);
        world.catch_up().await;
        world.reach(at).await;
        close(&world.nodes[0].gate);
        close(&world.far.gate);
        let request = wire::GetRequest {
            any_order,
            ..patient(&world, 3)
        };
        let stream = begin(&world, request).await;
        until(|| count(&world.nodes[0].gets) == 1 && count(&world.far.gets) == 1).await;
        assert_eq!(
            (count(&world.nodes[0].left), count(&world.far.left)),
            (0, 0)
        );
        drop(stream);
        until(|| count(&world.nodes[0].left) == 1 && count(&world.far.left) == 1).await;
    }
}

/// The next whole block's place, or the summary.
async fn next(stream: &mut Streaming<wire::GetResponse>) -> Result<u32, wire::GetSummary> {
    let mut index = None;
    loop {
        let frame = timeout(PATIENCE, stream.message()).await;
        let frame = frame.expect("a frame in time").unwrap().unwrap();
        let end = frame.end();
        if let Some(summary) = frame.summary {
            return Err(summary);
        }
        index = frame.header.map(|header| header.index).or(index);
        if end == wire::BlockEnd::Complete {
            return Ok(index.unwrap());
        }
    }
}

/// A region that has block 0, and another one that has the next ones and does not send yet.
async fn waiting_for_afar(blocks: u32, bytes: usize) -> World {
    let world = World::start(1, |_| {}).await;
    world.place(0, 900, &[1]);
    let at = world.place_far(1, 1..blocks, bytes);
    world.catch_up().await;
    world.reach(at).await;
    close(&world.far.gate);
    world
}

/// A get that waits for what is afar: that is asked for before block 0 is sent.
async fn waiter(world: &World, request: wire::GetRequest) -> Streaming<wire::GetResponse> {
    let mut stream = begin(world, request).await;
    assert_eq!(next(&mut stream).await, Ok(0));
    stream
}

#[tokio::test]
async fn a_shared_fetch_goes_on_until_its_last_waiter_leaves() {
    let world = waiting_for_afar(2, PIECE + 5).await;
    let first = waiter(&world, patient(&world, 2)).await;
    let mut second = waiter(&world, patient(&world, 2)).await;
    let third = waiter(&world, patient(&world, 2)).await;
    until(|| count(&world.far.gets) == 1).await;
    drop((first, third));
    world.far.gate.add_permits(1);
    assert_eq!(next(&mut second).await, Ok(1));
    let summary = next(&mut second).await.unwrap_err();
    assert_eq!(summary.outcome(), GetOutcome::Complete);
    assert_eq!((count(&world.far.gets), count(&world.far.left)), (1, 0));

    let world = waiting_for_afar(2, PIECE + 5).await;
    let first = waiter(&world, patient(&world, 2)).await;
    let second = waiter(&world, patient(&world, 2)).await;
    until(|| count(&world.far.gets) == 1).await;
    drop((first, second));
    until(|| count(&world.far.left) == 1).await;
}

#[tokio::test]
async fn a_shared_fetch_ends_at_its_longest_waiters_deadline() {
    let world = waiting_for_afar(2, 900).await;
    world.far.be(Mood::Silent);
    let named = |deadline_ms| wire::GetRequest {
        deadline_ms,
        ..world.get_request(2)
    };
    let mut longer = waiter(&world, named(8_000)).await;
    let mut short = waiter(&world, named(2_000)).await;
    until(|| count(&world.far.gets) == 1).await;
    let summary = next(&mut short).await.unwrap_err();
    assert_eq!(summary.outcome(), GetOutcome::OutOfTime);
    assert_eq!(count(&world.far.left), 0, "the longer one still waits");
    let summary = next(&mut longer).await.unwrap_err();
    assert_eq!(summary.outcome(), GetOutcome::OutOfTime);
    until(|| count(&world.far.left) == 1).await;
    assert_eq!(count(&world.far.gets), 1);
}

#[tokio::test]
async fn a_waiter_that_joins_has_all_of_its_own_time() {
    // The first call afar ends with the first waiter's time, or with that of usual gets.
    for (get_deadline_ms, calls) in [(60_000, 1), (300, 2)] {
        let world = World::start(1, |settings| settings.get_deadline_ms = get_deadline_ms).await;
        world.place(0, 900, &[1]);
        let at = world.place_far(1, 1..2, 900);
        world.catch_up().await;
        world.reach(at).await;
        close(&world.far.gate);
        let hasty = wire::GetRequest {
            deadline_ms: 2_000,
            ..world.get_request(2)
        };
        let mut first = waiter(&world, hasty).await;
        let mut second = waiter(&world, patient(&world, 2)).await;
        let summary = next(&mut first).await.unwrap_err();
        assert_eq!(summary.outcome(), GetOutcome::OutOfTime);
        until(|| count(&world.far.gets) == calls).await;
        world.far.gate.add_permits(1);
        assert_eq!(next(&mut second).await, Ok(1));
        let summary = next(&mut second).await.unwrap_err();
        assert_eq!(summary.outcome(), GetOutcome::Complete);
        assert_eq!(count(&world.far.gets), calls);
    }
}

/// A client that does not read holds what its connection holds, and nobody else up.
#[tokio::test]
async fn a_waiter_that_does_not_read_is_not_waited_for() {
    let world = waiting_for_afar(3, 24 * PIECE).await;
    let unread = waiter(&world, patient(&world, 3)).await;
    let mut second = waiter(&world, patient(&world, 3)).await;
    world.far.gate.add_permits(2);
    assert_eq!(next(&mut second).await, Ok(1));
    assert_eq!(next(&mut second).await, Ok(2));
    let summary = next(&mut second).await.unwrap_err();
    assert_eq!(summary.outcome(), GetOutcome::Complete);
    world.far.asked_once();
    drop(unread);
}

#[tokio::test]
async fn a_client_that_takes_nothing_is_detached_before_its_deadline() {
    let world = World::start(1, |settings| settings.calls_max = 1).await;
    world.place(0, 24 * PIECE, &[1]);
    world.place(1, 900, &[1]);
    world.catch_up().await;
    let unread = begin(&world, patient(&world, 1)).await;
    // As long as it is served, nobody else is.
    let mut client = world.client.clone();
    let turned_away = client.get(patient(&world, 2)).await.unwrap_err();
    assert_eq!(turned_away.code(), Code::ResourceExhausted);
    let served = async {
        let mut ticks = tokio::time::interval(Duration::from_millis(100));
        while client.get(patient(&world, 2)).await.is_err() {
            ticks.tick().await;
        }
    };
    timeout(PATIENCE, served).await.expect("it was waited for");
    drop(unread);
}

struct Put {
    requests: mpsc::Sender<wire::PutRequest>,
    answers: Streaming<wire::PutResponse>,
}

/// Offers a block, and sends none of it.
async fn offer(world: &World, block: &Block) -> Put {
    let (requests, stream) = mpsc::channel(8);
    let open = wire::PutOpen {
        namespace_id: world.namespace.id.to_wire(),
        deadline_ms: 60_000,
        ..Default::default()
    };
    let mut meta = block.meta.to_wire();
    meta.put_hlc = 0;
    let offer = wire::PutOffer {
        id: 1,
        hash: hash(block.meta.depth).into(),
        part: Some(Part::default().to_wire()),
        meta: Some(meta),
    };
    for frame in [Frame::Open(open), Frame::Offer(offer)] {
        let frame = Some(frame);
        requests.send(wire::PutRequest { frame }).await.unwrap();
    }
    let mut client = world.client.clone();
    let answers = client.put(ReceiverStream::new(stream)).await.unwrap();
    Put {
        requests,
        answers: answers.into_inner(),
    }
}

async fn wanted(put: &mut Put) {
    let answer = timeout(PATIENCE, put.answers.message()).await;
    let answer = answer.expect("an answer in time").unwrap().unwrap();
    let Some(put_response::Frame::Decision(decision)) = answer.frame else {
        panic!("{answer:?}");
    };
    assert_eq!(decision.verdict(), wire::put_decision::Verdict::Send);
}

#[tokio::test]
async fn a_put_that_is_left_gives_back_all_that_it_took() {
    let world = World::start(1, |settings| settings.inflight_bytes_max = BLOCK_BYTES_MAX).await;
    // As large as what the gateway may have in memory; its pieces are never sent.
    let mut large = block(0, 100);
    large.meta.bytes = BLOCK_BYTES_MAX;
    large.meta.pieces = vec![large.meta.pieces[0]; large.meta.piece_count()];
    large.meta.checksum = Checksum::over(&large.meta.pieces);
    let mut left = offer(&world, &large).await;
    wanted(&mut left).await;
    let small = block(1, 900);
    let mut next = offer(&world, &small).await;
    drop(left);
    wanted(&mut next).await;
    until(|| count(&world.nodes[0].abandoned) == 1).await;
    let piece = wire::PutPiece {
        id: 1,
        data: small.pieces[0].clone(),
    };
    let frame = Some(Frame::Piece(piece));
    next.requests
        .send(wire::PutRequest { frame })
        .await
        .unwrap();
    let answer = timeout(PATIENCE, next.answers.message()).await.unwrap();
    let answer = answer.unwrap().unwrap();
    assert!(
        matches!(answer.frame, Some(put_response::Frame::Ack(_))),
        "{answer:?}"
    );
    assert_eq!(world.nodes[0].blocks.lock().unwrap().len(), 1);
}
