//! Blocks of a test: what they are named and hold, how they are put into a node and got back.

use std::collections::BTreeMap;

use bytes::Bytes;
use kvmesh_client::{ToWire, block::Block};
use kvmesh_proto::v1::{self as wire, put_request, put_response::Frame};
use tokio::time::{Instant, timeout};
use tonic::{Code, Status};

use crate::region_test::{PATIENCE, Region, WIDTH};

/// How a put of one block ended.
#[derive(Debug)]
pub(crate) enum Put {
    Acked(wire::PutAck),
    Refused(wire::PutDecision),
    Failed(Status),
}

impl Put {
    pub(crate) fn acked(self) -> wire::PutAck {
        match self {
            Self::Acked(ack) => ack,
            other => panic!("not acknowledged: {other:?}"),
        }
    }

    pub(crate) fn reason(&self) -> wire::RefusalReason {
        match self {
            Self::Refused(decision) => decision.reason(),
            other => panic!("not refused: {other:?}"),
        }
    }
}

pub(crate) fn hash(number: u64) -> Bytes {
    let mut raw = [0x5a; WIDTH as usize];
    raw[..8].copy_from_slice(&number.to_be_bytes());
    Bytes::copy_from_slice(&raw)
}

pub(crate) fn payload(number: u64, len: usize) -> Bytes {
    // No two pieces of a block are alike. Made of few bytes, many times over: a node shares the
    // thread with its test.
    let piece = |piece: usize| {
        let byte = |at: usize| (at * 31 + piece * 101) as u8 ^ number.wrapping_mul(7) as u8;
        let bytes = (0..256).map(byte).collect::<Vec<u8>>();
        bytes.repeat(len.min(1 << 20).div_ceil(256))
    };
    let pieces: Vec<Vec<u8>> = (0..len.div_ceil(1 << 20)).map(piece).collect();
    let mut bytes = pieces.concat();
    bytes.truncate(len);
    bytes.into()
}

/// The offer of a block and its pieces.
pub(crate) fn offered(number: u64, bytes: &Bytes) -> (wire::PutOffer, Vec<Bytes>) {
    let block = Block::of(bytes, 0);
    let offer = wire::PutOffer {
        id: number,
        hash: hash(number),
        part: None,
        meta: Some(block.meta.to_wire()),
    };
    (offer, block.pieces)
}

impl Region {
    pub(crate) fn chain(&self, numbers: impl IntoIterator<Item = u64>) -> Option<wire::Chain> {
        let hashes: Vec<u8> = numbers.into_iter().flat_map(|n| hash(n).to_vec()).collect();
        Some(wire::Chain {
            hashes: hashes.into(),
            width: WIDTH,
        })
    }

    pub(crate) fn opening(&self, ack: wire::AckLevel) -> wire::PutOpen {
        wire::PutOpen {
            namespace_id: self.namespace.clone(),
            ack: ack.into(),
            ring_epoch: self.epoch,
            deadline_ms: 20_000,
            fill: false,
            waits: false,
            aside: false,
        }
    }

    /// Puts one block as it should be.
    pub(crate) async fn put(
        &self,
        node: usize,
        number: u64,
        bytes: &Bytes,
        ack: wire::AckLevel,
    ) -> Put {
        let (offer, pieces) = offered(number, bytes);
        self.put_raw(node, self.opening(ack), offer, pieces).await
    }

    /// Puts one block as clients do: again, while the region says that it is to be tried again.
    pub(crate) async fn put_until_acked(
        &self,
        node: usize,
        number: u64,
        bytes: &Bytes,
        ack: wire::AckLevel,
    ) -> wire::PutAck {
        let began = Instant::now();
        loop {
            match self.put(node, number, bytes, ack).await {
                Put::Refused(later) if later.retry_after_ms > 0 && began.elapsed() < PATIENCE => {}
                // Without an answer it is safe to repeat.
                Put::Failed(status)
                    if matches!(status.code(), Code::Unavailable | Code::DeadlineExceeded)
                        && began.elapsed() < PATIENCE => {}
                other => return other.acked(),
            }
        }
    }

    /// Sends an offer and its pieces without waiting, and reads how it ended.
    pub(crate) async fn put_raw(
        &self,
        node: usize,
        open: wire::PutOpen,
        offer: wire::PutOffer,
        pieces: Vec<Bytes>,
    ) -> Put {
        let id = offer.id;
        let mut frames = vec![
            put_request::Frame::Open(open),
            put_request::Frame::Offer(offer),
        ];
        let piece = |data| put_request::Frame::Piece(wire::PutPiece { id, data });
        frames.extend(pieces.into_iter().map(piece));
        let frames = frames
            .into_iter()
            .map(|frame| wire::PutRequest { frame: Some(frame) });
        let call = async {
            let mut answers = self
                .cache(node)
                .put(tokio_stream::iter(frames))
                .await?
                .into_inner();
            while let Some(answer) = answers.message().await? {
                match answer.frame.unwrap() {
                    Frame::Ack(ack) => return Ok(Put::Acked(ack)),
                    Frame::Decision(decision)
                        if decision.verdict() == wire::put_decision::Verdict::Refused =>
                    {
                        return Ok(Put::Refused(decision));
                    }
                    Frame::Decision(_) => {}
                }
            }
            panic!("a put ended without an answer");
        };
        timeout(PATIENCE, call)
            .await
            .unwrap()
            .unwrap_or_else(Put::Failed)
    }

    /// A block's bytes as one node has them.
    pub(crate) async fn get(&self, node: usize, number: u64) -> Option<Vec<u8>> {
        self.get_many(node, &[number]).await.0.remove(&0)
    }

    /// The blocks of a chain that one node has, by index, and the summary.
    pub(crate) async fn get_many(
        &self,
        node: usize,
        numbers: &[u64],
    ) -> (BTreeMap<u32, Vec<u8>>, wire::GetSummary) {
        let request = wire::GetRequest {
            namespace_id: self.namespace.clone(),
            chain: self.chain(numbers.iter().copied()),
            select: (0..numbers.len() as u32).collect(),
            ..Default::default()
        };
        self.get_as(node, request).await
    }

    /// The blocks that came, by index, each verified, and the summary.
    pub(crate) async fn get_as(
        &self,
        node: usize,
        request: wire::GetRequest,
    ) -> (BTreeMap<u32, Vec<u8>>, wire::GetSummary) {
        let mut frames = self.cache(node).get(request).await.unwrap().into_inner();
        let (mut blocks, mut current) = (BTreeMap::new(), None);
        loop {
            let frame = timeout(PATIENCE, frames.message())
                .await
                .unwrap()
                .unwrap()
                .unwrap();
            if let Some(summary) = frame.summary {
                return (blocks, summary);
            }
            let end = frame.end();
            if let Some(header) = frame.header {
                current = Some((header, Vec::new()));
            }
            let (header, bytes) = current.as_mut().unwrap();
            bytes.extend_from_slice(&frame.piece);
            if end == wire::BlockEnd::Complete {
                let meta = header.meta.clone().unwrap();
                assert_eq!(
                    Block::of(&bytes.clone().into(), 0).meta.checksum.0[..],
                    meta.checksum[..]
                );
                blocks.insert(header.index, bytes.clone());
            }
        }
    }
}
