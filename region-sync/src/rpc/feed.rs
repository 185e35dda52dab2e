//! Service `Feed`: the mesh view for gateways of the own region.

use std::sync::Arc;

use kvmesh_client::Problem;
use kvmesh_directory::limits::MESSAGE_BYTES_MAX;
use kvmesh_proto::v1::{
    self as wire,
    feed_server::{Feed, FeedServer},
};
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::{Request, Response, Status};

use super::subscriber::{FRAMES_MAX, Subscriber};
use crate::mesh::Mesh;

/// Subscribers at a time.
const SUBSCRIBERS_MAX: usize = 1_024;

struct Service {
    mesh: Arc<Mesh>,
    instance: Arc<str>,
    room: Arc<Semaphore>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

/// The service; its subscribers run on `tasks` until `stop`.
pub(crate) fn service(
    mesh: Arc<Mesh>,
    instance: Arc<str>,
    tasks: TaskTracker,
    stop: CancellationToken,
) -> FeedServer<impl Feed> {
    let service = Service {
        mesh,
        instance,
        room: Arc::new(Semaphore::new(SUBSCRIBERS_MAX)),
        tasks,
        stop,
    };
    FeedServer::new(service)
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX)
}

#[tonic::async_trait]
impl Feed for Service {
    type FollowStream = ReceiverStream<Result<wire::FeedFrame, Status>>;
    type FollowMeshStream = ReceiverStream<Result<wire::MeshFrame, Status>>;

    async fn follow(
        &self,
        _request: Request<wire::FollowRequest>,
    ) -> Result<Response<Self::FollowStream>, Status> {
        let what = "`Follow` on a region-sync (ask a node of the region, or `FollowMesh` here)";
        Err(Problem::Unimplemented(what.to_owned()).into())
    }

    async fn follow_mesh(
        &self,
        request: Request<wire::FollowMeshRequest>,
    ) -> Result<Response<Self::FollowMeshStream>, Status> {
        let permit = Arc::clone(&self.room).try_acquire_owned().map_err(|_| {
            Status::from(Problem::Exhausted {
                limit: format!("the bound of {SUBSCRIBERS_MAX} subscribers"),
                retry_after: std::time::Duration::from_secs(1),
            })
        })?;
        let (frames, stream) = mpsc::channel(FRAMES_MAX);
        let (mesh, instance) = (Arc::clone(&self.mesh), Arc::clone(&self.instance));
        let compares = request.into_inner().compares;
        let subscriber = Subscriber::new(mesh, instance, frames, compares);
        let stop = self.stop.clone();
        self.tasks.spawn(async move {
            subscriber.run(stop).await;
            drop(permit);
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}
