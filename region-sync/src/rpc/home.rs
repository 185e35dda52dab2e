//! Commits commands on a node of the own region.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use kvmesh_client::{
    FromWire, ToWire, WireError,
    channel::{AddressError, Channel, Channels},
    convert::required,
};
use kvmesh_directory::{
    Command, FeedPosition, Outcome, command::Refusal, limits::MESSAGE_BYTES_MAX,
};
use kvmesh_process::settings::Live;
use kvmesh_proto::v1::{
    self as wire, consensus_client::ConsensusClient, replication_client::ReplicationClient,
};
use tokio::time::timeout;
use tonic::{Request, Status};

use crate::Settings;

/// Why effects are not committed yet.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HomeError {
    /// The own region's feed was not heard yet, or the region is not initialised.
    #[error("the own region is not known yet: check its nodes, and run `meshctl region init`")]
    Unknown,
    /// A setting is wrong.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// The node did not answer in time.
    #[error("node {0} did not answer in time")]
    Late(String),
    /// The node refused or could not be reached.
    #[error("node {address} answered {}: {}", status.code(), status.message())]
    Status {
        /// Who.
        address: String,
        /// What it said.
        status: Box<Status>,
    },
    /// The region refused the command.
    #[error("the own region refused it: {0}")]
    Refused(#[source] Refusal),
    /// The answer cannot be read.
    #[error("the answer cannot be read: {0}")]
    Wire(#[from] WireError),
}

/// Nodes of the own region; each is as good as the others. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Nodes {
    channels: Channels,
    addresses: Arc<[String]>,
    turn: Arc<AtomicUsize>,
    settings: Live<Settings>,
}

impl Nodes {
    pub(crate) fn new(channels: Channels, addresses: &[String], settings: Live<Settings>) -> Self {
        Self {
            channels,
            addresses: addresses.into(),
            turn: Arc::default(),
            settings,
        }
    }

    /// Commits one command; the next attempt after a failure asks the next node.
    pub(crate) async fn commit(&self, command: Command) -> Result<FeedPosition, HomeError> {
        let turn = self.turn.load(Ordering::Relaxed);
        let address = &self.addresses[turn % self.addresses.len()];
        let channel = self.channels.to(address)?;
        let limit = self.settings.now().commit_timeout();
        let committed = match timeout(limit, self.call(channel, command)).await {
            Err(_) => Err(HomeError::Late(address.clone())),
            Ok(Err(CallError::Status(status))) => Err(HomeError::Status {
                address: address.clone(),
                status,
            }),
            Ok(Err(CallError::Home(error))) => Err(error),
            Ok(Ok(position)) => Ok(position),
        };
        if committed.is_err() {
            self.turn.store(turn.wrapping_add(1), Ordering::Relaxed);
        }
        committed
    }

    async fn call(&self, channel: Channel, command: Command) -> Result<FeedPosition, CallError> {
        let position = if matches!(command, Command::RemoteEffects { .. }) {
            self.apply_remote(channel, &command).await?
        } else {
            self.propose(channel, &command).await?
        };
        let position = position.ok_or(WireError::Missing("position"))?;
        Ok(FeedPosition::from_wire(position)?)
    }

    async fn apply_remote(
        &self,
        channel: Channel,
        command: &Command,
    ) -> Result<Option<wire::FeedPosition>, CallError> {
        let Some(wire::command::Kind::RemoteEffects(effects)) = command.to_wire().kind else {
            return Err(WireError::Missing("remote_effects").into());
        };
        let effects = Some(effects);
        let request = self.request(wire::ApplyRemoteRequest { effects });
        let mut client = ReplicationClient::new(channel)
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX);
        Ok(client.apply_remote(request).await?.into_inner().position)
    }

    async fn propose(
        &self,
        channel: Channel,
        command: &Command,
    ) -> Result<Option<wire::FeedPosition>, CallError> {
        let request = self.request(wire::ProposeRequest {
            command: Some(command.to_wire()),
            forwarded: false,
        });
        let mut client = ConsensusClient::new(channel)
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX);
        let answer = client.propose(request).await?.into_inner();
        let outcome: Outcome = required("outcome", answer.outcome)?;
        match outcome.refused {
            Some(refusal) => Err(HomeError::Refused(refusal).into()),
            None => Ok(answer.position),
        }
    }

    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.set_timeout(self.settings.now().commit_timeout());
        request
    }
}

enum CallError {
    Status(Box<Status>),
    Home(HomeError),
}

impl From<Status> for CallError {
    fn from(status: Status) -> Self {
        Self::Status(Box::new(status))
    }
}

impl From<HomeError> for CallError {
    fn from(error: HomeError) -> Self {
        Self::Home(error)
    }
}

impl From<WireError> for CallError {
    fn from(error: WireError) -> Self {
        Self::Home(error.into())
    }
}
