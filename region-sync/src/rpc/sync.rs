//! Service `RegionSync`: what operators order, and what gateways saw of the links.

use std::sync::Arc;

use kvmesh_client::{FromWire, Problem, ToWire, convert};
use kvmesh_directory::{
    FeedPosition, RegionId,
    cost::Transfer,
    limits::{LINK_TRANSFERS_MAX, MESSAGE_BYTES_MAX},
};
use kvmesh_proto::v1::{
    self as wire,
    region_sync_server::{RegionSync, RegionSyncServer},
    sync_frame::Kind,
    sync_request,
};
use tokio_stream::{Stream, StreamExt, wrappers::ReceiverStream};
use tonic::{Request, Response, Status};

use crate::{
    compare::order::{Desk, How, Said},
    mesh::Mesh,
};

type Frames = std::pin::Pin<Box<dyn Stream<Item = Result<wire::SyncFrame, Status>> + Send>>;

struct Service {
    own: RegionId,
    mesh: Arc<Mesh>,
    desk: Desk,
}

/// The service.
pub(crate) fn service(
    own: RegionId,
    mesh: Arc<Mesh>,
    desk: Desk,
) -> RegionSyncServer<impl RegionSync> {
    RegionSyncServer::new(Service { own, mesh, desk })
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX)
}

#[tonic::async_trait]
impl RegionSync for Service {
    type SyncStream = Frames;

    async fn peers(
        &self,
        _request: Request<wire::PeersRequest>,
    ) -> Result<Response<wire::PeersResponse>, Status> {
        let peer = |(region, link): (RegionId, crate::mesh::Link)| {
            let (position, blocks) = self.mesh.standing(&region);
            wire::SyncedPeer {
                region: region.to_wire(),
                position: position.map(|position| position.to_wire()),
                blocks,
                state: link.state.to_wire(),
            }
        };
        Ok(Response::new(wire::PeersResponse {
            region: self.own.to_wire(),
            peers: self.mesh.links().into_iter().map(peer).collect(),
        }))
    }

    async fn sync(
        &self,
        request: Request<wire::SyncRequest>,
    ) -> Result<Response<Self::SyncStream>, Status> {
        let asked = request.into_inner();
        let peer = convert::region("peer", &asked.peer).map_err(Problem::from)?;
        let how = match asked.how {
            Some(sync_request::How::Compare(_)) => How::Compare,
            Some(sync_request::How::FromZero(_)) => How::FromZero,
            Some(sync_request::How::Since(position)) => {
                How::Since(FeedPosition::from_wire(position).map_err(Problem::from)?)
            }
            None => {
                let why = "it is missing: compare, from_zero or since";
                return Err(Problem::invalid("how", why).into());
            }
        };
        let said = self.desk.order(&peer, how)?;
        let frames = ReceiverStream::new(said).map(|said| Ok(frame(said?)));
        Ok(Response::new(Box::pin(frames)))
    }

    async fn transferred(
        &self,
        request: Request<wire::TransferredRequest>,
    ) -> Result<Response<wire::TransferredResponse>, Status> {
        let transfers = request.into_inner().transfers;
        if transfers.len() > LINK_TRANSFERS_MAX {
            let why = format!("at most {LINK_TRANSFERS_MAX} at a time");
            return Err(Problem::invalid("transfers", why).into());
        }
        let transfers: Result<Vec<_>, _> = transfers.iter().map(transfer).collect();
        self.mesh.transferred(&transfers?);
        Ok(Response::new(wire::TransferredResponse {}))
    }
}

fn transfer(raw: &wire::LinkTransfer) -> Result<(RegionId, Transfer), Problem> {
    let region = convert::region("transfers.region", &raw.region).map_err(Problem::from)?;
    let seconds = |field, ms: f64| match ms >= 0.0 && ms.is_finite() {
        true => Ok(ms / 1e3),
        false => Err(Problem::invalid(
            field,
            "a time that is no number, or below 0",
        )),
    };
    let transfer = Transfer {
        first_byte: seconds("transfers.first_byte_ms", raw.first_byte_ms)?,
        rtt: seconds("transfers.rtt_ms", raw.rtt_ms)?,
        bytes: raw.bytes,
        took: seconds("transfers.took_ms", raw.took_ms)?,
    };
    Ok((region, transfer))
}

fn frame(said: Said) -> wire::SyncFrame {
    let kind = match said {
        Said::Progress { read, before } => Kind::Progress(wire::SyncProgress {
            blocks_read: read,
            blocks_before: before,
        }),
        Said::End {
            position,
            blocks,
            mended,
        } => Kind::End(wire::SyncEnd {
            position: position.map(|position| position.to_wire()),
            blocks,
            ranges: mended.ranges() as u32,
            missing: mended.missing.len() as u64,
            gone: mended.gone.len() as u64,
            resized: mended.resized.len() as u64,
            objects: mended.objects as u64,
        }),
    };
    wire::SyncFrame { kind: Some(kind) }
}
