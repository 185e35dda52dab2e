//! The feeds: a region's, and the mesh view.

use std::{pin::Pin, sync::Arc, time::Duration};

use futures::Stream;
use kvmesh_client::{ToWire, convert::snapshot};
use kvmesh_proto::v1::{self as wire, feed_frame::Kind, feed_server::Feed};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::region::Region;

pub(crate) type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

pub(crate) struct RegionFeed(pub(crate) Arc<Region>);

#[tonic::async_trait]
impl Feed for RegionFeed {
    type FollowStream = Answers<wire::FeedFrame>;
    type FollowMeshStream = Answers<wire::MeshFrame>;

    async fn follow(
        &self,
        _request: Request<wire::FollowRequest>,
    ) -> Result<Response<Self::FollowStream>, Status> {
        let region = Arc::clone(&self.0);
        let (frames, stream) = mpsc::channel(64);
        #[allow(clippy::disallowed_methods, reason = "the test's runtime ends it")]
        tokio::spawn(async move {
            let mut applied = region.applied.subscribe();
            let (state, mut next) = {
                let inner = region.inner.lock().unwrap();
                (inner.0.clone(), inner.1.len())
            };
            for chunk in snapshot::chunks(state) {
                let kind = Some(Kind::SnapshotChunk(chunk));
                if frames.send(Ok(wire::FeedFrame { kind })).await.is_err() {
                    return;
                }
            }
            loop {
                let mut held = region.held.subscribe();
                if held.wait_for(|held| !held).await.is_err() {
                    return;
                }
                let (steps, position) = {
                    let inner = region.inner.lock().unwrap();
                    let steps = inner.1[next..].to_vec();
                    next = inner.1.len();
                    (steps, inner.0.position())
                };
                for (index, command) in steps {
                    let position = kvmesh_directory::FeedPosition {
                        index,
                        ..position.clone().unwrap()
                    };
                    let kind = Some(Kind::RegionStep(wire::RegionStep {
                        position: Some(position.to_wire()),
                        command: Some(command.to_wire()),
                    }));
                    if frames.send(Ok(wire::FeedFrame { kind })).await.is_err() {
                        return;
                    }
                }
                let quiet = tokio::time::timeout(Duration::from_millis(300), applied.changed());
                if let (Err(_), Some(position)) = (quiet.await, &position) {
                    let kind = Some(Kind::Heartbeat(position.to_wire()));
                    if frames.send(Ok(wire::FeedFrame { kind })).await.is_err() {
                        return;
                    }
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }

    async fn follow_mesh(
        &self,
        _request: Request<wire::FollowMeshRequest>,
    ) -> Result<Response<Self::FollowMeshStream>, Status> {
        Err(Status::unimplemented("a node"))
    }
}

pub(crate) struct MeshFeed(pub(crate) watch::Sender<Vec<wire::MeshFrame>>);

#[tonic::async_trait]
impl Feed for MeshFeed {
    type FollowStream = Answers<wire::FeedFrame>;
    type FollowMeshStream = Answers<wire::MeshFrame>;

    async fn follow(
        &self,
        _request: Request<wire::FollowRequest>,
    ) -> Result<Response<Self::FollowStream>, Status> {
        Err(Status::unimplemented("a region-sync"))
    }

    async fn follow_mesh(
        &self,
        _request: Request<wire::FollowMeshRequest>,
    ) -> Result<Response<Self::FollowMeshStream>, Status> {
        let mut all = self.0.subscribe();
        let (frames, stream) = mpsc::channel(64);
        #[allow(clippy::disallowed_methods, reason = "the test's runtime ends it")]
        tokio::spawn(async move {
            let mut next = 0;
            loop {
                let (new, last_link) = {
                    let all = all.borrow_and_update();
                    let link = |frame: &&wire::MeshFrame| {
                        matches!(frame.kind, Some(wire::mesh_frame::Kind::Link(_)))
                    };
                    (all[next..].to_vec(), all.iter().rev().find(link).cloned())
                };
                next += new.len();
                for frame in new {
                    if frames.send(Ok(frame)).await.is_err() {
                        return;
                    }
                }
                let quiet = tokio::time::timeout(Duration::from_millis(300), all.changed());
                // The link's state again is the heartbeat.
                if let (Err(_), Some(link)) = (quiet.await, last_link)
                    && frames.send(Ok(link)).await.is_err()
                {
                    return;
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }
}
