//! What a fake region says where it is compared.

use std::sync::atomic::Ordering;

use kvmesh_client::{ToWire, convert, convert::mesh::pack_digest};
use kvmesh_directory::{
    BlockName,
    view::{Digest, mesh_blocks, range_of},
};
use kvmesh_proto::v1::{self as wire, compare_server::Compare};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::{Answer, Service, Stream};

impl Service {
    fn blocks_for(
        &self,
        follower: &str,
    ) -> Result<(wire::FeedPosition, Vec<(BlockName, u32)>), Status> {
        if !self.0.compares.load(Ordering::Relaxed) {
            return Err(Status::unimplemented("of an earlier version"));
        }
        let state = self.0.state.lock().unwrap().clone();
        let blocks = mesh_blocks(&state, &follower.parse().unwrap()).collect();
        Ok((state.position().unwrap().to_wire(), blocks))
    }
}

#[tonic::async_trait]
impl Compare for Service {
    type BlocksStream = Stream<wire::BlocksFrame>;

    async fn digest(&self, request: Request<wire::DigestRequest>) -> Answer<wire::DigestResponse> {
        self.0.digests.fetch_add(1, Ordering::Relaxed);
        let (position, blocks) = self.blocks_for(&request.into_inner().follower_region)?;
        let mut digest = Digest::default();
        for (name, bytes) in blocks {
            digest.add(name.tag(), bytes);
        }
        Ok(Response::new(wire::DigestResponse {
            position: Some(position),
            ranges: pack_digest(&digest),
        }))
    }

    async fn blocks(&self, request: Request<wire::BlocksRequest>) -> Answer<Self::BlocksStream> {
        let asked = request.into_inner();
        let (position, mut blocks) = self.blocks_for(&asked.follower_region)?;
        self.0.ranges.lock().unwrap().push(asked.ranges.len());
        blocks.retain(|(name, _)| asked.ranges.contains(&(range_of(name.tag()) as u32)));
        let (frames, stream) = mpsc::channel(1);
        let frame = wire::BlocksFrame {
            position: Some(position),
            blocks: convert::each(&blocks),
            last: true,
        };
        frames.try_send(Ok(frame)).unwrap();
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}
