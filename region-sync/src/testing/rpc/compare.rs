//! What a fake region says where it is compared.

use std::sync::atomic::Ordering;

use kvmesh_client::{
    ToWire,
    convert::{
        self,
        mesh::{MeshPart, pack_digest},
    },
};
use kvmesh_directory::{
    BlockName, RegionId,
    view::{Digest, ObjectsDigest, mesh_blocks, mesh_namespaces, mesh_tombstones, range_of},
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

    fn objects_for(&self, follower: &str) -> MeshPart {
        let (state, follower): (_, RegionId) = (
            self.0.state.lock().unwrap().clone(),
            follower.parse().unwrap(),
        );
        MeshPart {
            position: state.position().unwrap(),
            blocks: Vec::new(),
            namespaces: mesh_namespaces(&state, &follower).cloned().collect(),
            tombstones: mesh_tombstones(&state, &follower).collect(),
            last: true,
        }
    }
}

#[tonic::async_trait]
impl Compare for Service {
    type BlocksStream = Stream<wire::BlocksFrame>;
    type ObjectsStream = Stream<wire::MeshSnapshot>;

    async fn digest(&self, request: Request<wire::DigestRequest>) -> Answer<wire::DigestResponse> {
        self.0.digests.fetch_add(1, Ordering::Relaxed);
        let follower = request.into_inner().follower_region;
        let (position, blocks) = self.blocks_for(&follower)?;
        let (objects, mut sum) = (self.objects_for(&follower), ObjectsDigest::default());
        for namespace in &objects.namespaces {
            sum.add_namespace(namespace);
        }
        for (name, tombstone) in objects.tombstones {
            sum.add_tombstone(&name, tombstone);
        }
        let mut digest = Digest::default();
        for (name, bytes) in blocks {
            digest.add(name.tag(), bytes);
        }
        Ok(Response::new(wire::DigestResponse {
            position: Some(position),
            ranges: pack_digest(&digest),
            objects: Some(sum.value()),
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

    async fn objects(&self, request: Request<wire::ObjectsRequest>) -> Answer<Self::ObjectsStream> {
        self.0.objects.fetch_add(1, Ordering::Relaxed);
        let part = self.objects_for(&request.into_inner().follower_region);
        let (frames, stream) = mpsc::channel(1);
        frames.try_send(Ok(part.to_wire())).unwrap();
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}
