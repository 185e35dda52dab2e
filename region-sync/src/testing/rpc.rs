//! What a fake region serves.

mod cache;
mod compare;

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use kvmesh_client::{
    FromWire, Problem, ToWire,
    convert::{mesh::MeshPart, snapshot},
};
use kvmesh_directory::{
    Command, FeedPosition, RegionId,
    view::{MeshStep, mesh_blocks, mesh_namespaces, mesh_tombstones},
};
use kvmesh_process::server::Routes;
use kvmesh_proto::v1::{
    self as wire,
    cache_server::CacheServer,
    compare_server::CompareServer,
    consensus_server::{Consensus, ConsensusServer},
    feed_frame::Kind,
    feed_server::{Feed, FeedServer},
    replication_server::{Replication, ReplicationServer},
};
use tokio::{sync::mpsc, time::timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::FakeRegion;

type Answer<T> = Result<Response<T>, Status>;
type Stream<T> = ReceiverStream<Result<T, Status>>;

#[derive(Clone)]
struct Service(Arc<FakeRegion>);

pub(super) fn routes(region: &Arc<FakeRegion>) -> Routes {
    let service = Service(Arc::clone(region));
    Routes::new(FeedServer::new(service.clone()))
        .add_service(ConsensusServer::new(service.clone()))
        .add_service(CacheServer::new(service.clone()))
        .add_service(CompareServer::new(service.clone()))
        .add_service(ReplicationServer::new(service))
}

#[tonic::async_trait]
impl Feed for Service {
    type FollowStream = Stream<wire::FeedFrame>;
    type FollowMeshStream = Stream<wire::MeshFrame>;

    async fn follow(&self, request: Request<wire::FollowRequest>) -> Answer<Self::FollowStream> {
        let request = request.into_inner();
        let (frames, stream) = mpsc::channel(4);
        let (region, broken) = (Arc::clone(&self.0), self.0.streams());
        self.0.tasks.spawn(async move {
            tokio::select! {
                () = broken.cancelled() => {}
                _ = feed(&region, &request, &frames) => {}
            }
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn follow_mesh(
        &self,
        _: Request<wire::FollowMeshRequest>,
    ) -> Answer<Self::FollowMeshStream> {
        Err(Status::unimplemented("ask a region-sync"))
    }
}

/// None: the follower is gone.
async fn feed(
    region: &FakeRegion,
    request: &wire::FollowRequest,
    frames: &mpsc::Sender<Result<wire::FeedFrame, Status>>,
) -> Option<()> {
    let mesh = request.scope() == wire::FeedScope::Mesh;
    let follower: RegionId = request.follower_region.parse().ok()?;
    let send = async |kind| {
        frames
            .send(Ok(wire::FeedFrame { kind: Some(kind) }))
            .await
            .ok()
    };
    let mut applied = region.applied.subscribe();
    let log = region.position().log_incarnation.0;
    let resumable = request
        .after
        .as_ref()
        .filter(|after| after.log_incarnation == log)
        .filter(|after| after.index >= region.kept_from.load(Ordering::Relaxed));
    let mut at = match resumable {
        Some(after) => {
            region.begun.lock().unwrap().1 += 1;
            after.index
        }
        None => {
            region.begun.lock().unwrap().0 += 1;
            let state = region.state.lock().unwrap().clone();
            if mesh {
                let part = MeshPart {
                    position: state.position()?,
                    blocks: mesh_blocks(&state, &follower).collect(),
                    namespaces: mesh_namespaces(&state, &follower).cloned().collect(),
                    tombstones: mesh_tombstones(&state, &follower).collect(),
                    last: true,
                };
                send(Kind::MeshSnapshot(part.to_wire())).await?;
            } else {
                for chunk in snapshot::chunks(state.clone()) {
                    send(Kind::SnapshotChunk(chunk)).await?;
                }
            }
            state.applied_index()
        }
    };
    loop {
        let next = {
            let steps = region.steps.lock().unwrap();
            steps
                .get(steps.partition_point(|step| step.index <= at))
                .cloned()
        };
        let Some(step) = next else {
            let position = FeedPosition {
                index: at,
                ..region.position()
            };
            send(Kind::Heartbeat(position.to_wire())).await?;
            let _ = timeout(Duration::from_millis(100), applied.changed()).await;
            continue;
        };
        at = step.index;
        let state = region.state.lock().unwrap().clone();
        let position = FeedPosition {
            index: at,
            ..region.position()
        };
        let told = match region.loses.lock().unwrap().contains(&at) {
            false => MeshStep::project(&step.events, &state, &follower),
            true => MeshStep::default(),
        };
        let kind = if !mesh {
            Kind::RegionStep(wire::RegionStep {
                position: Some(position.to_wire()),
                command: Some(step.command.to_wire()),
            })
        } else if told.is_empty() {
            Kind::Heartbeat(position.to_wire())
        } else {
            Kind::MeshStep((position, told).to_wire())
        };
        send(kind).await?;
    }
}

impl Service {
    fn commit(&self, command: Command) -> Result<(FeedPosition, wire::Outcome), Status> {
        if self.0.refuses() {
            return Err(Problem::unavailable("no quorum").into());
        }
        self.0.asked.lock().unwrap().push(command.clone());
        let (position, outcome) = self.0.apply(command);
        Ok((position, outcome.to_wire()))
    }
}

#[tonic::async_trait]
impl Replication for Service {
    type CopyStream = Stream<wire::CopyResponse>;

    async fn apply_remote(
        &self,
        request: Request<wire::ApplyRemoteRequest>,
    ) -> Answer<wire::ApplyRemoteResponse> {
        let effects = request.into_inner().effects.unwrap();
        let command = Command::from_wire(wire::Command {
            version: 1,
            kind: Some(wire::command::Kind::RemoteEffects(effects)),
        });
        let (position, outcome) = self.commit(command.unwrap())?;
        if outcome.refused.is_some() {
            return Err(Problem::Exists("covered already".to_owned()).into());
        }
        let position = Some(position.to_wire());
        Ok(Response::new(wire::ApplyRemoteResponse { position }))
    }

    async fn copy(&self, _: Request<Streaming<wire::CopyRequest>>) -> Answer<Self::CopyStream> {
        Err(Status::unimplemented("fake"))
    }

    async fn confirm(&self, _: Request<wire::ConfirmRequest>) -> Answer<wire::ConfirmResponse> {
        Err(Status::unimplemented("fake"))
    }
}

#[tonic::async_trait]
impl Consensus for Service {
    type AttendStream = Stream<wire::LeaderNotice>;

    async fn propose(
        &self,
        request: Request<wire::ProposeRequest>,
    ) -> Answer<wire::ProposeResponse> {
        let command = Command::from_wire(request.into_inner().command.unwrap()).unwrap();
        let (position, outcome) = self.commit(command)?;
        Ok(Response::new(wire::ProposeResponse {
            position: Some(position.to_wire()),
            outcome: Some(outcome),
        }))
    }

    async fn append_entries(
        &self,
        _: Request<wire::AppendEntriesRequest>,
    ) -> Answer<wire::AppendEntriesResponse> {
        Err(Status::unimplemented("fake"))
    }

    async fn vote(&self, _: Request<wire::VoteRequest>) -> Answer<wire::VoteResponse> {
        Err(Status::unimplemented("fake"))
    }

    async fn install_snapshot(
        &self,
        _: Request<wire::InstallSnapshotRequest>,
    ) -> Answer<wire::InstallSnapshotResponse> {
        Err(Status::unimplemented("fake"))
    }

    async fn prepare(&self, _: Request<wire::PrepareRequest>) -> Answer<wire::PrepareResponse> {
        Err(Status::unimplemented("fake"))
    }

    async fn attend(&self, _: Request<Streaming<wire::NodeReport>>) -> Answer<Self::AttendStream> {
        Err(Status::unimplemented("fake"))
    }
}
