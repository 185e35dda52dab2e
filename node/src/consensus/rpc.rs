//! The `Consensus` service: between the nodes of one region.

use std::{pin::Pin, sync::Arc};

use futures::Stream;
use kvmesh_client::{FromWire, Problem, ToWire, WireError, convert::all as convert_all};
use kvmesh_directory::{
    Command, DirectoryState, NodeId, RegionId, limits::MESSAGE_BYTES_MAX, residency,
};
use kvmesh_process::{access, server::Routes};
use kvmesh_proto::v1::{self as wire, consensus_server};
use openraft::{
    error::{Fatal, RaftError},
    raft::VoteResponse,
};
use tokio::{sync::mpsc, time::Instant};
use tokio_stream::{StreamExt, wrappers::ReceiverStream};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::{Request, Response, Status, Streaming};
use tracing::debug;

use super::{
    PROPOSAL_MAX,
    attend_words::{Notice, Report, STREAM_MAX},
    convert::{self, EntryError},
    desk::Desk,
    ended::{Ended, Ending},
    error::ProposeError,
    group::Group,
    init::FirstVoter,
    snapshot_intake::Intake,
};
use crate::directory::SharedDirectory;

/// See the module.
pub(super) struct ConsensusService {
    pub(super) group: Group,
    pub(super) voter: FirstVoter,
    pub(super) intake: Arc<Intake>,
    pub(super) ending: Arc<Ending>,
    pub(super) desk: Arc<Desk>,
    pub(super) directory: SharedDirectory,
    pub(super) tasks: TaskTracker,
    pub(super) stop: CancellationToken,
}

fn unreadable(error: WireError) -> Status {
    Problem::from(error).into()
}

fn refused(error: ProposeError) -> Status {
    Problem::from(error).into()
}

fn ended(error: &Fatal<u64>) -> Status {
    Problem::unavailable(format!("raft has ended on this node: {error}")).into()
}

fn raft_status(error: RaftError<u64>) -> Status {
    match error {
        RaftError::Fatal(fatal) => ended(&fatal),
        RaftError::APIError(never) => match never {},
    }
}

#[tonic::async_trait]
impl consensus_server::Consensus for ConsensusService {
    async fn append_entries(
        &self,
        request: Request<wire::AppendEntriesRequest>,
    ) -> Result<Response<wire::AppendEntriesResponse>, Status> {
        let request = convert::append_from_wire(request.into_inner());
        let request = request.map_err(|error| match error {
            EntryError::Later { index } => {
                self.ending.end(Ended::UnknownCommand { index });
                Problem::unavailable("an entry is of a later version").into()
            }
            EntryError::Malformed(error) => unreadable(error),
        })?;
        let appended = self.group.raft.append_entries(request).await;
        let appended = appended.map_err(raft_status)?;
        Ok(Response::new(convert::appended_to_wire(&appended)))
    }

    async fn vote(
        &self,
        request: Request<wire::VoteRequest>,
    ) -> Result<Response<wire::VoteResponse>, Status> {
        let request = convert::vote_request_from_wire(request.into_inner()).map_err(unreadable)?;
        let raft = &self.group.raft;
        let candidate = request.vote.leader_id().node_id;
        let voted = if self.voter.admission.is_admitted() {
            raft.vote(request).await.map_err(raft_status)?
        } else {
            // A store that may have forgotten its vote gives none, and notes none.
            let vote = raft.with_raft_state(|state| *state.vote_ref()).await;
            VoteResponse::new(vote.map_err(|fatal| ended(&fatal))?, None, false)
        };
        let mut voted = convert::vote_response_to_wire(&voted);
        voted.not_member = self.desk.disowns(NodeId(candidate));
        Ok(Response::new(voted))
    }

    async fn install_snapshot(
        &self,
        request: Request<wire::InstallSnapshotRequest>,
    ) -> Result<Response<wire::InstallSnapshotResponse>, Status> {
        let request = convert::install_from_wire(request.into_inner()).map_err(unreadable)?;
        let taken = self.intake.take(&self.group.raft, request).await;
        let taken = taken.map_err(|fatal| ended(&fatal))?;
        Ok(Response::new(convert::taken_to_wire(&taken)))
    }

    async fn propose(
        &self,
        request: Request<wire::ProposeRequest>,
    ) -> Result<Response<wire::ProposeResponse>, Status> {
        let link = access::link_of(&request).cloned();
        let request = request.into_inner();
        let command = request.command.ok_or(WireError::Missing("command"));
        let command = command.and_then(Command::from_wire).map_err(unreadable)?;
        let what = match command {
            Command::OpenNamespace(_) => "a namespace",
            _ => "any command",
        };
        access::check(link.as_ref(), "Consensus", "Propose", what)?;
        // Where a command comes in, and not in `apply`: that all replicas take alike.
        let admitted = |state: &DirectoryState| residency::admitted(command, state);
        let command = self.directory.with(admitted);
        let command = command.map_err(|denied| Problem::Denied(denied.to_string()))?;
        let deadline = Instant::now() + PROPOSAL_MAX;
        let proposed = if request.forwarded {
            self.group.propose_here(command, deadline).await
        } else {
            self.group.propose(command, deadline).await
        };
        let (index, outcome) = proposed.map_err(refused)?;
        super::applied_here(&self.directory, index, deadline)
            .await
            .map_err(refused)?;
        let position = super::position_at(&self.directory, index);
        Ok(Response::new(wire::ProposeResponse {
            position: position.map(|position| position.to_wire()),
            outcome: Some(outcome.to_wire()),
        }))
    }

    async fn prepare(
        &self,
        request: Request<wire::PrepareRequest>,
    ) -> Result<Response<wire::PrepareResponse>, Status> {
        let request = request.into_inner();
        let region = request.region.parse::<RegionId>();
        let region = region.map_err(|error| Problem::invalid("region", error))?;
        let members = convert_all(request.members).map_err(unreadable)?;
        let prepared = self.voter.prepare(&region, &members).await;
        let store = prepared.map_err(refused)?;
        Ok(Response::new(wire::PrepareResponse { store }))
    }

    type AttendStream = Pin<Box<dyn Stream<Item = Result<wire::LeaderNotice, Status>> + Send>>;

    async fn attend(
        &self,
        request: Request<Streaming<wire::NodeReport>>,
    ) -> Result<Response<Self::AttendStream>, Status> {
        if self.desk.leadership.since().is_none() {
            return Err(refused(ProposeError::NotLeader));
        }
        let reports = request.into_inner().map_while(|report| {
            let report = report.map(Report::from_wire).ok()?;
            report
                .inspect_err(|error| debug!(%error, "a report cannot be read"))
                .ok()
        });
        let (notices, received) = mpsc::channel::<Notice>(STREAM_MAX);
        let desk = Arc::clone(&self.desk);
        let reports = Box::pin(reports);
        self.tasks
            .spawn(desk.serve(reports, notices, self.stop.clone()));
        let notices = ReceiverStream::new(received).map(|notice| Ok(notice.to_wire()));
        Ok(Response::new(Box::pin(notices)))
    }
}

/// The service with the limits that all of them share.
pub(super) fn routes(service: ConsensusService) -> Routes {
    let server = consensus_server::ConsensusServer::new(service)
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    Routes::new(server)
}
