//! Calls that change a region, to one of its nodes.

use std::time::Duration;

use bytes::Bytes;
use kvmesh_client::{FromWire, Problem, ToWire, channel::Channel, convert};
use kvmesh_directory::{
    Command, FeedPosition, NamespaceId, Outcome, Part, limits::MESSAGE_BYTES_MAX,
};
use kvmesh_proto::v1::{
    self as wire, cache_client::CacheClient, consensus_client::ConsensusClient,
};
use tokio::time::Instant;
use tonic::{Code, Request, Status};

use crate::rpc::ask::unreachable;

/// Blocks to be deleted.
#[derive(Debug)]
pub(crate) struct Deletion {
    pub(crate) namespace: NamespaceId,
    /// Packed; all of them go.
    pub(crate) hashes: Bytes,
    pub(crate) width: u32,
    pub(crate) parts: Vec<Part>,
}

/// Why a node did not do it.
#[derive(Debug)]
pub(crate) enum Failure {
    /// No node will.
    Final(Problem),
    /// Another node may.
    Next(String),
    /// The node could not be reached.
    Unreachable(String),
}

/// Proposes a command.
pub(crate) async fn propose(
    channel: Channel,
    command: &Command,
    until: Instant,
) -> Result<(FeedPosition, Outcome), Failure> {
    let mut client = ConsensusClient::new(channel)
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    let request = wire::ProposeRequest {
        command: Some(command.to_wire()),
        forwarded: false,
    };
    let response = client.propose(timed(request, until)).await?.into_inner();
    let position = convert::required("position", response.position).map_err(unreadable)?;
    let outcome = convert::required("outcome", response.outcome).map_err(unreadable)?;
    Ok((position, outcome))
}

/// Deletes blocks.
pub(crate) async fn delete(
    channel: Channel,
    deletion: &Deletion,
    until: Instant,
) -> Result<(FeedPosition, u32), Failure> {
    let mut client = CacheClient::new(channel)
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    let request = wire::DeleteRequest {
        namespace_id: deletion.namespace.to_wire(),
        chain: Some(wire::Chain {
            hashes: deletion.hashes.clone(),
            width: deletion.width,
        }),
        start: 0,
        count: 0,
        parts: convert::parts_of(&deletion.parts),
    };
    let response = client.delete(timed(request, until)).await?.into_inner();
    let position = FeedPosition::from_wire(response.position.unwrap_or_default());
    Ok((position.map_err(unreadable)?, response.deleted))
}

/// How far a node has applied its region's log; none: it may be behind, without its serve lease.
pub(crate) async fn position(
    channel: Channel,
    namespace: NamespaceId,
    until: Instant,
) -> Result<Option<FeedPosition>, Failure> {
    let request = wire::LookupRequest {
        namespace_id: namespace.to_wire(),
        ..Default::default()
    };
    let mut client = CacheClient::new(channel);
    let response = client.lookup(timed(request, until)).await?.into_inner();
    let position = convert::required("position", response.position).map_err(unreadable)?;
    Ok((response.age_ms == 0).then_some(position))
}

pub(super) fn timed<T>(message: T, until: Instant) -> Request<T> {
    let left = until.saturating_duration_since(Instant::now());
    let mut request = Request::new(message);
    request.set_timeout(left.max(Duration::from_millis(1)));
    request
}

pub(super) fn unreadable(error: convert::WireError) -> Failure {
    Failure::Next(error.to_string())
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        let message = status.message().to_owned();
        if unreachable(&status) {
            return Self::Unreachable(message);
        }
        match status.code() {
            Code::InvalidArgument => Self::Final(Problem::invalid("request", message)),
            Code::Unimplemented => Self::Final(Problem::Unimplemented(message)),
            Code::FailedPrecondition => Self::Final(Problem::NotInitialised),
            Code::ResourceExhausted => Self::Final(Problem::Exhausted {
                limit: message,
                retry_after: crate::context::RETRY_AFTER,
            }),
            _ => Self::Next(message),
        }
    }
}
