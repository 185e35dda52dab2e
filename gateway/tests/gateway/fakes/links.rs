//! Takes what a gateway saw of the links, as a region-sync does.

use kvmesh_proto::v1::{self as wire, region_sync_server::RegionSync};
use tonic::{Request, Response, Status};

use super::{feed::Answers, mesh::Told};

pub(crate) struct Orders(pub(crate) Told);

#[tonic::async_trait]
impl RegionSync for Orders {
    type SyncStream = Answers<wire::SyncFrame>;

    async fn peers(
        &self,
        _request: Request<wire::PeersRequest>,
    ) -> Result<Response<wire::PeersResponse>, Status> {
        Err(Status::unimplemented("for operators"))
    }

    async fn sync(
        &self,
        _request: Request<wire::SyncRequest>,
    ) -> Result<Response<Self::SyncStream>, Status> {
        Err(Status::unimplemented("for operators"))
    }

    async fn transferred(
        &self,
        request: Request<wire::TransferredRequest>,
    ) -> Result<Response<wire::TransferredResponse>, Status> {
        let transfers = request.into_inner().transfers;
        self.0.lock().unwrap().extend(transfers);
        Ok(Response::new(wire::TransferredResponse {}))
    }
}
