//! `Feed`: the applied log for followers, in two scopes.
//!
//! Invariants: only applied entries are sent, each whole; a follower that lags behind the
//! tail, or that followed another log, gets a snapshot.

pub(super) mod mesh;
mod region;

use std::sync::Arc;

use kvmesh_client::{FromWire, Problem, ToWire, channel::Link, convert};
use kvmesh_directory::{FeedPosition, LogIncarnation, RegionId};
use kvmesh_process::access;
use kvmesh_proto::v1::{self as wire, feed_frame::Kind, feed_server::Feed};
use tokio::{
    sync::mpsc,
    time::{Duration, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use crate::{Settings, directory::Step, node::Node};

/// Frames that wait for a slow follower.
const FRAMES_MAX: usize = 64;
/// Entries that are taken from the tail at a time.
const STEPS_MAX: usize = 256;
/// A follower hears at least so often; under the 500 ms that it is promised.
const HEARTBEAT: Duration = Duration::from_millis(250);
/// A follower that takes nothing for so long is given up.
pub(super) const STUCK_AFTER: Duration = Duration::from_secs(30);

pub(super) struct FeedService(pub(super) Arc<Node>);

type Frames<T> = ReceiverStream<Result<T, Status>>;

#[tonic::async_trait]
impl Feed for FeedService {
    type FollowStream = Frames<wire::FeedFrame>;
    type FollowMeshStream = Frames<wire::MeshFrame>;

    async fn follow(
        &self,
        request: Request<wire::FollowRequest>,
    ) -> Result<Response<Self::FollowStream>, Status> {
        let link = access::link_of(&request).cloned();
        let request = request.into_inner();
        let scope = scope(&request, link.as_ref())?;
        let node = Arc::clone(&self.0);
        let after = convert::optional(request.after.clone()).map_err(Problem::from)?;
        let start = start(&node, after).await?;
        let (frames, receiver) = mpsc::channel(FRAMES_MAX);
        let stream = Follow {
            node,
            scope,
            frames,
        };
        self.0.tasks.spawn(stream.run(start));
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn follow_mesh(
        &self,
        _request: Request<wire::FollowMeshRequest>,
    ) -> Result<Response<Self::FollowMeshStream>, Status> {
        super::not_built("FollowMesh on a node: ask a region-sync, it")
    }
}

/// What a follower asks for, and may.
fn scope(request: &wire::FollowRequest, link: Option<&Link>) -> Result<Scope, Problem> {
    match request.scope() {
        wire::FeedScope::Region => {
            access::check(link, "Feed", "Follow", "REGION")?;
            Ok(Scope::Region)
        }
        wire::FeedScope::Mesh => {
            access::check(link, "Feed", "Follow", "MESH")?;
            follower_of(request.follower_region.clone(), link).map(Scope::Mesh)
        }
        wire::FeedScope::Unspecified => {
            Err(Problem::invalid("scope", "it is missing: REGION or MESH"))
        }
    }
}

/// The region that asks. What it is sent depends on it: residency.
pub(super) fn follower_of(raw: String, link: Option<&Link>) -> Result<RegionId, Problem> {
    let follower = RegionId::from_wire(raw);
    let follower = follower.map_err(|error| Problem::invalid("follower_region", error))?;
    match link.map(|link| &link.peer) {
        Some(peer) if peer.region() != Some(&follower) => {
            let what = format!("{peer} may not follow in the name of region {follower}");
            Err(Problem::Denied(what))
        }
        _ => Ok(follower),
    }
}

/// Where a follower goes on: the last index that it has, in the log that this node has.
/// None: it needs a snapshot.
async fn start(node: &Node, after: Option<FeedPosition>) -> Result<Option<u64>, Problem> {
    let own = node.position()?;
    let Some(after) = after else {
        return Ok(None);
    };
    if after.region != own.region {
        let why = format!("it is of region {}, this is {}", after.region, own.region);
        return Err(Problem::invalid("after.region", why));
    }
    if after.log_incarnation != own.log_incarnation {
        return Ok(None);
    }
    let wait = Settings::millis(node.settings.now().epoch_wait_ms);
    if !node.applied(after.index, wait).await {
        return Err(Problem::unavailable(
            "this node has not reached the follower's position: ask another one",
        ));
    }
    Ok(Some(after.index))
}

enum Scope {
    Region,
    Mesh(RegionId),
}

/// The follower is gone, or was given up.
struct Gone;

/// One follower.
struct Follow {
    node: Arc<Node>,
    scope: Scope,
    frames: mpsc::Sender<Result<wire::FeedFrame, Status>>,
}

impl Follow {
    async fn run(self, start: Option<u64>) {
        let stop = self.node.stop.clone();
        tokio::select! {
            _ = self.follow(start) => {}
            () = self.frames.closed() => {}
            () = stop.cancelled() => {
                let ending = Problem::unavailable("this node is shutting down: ask another one");
                let _ = self.frames.try_send(Err(ending.into()));
            }
        }
    }

    async fn follow(&self, mut cursor: Option<u64>) -> Result<(), Gone> {
        let mut applied = self.node.directory.applied();
        let mut log = self.log();
        loop {
            let steps = match cursor {
                Some(index) if self.log() == log => {
                    self.node.directory.steps_after(index, STEPS_MAX)
                }
                _ => None,
            };
            let Some(steps) = steps else {
                log = self.log();
                cursor = Some(self.snapshot().await?);
                continue;
            };
            match steps.last() {
                Some(last) => {
                    let index = last.index;
                    self.steps(&steps, log).await?;
                    cursor = Some(index);
                }
                None => {
                    if timeout(HEARTBEAT, applied.changed()).await.is_err()
                        && let Some(index) = cursor
                    {
                        self.heartbeat(index, log).await?;
                    }
                }
            }
        }
    }

    fn log(&self) -> LogIncarnation {
        let position = self.node.position();
        position.map_or(LogIncarnation(0), |position| position.log_incarnation)
    }

    fn position(&self, index: u64, log: LogIncarnation) -> FeedPosition {
        FeedPosition {
            region: self.node.region.clone(),
            log_incarnation: log,
            index,
        }
    }

    async fn snapshot(&self) -> Result<u64, Gone> {
        let state = self.node.directory.freeze();
        let index = state.applied_index();
        match &self.scope {
            Scope::Region => region::snapshot(self, state).await?,
            Scope::Mesh(follower) => mesh::snapshot(self, &state, follower).await?,
        }
        Ok(index)
    }

    async fn steps(&self, steps: &[Arc<Step>], log: LogIncarnation) -> Result<(), Gone> {
        match &self.scope {
            Scope::Region => region::steps(self, steps, log).await,
            Scope::Mesh(follower) => mesh::steps(self, steps, log, follower).await,
        }
    }

    async fn heartbeat(&self, index: u64, log: LogIncarnation) -> Result<(), Gone> {
        let position = self.position(index, log).to_wire();
        self.send(Kind::Heartbeat(position)).await
    }

    async fn send(&self, kind: Kind) -> Result<(), Gone> {
        let frame = wire::FeedFrame { kind: Some(kind) };
        let sent = self.frames.send_timeout(Ok(frame), STUCK_AFTER).await;
        sent.map_err(|_| Gone)
    }
}
