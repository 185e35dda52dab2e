//! A client's put, message by message.

use std::sync::Arc;

use bytes::Bytes;
use kvmesh_client::{BlockMeta, FromWire, Problem, block::BlockError, convert};
use kvmesh_directory::{BlockHash, BlockName, Namespace, NamespaceId, Part};
use kvmesh_proto::v1::{self as wire, put_request};
use tonic::{Code, Streaming};

use crate::write::{Offer, Reason, Refused};

/// One message after the first.
pub(crate) enum Message {
    /// A block under its id, or why it is refused at the door.
    Offer(u64, Result<Offer, Refused>),
    Piece(u64, Bytes),
}

/// The messages after the first.
pub(crate) struct Messages {
    stream: Streaming<wire::PutRequest>,
    namespace: Arc<Namespace>,
}

/// The first message.
pub(crate) async fn open(
    stream: &mut Streaming<wire::PutRequest>,
) -> Result<wire::PutOpen, Problem> {
    let first = stream.message().await.map_err(broken)?;
    match first.and_then(|message| message.frame) {
        Some(put_request::Frame::Open(open)) => Ok(open),
        _ => Err(Problem::invalid(
            "open",
            "a put begins with it: send it first",
        )),
    }
}

impl Messages {
    /// `open` was taken off the stream already.
    pub(crate) fn new(stream: Streaming<wire::PutRequest>, namespace: Arc<Namespace>) -> Self {
        Self { stream, namespace }
    }

    /// The next message; none: the client has said everything. May be dropped at any time.
    pub(crate) async fn next(&mut self) -> Result<Option<Message>, Problem> {
        let Some(message) = self.stream.message().await.map_err(broken)? else {
            return Ok(None);
        };
        match message.frame {
            Some(put_request::Frame::Offer(offer)) => {
                let id = offer.id;
                Ok(Some(Message::Offer(id, read_offer(offer, &self.namespace))))
            }
            Some(put_request::Frame::Piece(piece)) => {
                Ok(Some(Message::Piece(piece.id, piece.data)))
            }
            Some(put_request::Frame::Open(_)) => Err(Problem::invalid(
                "open",
                "it came twice: only the first message is it",
            )),
            None => Err(Problem::invalid("frame", "it is missing")),
        }
    }
}

fn broken(status: tonic::Status) -> Problem {
    match status.code() {
        Code::ResourceExhausted | Code::OutOfRange => {
            Problem::invalid("piece.data", status.message())
        }
        _ => Problem::unavailable(format!("the put's stream broke: {}", status.message())),
    }
}

fn read_offer(offer: wire::PutOffer, namespace: &Namespace) -> Result<Offer, Refused> {
    let description = &namespace.description;
    let invalid = |message: String| Refused::finally(Reason::Invalid, message);
    if offer.hash.len() != description.hash_width as usize {
        let (got, want) = (offer.hash.len(), description.hash_width);
        return Err(invalid(format!(
            "field offer.hash is wrong: it has {got} bytes, the namespace's hash_width is {want}"
        )));
    }
    let part = match offer.part {
        Some(part) => Part::from_wire(part).map_err(|error| invalid(error.to_string()))?,
        None => Part::default(),
    };
    if !description.has_part(part) {
        let (shards, groups) = (description.shard_count, description.group_count);
        return Err(invalid(format!(
            "field offer.part is wrong: ({}, {}) is not of {shards} shards and {groups} groups",
            part.shard, part.group
        )));
    }
    let meta: BlockMeta =
        convert::required("offer.meta", offer.meta).map_err(|error| invalid(error.to_string()))?;
    meta.check().map_err(|error| {
        let reason = match error {
            BlockError::TooLarge { .. } => Reason::TooLarge,
            _ => Reason::Invalid,
        };
        Refused::finally(reason, error.to_string())
    })?;
    if meta.put_hlc.0 != 0 {
        return Err(invalid(
            "field offer.meta.put_hlc is wrong: the region stamps it, leave it 0".to_owned(),
        ));
    }
    if meta.transcoded.is_some() {
        return Err(invalid(
            "field offer.meta.transcoded is wrong: what is put is what it is, leave it out"
                .to_owned(),
        ));
    }
    let hash = BlockHash::from_engine(&offer.hash).map_err(|error| invalid(error.to_string()))?;
    Ok(Offer {
        hash: offer.hash,
        name: name_of(namespace.id, hash, part),
        meta,
    })
}

fn name_of(namespace: NamespaceId, hash: BlockHash, part: Part) -> BlockName {
    BlockName {
        namespace,
        hash,
        part,
    }
}
