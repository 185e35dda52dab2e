//! Puts that leave the gateway: one block to one owner.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use kvmesh_client::{
    FromWire, ToWire, bulk,
    convert::{self, WireError},
};
use kvmesh_directory::{RingEpoch, namespace::AckLevel};
use kvmesh_proto::v1::{self as wire, put_decision::Verdict, put_request, put_response};
use tokio::{sync::mpsc, time::Instant};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

use crate::{
    context::Gateway,
    request::Order,
    rpc::ask::unreachable,
    write::{Ack, Outgoing, Reason, Refused},
};

/// The block's id in a call that carries only one.
const ID: u64 = 1;
/// Messages on their way to an owner.
const BUFFERED: usize = 4;

/// A block on its way to one owner.
pub(crate) struct Hand<'a> {
    pub(crate) gateway: &'a Arc<Gateway>,
    pub(crate) block: &'a Outgoing,
    pub(crate) order: Order,
    /// By which the owner was chosen.
    pub(crate) epoch: RingEpoch,
    pub(crate) address: &'a str,
}

/// Why an owner gave no answer about the block.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The owner could not be reached, or went away.
    Unreachable(String),
    /// It refused the whole call.
    Answered(Refused),
}

/// What an owner says.
#[derive(Debug)]
pub(crate) enum Answer {
    /// Another put of the block is under way there.
    Wait,
    Send,
    Have,
    Refused(Refused),
    Acked(Ack),
}

/// Where pieces go.
pub(crate) struct Pieces {
    requests: mpsc::Sender<wire::PutRequest>,
}

/// Room for one piece.
pub(crate) struct Room<'a> {
    permit: mpsc::Permit<'a, wire::PutRequest>,
}

/// What comes back.
pub(crate) struct Answers {
    responses: Streaming<wire::PutResponse>,
}

impl Hand<'_> {
    /// Offers the block.
    pub(crate) async fn open(&self) -> Result<(Pieces, Answers), Failure> {
        let (requests, sent) = mpsc::channel(BUFFERED);
        let left = self
            .order
            .deadline
            .at
            .saturating_duration_since(Instant::now());
        let left = left.max(Duration::from_millis(1));
        let open = wire::PutOpen {
            namespace_id: self.block.namespace.id.to_wire(),
            ack: self.order.level.to_wire(),
            ring_epoch: self.epoch.0,
            deadline_ms: u32::try_from(left.as_millis()).unwrap_or(u32::MAX),
            fill: self.order.fill,
            aside: self.order.aside,
            waits: true,
        };
        let offer = wire::PutOffer {
            id: ID,
            hash: self.block.offer.hash.clone(),
            part: Some(self.block.offer.name.part.to_wire()),
            meta: Some(self.block.offer.meta.to_wire()),
        };
        for frame in [
            put_request::Frame::Open(open),
            put_request::Frame::Offer(offer),
        ] {
            let message = wire::PutRequest { frame: Some(frame) };
            requests.try_send(message).map_err(|_| ended_early())?;
        }
        self.gateway.meters.outbound("Put");
        let channel = self.gateway.peers.channel(self.address);
        let channel = channel.map_err(|problem| Failure::Unreachable(problem.to_string()))?;
        let sent = ReceiverStream::new(sent);
        let responses = bulk::call(channel, bulk::PUT, sent, Some(left)).await?;
        Ok((Pieces { requests }, Answers { responses }))
    }
}

impl Pieces {
    /// Waits for room; none: the owner does not listen any more.
    pub(crate) async fn room(&self) -> Option<Room<'_>> {
        let permit = self.requests.reserve().await.ok()?;
        Some(Room { permit })
    }
}

impl Room<'_> {
    /// Sends the next piece.
    pub(crate) fn send(self, data: Bytes) {
        let piece = wire::PutPiece { id: ID, data };
        let frame = Some(put_request::Frame::Piece(piece));
        self.permit.send(wire::PutRequest { frame });
    }
}

impl Answers {
    /// The next answer. May be dropped at any time.
    pub(crate) async fn next(&mut self) -> Result<Answer, Failure> {
        let Some(response) = self.responses.message().await? else {
            return Err(ended_early());
        };
        let answer = match response.frame {
            Some(put_response::Frame::Decision(decision)) => read_decision(decision),
            Some(put_response::Frame::Ack(ack)) => read_ack(ack).map(Answer::Acked),
            None => Err(WireError::Missing("frame")),
        };
        answer.map_err(|error| Failure::Unreachable(error.to_string()))
    }
}

fn ended_early() -> Failure {
    Failure::Unreachable("an owner of the block ended the call early".to_owned())
}

fn read_decision(decision: wire::PutDecision) -> Result<Answer, WireError> {
    match Verdict::try_from(decision.verdict) {
        Ok(Verdict::Wait) => Ok(Answer::Wait),
        Ok(Verdict::Send) => Ok(Answer::Send),
        Ok(Verdict::Have) => Ok(Answer::Have),
        Ok(Verdict::Refused) => Ok(Answer::Refused(Refused {
            // A node of a later version may know more reasons: another owner is tried then.
            reason: Reason::from_wire(decision.reason).unwrap_or(Reason::Unavailable),
            message: decision.message,
            retry_after: Duration::from_millis(decision.retry_after_ms.into()),
        })),
        Ok(Verdict::Unspecified) | Err(_) => Err(WireError::Missing("verdict")),
    }
}

fn read_ack(ack: wire::PutAck) -> Result<Ack, WireError> {
    Ok(Ack {
        level: AckLevel::from_wire(ack.level)?,
        position: convert::optional(ack.position)?,
        copies: ack.copies,
        existed: ack.existed,
        put_hlc: ack.put_hlc,
    })
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        let message = status.message().to_owned();
        if unreachable(&status) {
            return Self::Unreachable(format!("an owner of the block failed: {message}"));
        }
        Self::Answered(match status.code() {
            Code::FailedPrecondition => Refused::for_now(Reason::StaleEpoch, message),
            Code::InvalidArgument => Refused::finally(Reason::Invalid, message),
            Code::DataLoss => Refused::finally(Reason::Checksum, message),
            Code::Unimplemented => Refused::finally(Reason::Invalid, message),
            Code::Aborted => Refused::for_now(Reason::Overtaken, message),
            Code::ResourceExhausted => Refused::for_now(Reason::NoSpace, message),
            // Also a namespace that the owner has not heard of yet.
            _ => Refused::for_now(Reason::Unavailable, message),
        })
    }
}
