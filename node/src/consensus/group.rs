//! The Raft group as proposals meet it: commit here, or on whichever node leads.

use std::time::Duration;

use kvmesh_client::{FromWire, Problem, ToWire, channel::Channels};
use kvmesh_directory::{Command, NodeId, Outcome};
use kvmesh_proto::v1 as wire;
use openraft::error::{ClientWriteError, RaftError};
use tokio::time::{self, Instant};
use tonic::Code;

use super::{
    error::ProposeError,
    logged::Logged,
    network,
    raft::{Metrics, Peer, Raft},
};
use crate::directory::SharedDirectory;

/// Bytes of one encoded command; a message carries at least one entry.
pub(super) const COMMAND_BYTES_MAX: usize = 4 << 20;
/// How long to wait for a leader before asking again.
const RETRY_AFTER: Duration = Duration::from_millis(50);
/// How long one leader may take before the proposal asks again who leads.
const ATTEMPT_MAX: Duration = Duration::from_secs(2);

const _: () = assert!(COMMAND_BYTES_MAX * 2 <= kvmesh_directory::limits::MESSAGE_BYTES_MAX);

/// See the module. Cheap to clone; clones share it.
#[derive(Clone)]
pub(super) struct Group {
    pub(super) raft: Raft,
    pub(super) node: NodeId,
    /// What is committed, as far as this node has applied it.
    pub(super) directory: SharedDirectory,
    /// Connections apart from those that carry blocks.
    pub(super) channels: Channels,
}

/// A leader, and where it serves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Leader {
    pub(super) node: NodeId,
    pub(super) address: String,
}

/// The leader that Raft's metrics name.
pub(super) fn leader_of(metrics: &Metrics) -> Option<Leader> {
    let node = metrics.current_leader?;
    let peer: &Peer = metrics.membership_config.membership().get_node(&node)?;
    Some(Leader {
        node: NodeId(node),
        address: peer.address.clone(),
    })
}

/// What came of one attempt that is not an outcome.
enum Failed {
    /// Try again, perhaps elsewhere.
    Again,
    /// It is no use.
    For(ProposeError),
}

impl Group {
    pub(super) fn leader(&self) -> Option<Leader> {
        leader_of(&self.raft.metrics().borrow())
    }

    /// Whether the group has ever been formed, as far as this node knows.
    pub(super) fn is_formed(&self) -> bool {
        let metrics = self.raft.metrics();
        metrics.borrow().membership_config.nodes().next().is_some()
    }

    /// Commits a command wherever the leader is. It may be committed more than once.
    pub(super) async fn propose(
        &self,
        command: Command,
        deadline: Instant,
    ) -> Result<(u64, Outcome), ProposeError> {
        let logged = Logged::new(command);
        let bytes = logged.encoded().len();
        if bytes > COMMAND_BYTES_MAX {
            let max = COMMAND_BYTES_MAX;
            return Err(ProposeError::TooLarge { bytes, max });
        }
        loop {
            let attempt = deadline.min(Instant::now() + ATTEMPT_MAX);
            let done = match self.leader() {
                Some(leader) if leader.node == self.node => self.commit(&logged, attempt).await,
                Some(leader) => self.forward(logged.command(), &leader, attempt).await,
                None if !self.is_formed() => Err(Failed::For(ProposeError::NotInitialised)),
                None => Err(Failed::Again),
            };
            match done {
                Ok(done) => return Ok(done),
                Err(Failed::For(error)) => return Err(error),
                Err(Failed::Again) if Instant::now() + RETRY_AFTER < deadline => {
                    time::sleep(RETRY_AFTER).await;
                }
                Err(Failed::Again) if self.leader().is_none() => {
                    return Err(ProposeError::NoLeader);
                }
                Err(Failed::Again) => return Err(ProposeError::OutOfTime),
            }
        }
    }

    /// Commits a command on this node, which must lead.
    pub(super) async fn propose_here(
        &self,
        command: Command,
        deadline: Instant,
    ) -> Result<(u64, Outcome), ProposeError> {
        match self.commit(&Logged::new(command), deadline).await {
            Ok(done) => Ok(done),
            Err(Failed::For(error)) => Err(error),
            Err(Failed::Again) if Instant::now() < deadline => Err(ProposeError::NotLeader),
            Err(Failed::Again) => Err(ProposeError::OutOfTime),
        }
    }

    async fn commit(&self, logged: &Logged, attempt: Instant) -> Result<(u64, Outcome), Failed> {
        let needed = logged.command().feature_level();
        let committed = self.directory.with(|state| {
            let formed = state.region().is_some();
            formed.then(|| state.feature_level())
        });
        if let Some(committed) = committed.filter(|committed| needed > *committed) {
            let error = ProposeError::FeatureLevel { needed, committed };
            return Err(Failed::For(error));
        }
        let write = self.raft.client_write(logged.clone());
        match time::timeout_at(attempt, write).await {
            Ok(Ok(done)) => Ok((done.log_id.index, done.data)),
            Ok(Err(RaftError::APIError(ClientWriteError::ForwardToLeader(_)))) | Err(_) => {
                Err(Failed::Again)
            }
            Ok(Err(RaftError::APIError(ClientWriteError::ChangeMembershipError(error)))) => {
                Err(Failed::For(ProposeError::Invalid(error.to_string())))
            }
            Ok(Err(RaftError::Fatal(_))) => Err(Failed::For(ProposeError::Stopped)),
        }
    }

    async fn forward(
        &self,
        command: &Command,
        leader: &Leader,
        attempt: Instant,
    ) -> Result<(u64, Outcome), Failed> {
        let channel = self.channels.to(&leader.address);
        let channel = channel.map_err(|error| Failed::For(invalid(error)))?;
        let request = wire::ProposeRequest {
            command: Some(command.to_wire()),
            forwarded: true,
        };
        let mut client = network::client(channel);
        let Ok(answer) = time::timeout_at(attempt, client.propose(request)).await else {
            return Err(Failed::Again);
        };
        let answer = match answer {
            Ok(answer) => answer.into_inner(),
            Err(status) => {
                return Err(match status.code() {
                    Code::InvalidArgument => {
                        Failed::For(ProposeError::Invalid(status.message().to_owned()))
                    }
                    Code::ResourceExhausted => Failed::For(ProposeError::Overloaded),
                    // Another one would say the same; the leader's words say what to do.
                    Code::FailedPrecondition if not_now(&status) => {
                        Failed::For(ProposeError::Invalid(status.message().to_owned()))
                    }
                    _ => Failed::Again,
                });
            }
        };
        let outcome = answer.outcome.unwrap_or_default();
        let outcome = Outcome::from_wire(outcome).map_err(|error| Failed::For(invalid(error)))?;
        Ok((answer.position.map_or(0, |at| at.index), outcome))
    }
}

fn not_now(status: &tonic::Status) -> bool {
    matches!(Problem::from_status(status), Some(Problem::NotNow(_)))
}

fn invalid(error: impl std::error::Error) -> ProposeError {
    ProposeError::Invalid(error.to_string())
}
