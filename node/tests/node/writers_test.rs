//! Writers of one chain at the same time: each block's bytes are asked of one of them.

use bytes::Bytes;
use futures::future::join_all;
use kvmesh_proto::v1::{
    self as wire, AckLevel, put_decision::Verdict, put_request, put_response::Frame,
};
use tokio::{sync::mpsc, time::timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use crate::{
    blocks_test::{offered, payload},
    region_test::{PATIENCE, Region, until},
};

const WRITERS: usize = 16;
const BLOCKS: u64 = 6;
const BYTES: usize = 300_000;

/// One call that offers one block.
struct Writer {
    id: u64,
    requests: mpsc::Sender<wire::PutRequest>,
    answers: Streaming<wire::PutResponse>,
    pieces: Vec<Bytes>,
}

impl Writer {
    async fn offer(region: &Region, node: usize, number: u64) -> Self {
        let (requests, sent) = mpsc::channel(16);
        let open = wire::PutOpen {
            waits: true,
            deadline_ms: 30_000,
            ..region.opening(AckLevel::Replicated)
        };
        let (offer, pieces) = offered(number, &payload(number, BYTES));
        for frame in [
            put_request::Frame::Open(open),
            put_request::Frame::Offer(offer),
        ] {
            let frame = Some(frame);
            requests.send(wire::PutRequest { frame }).await.unwrap();
        }
        let answers = region.cache(node).put(ReceiverStream::new(sent)).await;
        Self {
            id: number,
            requests,
            answers: answers.unwrap().into_inner(),
            pieces,
        }
    }

    async fn next(&mut self) -> Frame {
        let answer = timeout(PATIENCE, self.answers.message()).await.unwrap();
        answer.unwrap().unwrap().frame.unwrap()
    }

    /// SEND or HAVE, after any number of WAITs; says how many.
    async fn verdict(&mut self) -> (Verdict, usize) {
        let mut waited = 0;
        loop {
            match self.next().await {
                Frame::Decision(decision) if decision.verdict() == Verdict::Wait => waited += 1,
                Frame::Decision(decision) => return (decision.verdict(), waited),
                Frame::Ack(ack) => panic!("{ack:?}"),
            }
        }
    }

    async fn send(&mut self) -> usize {
        let mut bytes = 0;
        for data in std::mem::take(&mut self.pieces) {
            bytes += data.len();
            let piece = wire::PutPiece { id: self.id, data };
            let frame = Some(put_request::Frame::Piece(piece));
            self.requests
                .send(wire::PutRequest { frame })
                .await
                .unwrap();
        }
        bytes
    }

    async fn ack(&mut self) -> wire::PutAck {
        match self.next().await {
            Frame::Ack(ack) => ack,
            Frame::Decision(decision) => panic!("{decision:?}"),
        }
    }
}

#[tokio::test]
async fn sixteen_writers_of_a_chain_send_each_block_once() {
    let region = Region::start(3).await;
    let region = &region;
    let write = |number| async move {
        let primary = region.locate(0, number).await.0[0];
        let mut writer = Writer::offer(region, primary, number).await;
        let sent = match writer.verdict().await.0 {
            Verdict::Send => writer.send().await,
            verdict => {
                assert_eq!(verdict, Verdict::Have);
                0
            }
        };
        let ack = writer.ack().await;
        assert_eq!(ack.existed, sent == 0);
        assert!(ack.copies >= 2);
        sent
    };
    let writes = (0..WRITERS).flat_map(|_| (0..BLOCKS).map(write));
    let sent: usize = join_all(writes).await.into_iter().sum();
    assert_eq!(
        sent,
        BLOCKS as usize * BYTES,
        "the chain's bytes, and no more"
    );
}

#[tokio::test]
async fn when_the_first_writer_dies_another_one_is_asked() {
    let region = Region::start(3).await;
    let primary = region.locate(0, 1).await.0[0];
    let open = |number| Writer::offer(&region, primary, number);
    let mut first = open(1).await;
    assert_eq!(first.verdict().await.0, Verdict::Send);
    let mut second = open(1).await;
    match second.next().await {
        Frame::Decision(decision) => assert_eq!(decision.verdict(), Verdict::Wait),
        Frame::Ack(ack) => panic!("{ack:?}"),
    }
    drop(first);
    assert_eq!(second.verdict().await.0, Verdict::Send);
    second.send().await;
    assert!(!second.ack().await.existed);
}

#[tokio::test]
async fn a_duplicate_is_acknowledged_for_what_holders_say() {
    let region = Region::start(3).await;
    let bytes = payload(9, BYTES);
    let primary = region.locate(0, 9).await.0[0];
    let first = region.put(primary, 9, &bytes, AckLevel::Replicated).await;
    assert_eq!(first.acked().copies, 2);
    let (_, holders) = region.locate(primary, 9).await;
    let other = *holders.iter().find(|node| **node != primary).unwrap();
    // The directory lists the other copy on, and nobody has it.
    region.stop(other);
    let again = region.put(primary, 9, &bytes, AckLevel::Replicated).await;
    assert!(again.acked().existed);
    let third = 3 - primary - other;
    let has = async || region.locate(primary, 9).await.1.contains(&third);
    assert!(has().await, "the copy was made before the acknowledgement");
    until(async || region.get(third, 9).await.is_some()).await;
}
