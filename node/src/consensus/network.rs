//! How Raft reaches the other members.

use std::{future::Future, io, sync::Arc, time::Duration};

use kvmesh_client::{
    WireError,
    channel::{Channel, Channels},
};
use kvmesh_directory::limits::MESSAGE_BYTES_MAX;
use kvmesh_proto::v1::{self as wire, consensus_client::ConsensusClient};
use openraft::{
    ErrorSubject, ErrorVerb, RPCTypes,
    error::{
        Fatal, Infallible, InstallSnapshotError, NetworkError, RPCError, RaftError, RemoteError,
        Timeout, Unreachable,
    },
    network::{Backoff, RPCOption, RaftNetwork, RaftNetworkFactory},
    raft::{
        AppendEntriesRequest, AppendEntriesResponse, InstallSnapshotRequest,
        InstallSnapshotResponse, VoteRequest, VoteResponse,
    },
};
use tokio::{
    sync::Notify,
    time::{self, Instant},
};
use tonic::{Response, Status};

use super::{
    appending::Appending,
    convert,
    raft::{Peer, StorageError, TypeConfig},
    snapshot_intake::Taken,
};

/// Before a member that could not be reached is tried again.
const RETRY_AFTER: Duration = Duration::from_millis(200);
/// How long a segment of a snapshot may take that is not the last one: that one loads it all,
/// and has the time that Raft gives.
const SEGMENT_MAX: Duration = Duration::from_secs(10);

pub(super) type Failure<E> = RPCError<u64, Peer, RaftError<u64, E>>;

/// A client of the `Consensus` service with the limits that all of them share.
pub(super) fn client(channel: Channel) -> ConsensusClient<Channel> {
    ConsensusClient::new(channel)
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX)
}

/// Told when a leader with a quorum says that the region does not list this node.
pub(super) type Removed = Arc<dyn Fn() + Send + Sync>;

/// Makes a [`Link`] for each member.
pub(super) struct Links {
    /// This node.
    pub(super) node: u64,
    /// Connections of Raft's own.
    pub(super) channels: Channels,
    /// See [`Removed`].
    pub(super) removed: Removed,
    /// Told when a member got all of a snapshot and other bytes than its checksum says: the
    /// file here may be damaged.
    pub(super) damaged: Arc<Notify>,
}

impl RaftNetworkFactory<TypeConfig> for Links {
    type Network = Link;

    async fn new_client(&mut self, target: u64, peer: &Peer) -> Link {
        Link {
            node: self.node,
            target,
            address: peer.address.clone(),
            channels: self.channels.clone(),
            removed: Arc::clone(&self.removed),
            damaged: Arc::clone(&self.damaged),
            appending: Appending::default(),
        }
    }
}

/// The way to one member.
pub(super) struct Link {
    node: u64,
    target: u64,
    address: String,
    channels: Channels,
    removed: Removed,
    damaged: Arc<Notify>,
    appending: Appending,
}

impl Link {
    fn out_of_time<E: std::error::Error>(&self, action: RPCTypes, timeout: Duration) -> Failure<E> {
        RPCError::Timeout(Timeout {
            action,
            id: self.node,
            target: self.target,
            timeout,
        })
    }

    async fn call<T, E, F>(
        &self,
        action: RPCTypes,
        option: &RPCOption,
        call: impl FnOnce(ConsensusClient<Channel>) -> F,
    ) -> Result<T, Failure<E>>
    where
        E: std::error::Error,
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let channel = self.channels.to(&self.address);
        let channel = channel.map_err(|error| Unreachable::new(&error))?;
        let ttl = option.soft_ttl();
        match time::timeout(ttl, call(client(channel))).await {
            Ok(Ok(response)) => Ok(response.into_inner()),
            Ok(Err(status)) => Err(Unreachable::new(&status).into()),
            Err(_) => Err(self.out_of_time(action, ttl)),
        }
    }
}

/// Ends the sending of this snapshot. The member counts as not reached, and gets the newest
/// one after a pause.
fn damaged() -> StorageError {
    let why = io::Error::other("the bytes that came are not those of its checksum");
    StorageError::from_io_error(ErrorSubject::Snapshot(None), ErrorVerb::Read, why)
}

fn unreadable<E: std::error::Error>(error: WireError) -> Failure<E> {
    NetworkError::new(&error).into()
}

impl RaftNetwork<TypeConfig> for Link {
    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<u64>, Failure<Infallible>> {
        let ttl = option.soft_ttl();
        let until = Instant::now() + ttl;
        let channel = self.channels.to(&self.address);
        let mut client = client(channel.map_err(|error| Unreachable::new(&error))?);
        let ask = |request: wire::AppendEntriesRequest| async move {
            let response = client.append_entries(request).await;
            let response = response.map_err(|status| Unreachable::new(&status))?;
            convert::appended_from_wire(response.into_inner()).map_err(unreadable)
        };
        match self.appending.append(request, until, ask).await {
            Some(answer) => answer,
            None => Err(self.out_of_time(RPCTypes::AppendEntries, ttl)),
        }
    }

    async fn install_snapshot(
        &mut self,
        request: InstallSnapshotRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<InstallSnapshotResponse<u64>, Failure<InstallSnapshotError>> {
        let got = convert::segment(&request);
        let option = match request.done {
            true => option,
            false => RPCOption::new(option.hard_ttl().min(SEGMENT_MAX)),
        };
        let request = convert::install_to_wire(request);
        let response = self
            .call(
                RPCTypes::InstallSnapshot,
                &option,
                |mut client| async move { client.install_snapshot(request).await },
            )
            .await?;
        let error = match convert::taken_from_wire(response, got).map_err(unreadable)? {
            Taken::Here(installed) => return Ok(installed),
            // openraft then starts it over.
            Taken::Unexpected(mismatch) => RaftError::APIError(mismatch),
            Taken::Damaged(_) => {
                self.damaged.notify_one();
                RaftError::Fatal(Fatal::StorageError(damaged()))
            }
        };
        Err(RemoteError::new(self.target, error).into())
    }

    async fn vote(
        &mut self,
        request: VoteRequest<u64>,
        option: RPCOption,
    ) -> Result<VoteResponse<u64>, Failure<Infallible>> {
        let request = convert::vote_request_to_wire(&request);
        let response = self
            .call(RPCTypes::Vote, &option, |mut client| async move {
                client.vote(request).await
            })
            .await?;
        if response.not_member {
            (self.removed)();
        }
        convert::vote_response_from_wire(response).map_err(unreadable)
    }

    fn backoff(&self) -> Backoff {
        Backoff::new(std::iter::repeat(RETRY_AFTER))
    }
}
