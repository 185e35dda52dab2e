//! What a made-up node does about commands.

use kvmesh_client::{FromWire, ToWire};
use kvmesh_directory::Command;
use kvmesh_proto::v1::{self as wire, consensus_server::Consensus};
use tonic::{Request, Response, Status, Streaming};

use super::{cache::Served, feed::Answers};

#[tonic::async_trait]
impl Consensus for Served {
    type AttendStream = Answers<wire::LeaderNotice>;

    async fn propose(
        &self,
        request: Request<wire::ProposeRequest>,
    ) -> Result<Response<wire::ProposeResponse>, Status> {
        let command = request.into_inner().command.unwrap();
        let command = Command::from_wire(command).unwrap();
        let (position, outcome) = self.0.region.apply(command);
        Ok(Response::new(wire::ProposeResponse {
            position: Some(position.to_wire()),
            outcome: Some(outcome.to_wire()),
        }))
    }

    async fn append_entries(
        &self,
        _request: Request<wire::AppendEntriesRequest>,
    ) -> Result<Response<wire::AppendEntriesResponse>, Status> {
        Err(Status::unimplemented("fake"))
    }

    async fn vote(
        &self,
        _request: Request<wire::VoteRequest>,
    ) -> Result<Response<wire::VoteResponse>, Status> {
        Err(Status::unimplemented("fake"))
    }

    async fn install_snapshot(
        &self,
        _request: Request<wire::InstallSnapshotRequest>,
    ) -> Result<Response<wire::InstallSnapshotResponse>, Status> {
        Err(Status::unimplemented("fake"))
    }

    async fn prepare(
        &self,
        _request: Request<wire::PrepareRequest>,
    ) -> Result<Response<wire::PrepareResponse>, Status> {
        Err(Status::unimplemented("fake"))
    }

    async fn attend(
        &self,
        _request: Request<Streaming<wire::NodeReport>>,
    ) -> Result<Response<Self::AttendStream>, Status> {
        Err(Status::unimplemented("fake"))
    }
}
