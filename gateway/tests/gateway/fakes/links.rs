//! Takes what a gateway saw of the links, as a region-sync does; and says how much another region
//! sends at once.

use std::sync::{Arc, atomic::Ordering};

use futures::stream;
use kvmesh_proto::v1::{self as wire, link_server::Link, region_sync_server::RegionSync};
use tonic::{Request, Response, Status};

use super::{Holder, feed::Answers, mesh::Told};

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

/// Has no bytes to measure by.
pub(crate) struct Says(pub(crate) Arc<Holder>);

#[tonic::async_trait]
impl Link for Says {
    type MeasureStream = Answers<wire::MeasureResponse>;

    async fn measure(
        &self,
        request: Request<wire::MeasureRequest>,
    ) -> Result<Response<Self::MeasureStream>, Status> {
        let sent_at_once = self.0.sent_at_once.load(Ordering::Relaxed);
        if request.into_inner().bytes > 0 || sent_at_once == 0 {
            return Err(Status::unimplemented("of an earlier version"));
        }
        let said = wire::MeasureResponse {
            sent_at_once,
            ..Default::default()
        };
        Ok(Response::new(Box::pin(stream::iter([Ok(said)]))))
    }
}
