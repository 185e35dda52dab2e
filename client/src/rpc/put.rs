//! The frames of a put.

use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use kvmesh_directory::{NamespaceId, Part, RingEpoch, namespace::AckLevel};
use kvmesh_proto::v1::{self as wire, put_decision::Verdict, put_request, put_response};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use super::{RpcError, get::millis};
use crate::{
    block::BlockMeta,
    client::{Acked, Path, Refused},
    convert::{FromWire, ToWire, WireError, ack_level, ack_level_or_policy, required},
    refusal::RefusalReason,
};

/// How the blocks of a call are to be put.
#[derive(Debug, Clone)]
pub(crate) struct PutOpen {
    pub(crate) namespace: NamespaceId,
    pub(crate) ack: Option<AckLevel>,
    /// By which a node was chosen; 0 for a gateway: whatever is current.
    pub(crate) epoch: RingEpoch,
    /// The gateway is to override its own deadline.
    pub(crate) overrides: bool,
    /// Time that is left.
    pub(crate) left: Duration,
}

/// What a client sends after it opened the put.
#[derive(Debug)]
pub(crate) enum PutFrame {
    /// Announces a block.
    Offer {
        id: u64,
        hash: Bytes,
        part: Part,
        meta: BlockMeta,
    },
    /// The next piece of a block.
    Piece { id: u64, data: Bytes },
}

/// A put that is about to start. Frames are taken from `frames` as the server takes them.
pub(crate) struct PutCall {
    pub(crate) open: PutOpen,
    pub(crate) frames: mpsc::Receiver<PutFrame>,
}

impl PutCall {
    pub(super) fn into_parts(
        self,
    ) -> (
        Duration,
        impl futures::Stream<Item = wire::PutRequest> + Send + 'static,
    ) {
        let left = self.open.left;
        let first = wire::PutRequest {
            frame: Some(put_request::Frame::Open(self.open.to_wire())),
        };
        let rest = ReceiverStream::new(self.frames).map(PutFrame::into_wire);
        (left, futures::stream::iter([first]).chain(rest))
    }
}

impl ToWire for PutOpen {
    type Wire = wire::PutOpen;
    fn to_wire(&self) -> wire::PutOpen {
        wire::PutOpen {
            namespace_id: self.namespace.to_wire(),
            ack: ack_level_or_policy(self.ack),
            ring_epoch: self.epoch.0,
            deadline_ms: if self.overrides { millis(self.left) } else { 0 },
            fill: false,
            waits: false,
            aside: false,
        }
    }
}

impl PutFrame {
    fn into_wire(self) -> wire::PutRequest {
        let frame = match self.into_offer() {
            Ok((_, offer)) => put_request::Frame::Offer(offer),
            Err((id, data)) => put_request::Frame::Piece(wire::PutPiece { id, data }),
        };
        wire::PutRequest { frame: Some(frame) }
    }

    /// An offer with its id, or else a piece with that of its block.
    pub(crate) fn into_offer(self) -> Result<(u64, wire::PutOffer), (u64, Bytes)> {
        match self {
            Self::Piece { id, data } => Err((id, data)),
            Self::Offer {
                id,
                hash,
                part,
                meta,
            } => {
                let (part, meta) = (Some(part.to_wire()), Some(meta.to_wire()));
                let offer = wire::PutOffer {
                    id,
                    hash,
                    part,
                    meta,
                };
                Ok((id, offer))
            }
        }
    }
}

/// What a server says about one block.
#[derive(Debug)]
pub(crate) enum PutAnswer {
    /// It wants the bytes.
    Send,
    /// It has the block; an ack follows.
    Have,
    /// It did not store the block.
    Refused(Refused),
    /// It stored the block.
    Acked(Acked),
}

/// The answers as they come.
pub(crate) struct PutAnswers {
    stream: Streaming<wire::PutResponse>,
}

impl PutAnswers {
    pub(super) fn new(stream: Streaming<wire::PutResponse>) -> Self {
        Self { stream }
    }

    /// The next answer, with the id of its block; none: the stream ended. Safe to cancel.
    pub(crate) async fn next(&mut self) -> Result<Option<(u64, PutAnswer)>, RpcError> {
        match self.stream.message().await? {
            Some(raw) => Ok(Some(PutAnswer::read(raw)?)),
            None => Ok(None),
        }
    }
}

impl PutAnswer {
    /// With the id of its block.
    pub(crate) fn read(raw: wire::PutResponse) -> Result<(u64, Self), WireError> {
        let answer = match raw.frame.ok_or(WireError::Missing("frame"))? {
            put_response::Frame::Decision(decision) => read_decision(decision)?,
            put_response::Frame::Ack(ack) => Self::Acked(Acked::from_wire(ack)?),
        };
        Ok((raw.id, answer))
    }
}

fn read_decision(raw: wire::PutDecision) -> Result<PutAnswer, WireError> {
    match Verdict::try_from(raw.verdict) {
        Ok(Verdict::Send) => Ok(PutAnswer::Send),
        Ok(Verdict::Have) => Ok(PutAnswer::Have),
        Ok(Verdict::Refused) => Ok(PutAnswer::Refused(Refused {
            reason: RefusalReason::from_wire(raw.reason)?,
            message: raw.message,
            retry_after: Some(Duration::from_millis(raw.retry_after_ms.into()))
                .filter(|after| !after.is_zero()),
        })),
        // Only those who say that they wait are told to.
        Ok(Verdict::Unspecified | Verdict::Wait) => Err(WireError::Missing("verdict")),
        Err(why) => Err(WireError::field("verdict", why)),
    }
}

impl FromWire for Acked {
    type Wire = wire::PutAck;
    fn from_wire(wire: wire::PutAck) -> Result<Self, WireError> {
        Ok(Self {
            level: ack_level(wire.level)?.ok_or(WireError::Missing("level"))?,
            position: required("position", wire.position)?,
            copies: wire.copies,
            existed: wire.existed,
            path: Path::Gateway,
        })
    }
}
