//! Hands over what another region's `MESH` feed says, in order.

use kvmesh_directory::{
    BlockName, FeedPosition, Namespace, RegionId, limits::MESSAGE_BYTES_MAX, state::Tombstone,
    view::MeshStep,
};
use kvmesh_proto::v1::{self as wire, feed_client::FeedClient, feed_frame::Kind};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tonic::{Response, Status, Streaming};

use super::{
    FeedError, Source,
    session::{self, Session},
};
use crate::{
    channel::Channel,
    convert::{FromWire, ToWire, mesh::MeshPart},
};

/// What another region said.
#[derive(Debug, Clone, PartialEq)]
pub enum MeshEvent {
    /// Forget what is known of the region: all of it follows, in parts. A snapshot that is
    /// cut off is followed by another `SnapshotBegin`.
    SnapshotBegin,
    /// Part of a snapshot.
    Snapshot {
        /// Blocks, with their size.
        blocks: Vec<(BlockName, u32)>,
        /// Namespaces.
        namespaces: Vec<Namespace>,
        /// Deleted names.
        tombstones: Vec<(BlockName, Tombstone)>,
    },
    /// The snapshot is whole, and shows this position.
    SnapshotEnd(FeedPosition),
    /// One indivisible step.
    Step(FeedPosition, MeshStep),
    /// Nothing new up to this position.
    Heartbeat(FeedPosition),
}

/// Tails the `MESH` feed of one other region. A slow taker slows it down.
pub struct MeshScopeFollower {
    source: Source,
    state: Following,
}

struct Following {
    region: RegionId,
    follower_region: RegionId,
    events: mpsc::Sender<MeshEvent>,
    at: Option<FeedPosition>,
    in_snapshot: bool,
    needs_snapshot: bool,
}

impl MeshScopeFollower {
    /// Follows `region` for a process of `follower_region`, by the nodes of `source`. Starts
    /// with a snapshot, unless `after` says what the taker of `events` has.
    #[must_use]
    pub fn new(
        source: Source,
        region: RegionId,
        follower_region: RegionId,
        after: Option<FeedPosition>,
        events: mpsc::Sender<MeshEvent>,
    ) -> Self {
        let state = Following {
            region,
            follower_region,
            events,
            at: after,
            in_snapshot: false,
            needs_snapshot: false,
        };
        Self { source, state }
    }

    /// Follows until `stop`, or until nobody takes the events.
    pub async fn run(self, stop: CancellationToken) {
        session::run(self.state, self.source, stop).await;
    }
}

impl Following {
    async fn emit(&self, event: MeshEvent) -> Result<(), FeedError> {
        self.events.send(event).await.map_err(|_| FeedError::Closed)
    }

    /// The events of one frame, in order.
    fn on_frame(&mut self, frame: wire::FeedFrame) -> Result<Vec<MeshEvent>, FeedError> {
        match frame.kind {
            Some(Kind::MeshSnapshot(raw)) => self.on_part(MeshPart::from_wire(raw)?),
            _ if self.in_snapshot => Err(FeedError::Unexpected("step within a snapshot")),
            Some(Kind::MeshStep(raw)) => {
                let (position, step) = <(FeedPosition, MeshStep)>::from_wire(raw)?;
                self.advance(&position)?;
                Ok(vec![MeshEvent::Step(position, step)])
            }
            Some(Kind::Heartbeat(raw)) => {
                let position = FeedPosition::from_wire(raw)?;
                self.advance(&position)?;
                Ok(vec![MeshEvent::Heartbeat(position)])
            }
            Some(Kind::SnapshotChunk(_) | Kind::RegionStep(_)) => {
                Err(FeedError::Unexpected("REGION"))
            }
            None => Err(FeedError::Unexpected("empty")),
        }
    }

    fn on_part(&mut self, part: MeshPart) -> Result<Vec<MeshEvent>, FeedError> {
        self.check(&part.position)?;
        let mut events = Vec::with_capacity(3);
        if !self.in_snapshot {
            events.push(MeshEvent::SnapshotBegin);
            // Until the last part the taker has nothing that could be resumed.
            (self.in_snapshot, self.at) = (true, None);
        }
        events.push(MeshEvent::Snapshot {
            blocks: part.blocks,
            namespaces: part.namespaces,
            tombstones: part.tombstones,
        });
        if part.last {
            (self.in_snapshot, self.needs_snapshot) = (false, false);
            self.at = Some(part.position.clone());
            events.push(MeshEvent::SnapshotEnd(part.position));
        }
        Ok(events)
    }

    /// Moves on; backwards or in another log only a snapshot helps.
    fn advance(&mut self, to: &FeedPosition) -> Result<(), FeedError> {
        self.check(to)?;
        match &self.at {
            Some(at) if to.covers(at) => {
                self.at = Some(to.clone());
                Ok(())
            }
            _ => Err(FeedError::Gap),
        }
    }

    fn check(&self, position: &FeedPosition) -> Result<(), FeedError> {
        if position.region == self.region {
            return Ok(());
        }
        Err(FeedError::Region {
            got: position.region.clone(),
            want: self.region.clone(),
        })
    }
}

impl Session for Following {
    const FEED: &'static str = "mesh_scope";
    type Frame = wire::FeedFrame;

    async fn open(
        &mut self,
        channel: Channel,
    ) -> Result<Response<Streaming<wire::FeedFrame>>, Status> {
        self.in_snapshot = false;
        let after = self.at.as_ref().filter(|_| !self.needs_snapshot);
        let request = wire::FollowRequest {
            scope: wire::FeedScope::Mesh.into(),
            after: after.map(ToWire::to_wire),
            follower_region: self.follower_region.to_wire(),
        };
        FeedClient::new(channel)
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX)
            .follow(request)
            .await
    }

    async fn take(&mut self, frame: wire::FeedFrame) -> Result<(), FeedError> {
        for event in self.on_frame(frame)? {
            self.emit(event).await?;
        }
        Ok(())
    }

    fn failed(&mut self, error: &FeedError) {
        self.needs_snapshot |= matches!(error, FeedError::Gap);
    }
}
