//! Leases that leave the gateway: to one node.

use bytes::Bytes;
use kvmesh_client::{Problem, ToWire, channel::Channel, convert::each, lease::LeaseId};
use kvmesh_directory::{BlockKey, NamespaceId, limits::MESSAGE_BYTES_MAX};
use kvmesh_proto::v1::{self as wire, cache_client::CacheClient};
use tokio::time::Instant;
use tonic::{Code, Status};

use super::{ask::unreachable, control::timed};

/// What a node is asked to do about a lease.
#[derive(Debug, Clone)]
pub(crate) enum Wish {
    /// Lease these for so many milliseconds (0: as long as the node likes).
    Take(Vec<BlockKey>, u32),
    Renew(u32),
    Release,
}

/// What a node did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Done {
    /// Copies that the lease covers there; of a release: that it covered.
    pub(crate) blocks: u32,
    pub(crate) hold_ms: u32,
    /// Places among the wished keys that are not leased.
    pub(crate) missing: Vec<u32>,
}

/// Why a node did nothing.
#[derive(Debug)]
pub(crate) enum Failure {
    /// It does not have the lease.
    Unknown,
    /// A limit of its leases is used up.
    Exhausted(Problem),
    /// It could not be reached.
    Unreachable(String),
    Other(String),
}

/// Asks a node.
pub(crate) async fn ask(
    channel: Channel,
    namespace: NamespaceId,
    lease: LeaseId,
    wish: Wish,
    until: Instant,
) -> Result<Done, Failure> {
    let mut request = wire::LeaseRequest {
        namespace_id: namespace.to_wire(),
        ..Default::default()
    };
    let id: Bytes = lease.to_wire();
    match wish {
        Wish::Take(keys, hold_ms) => {
            (request.id, request.keys, request.hold_ms) = (id, each(&keys), hold_ms);
        }
        Wish::Renew(hold_ms) => (request.renew, request.hold_ms) = (id, hold_ms),
        Wish::Release => request.release = id,
    }
    let mut client = CacheClient::new(channel)
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    let done = client.lease(timed(request, until)).await?.into_inner();
    Ok(Done {
        blocks: done.blocks,
        hold_ms: done.hold_ms,
        missing: done.missing,
    })
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        let message = status.message().to_owned();
        if unreachable(&status) {
            return Self::Unreachable(message);
        }
        match (status.code(), Problem::from_status(&status)) {
            (_, Some(Problem::UnknownLease)) => Self::Unknown,
            (Code::ResourceExhausted, Some(problem)) => Self::Exhausted(problem),
            _ => Self::Other(message),
        }
    }
}
