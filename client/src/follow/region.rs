//! Keeps a region's directory by its `REGION` feed.

use kvmesh_directory::{DirectoryState, RegionId};
use kvmesh_proto::v1::{self as wire, feed_client::FeedClient};
use tokio_util::sync::CancellationToken;
use tonic::{Response, Status, Streaming};

use super::{
    FeedError, SharedRegionView, Source,
    region_tail::{Action, RegionTail},
    session::{self, Session},
};
use crate::{Problem, channel::Channel, convert::ToWire};
use kvmesh_directory::limits::MESSAGE_BYTES_MAX;

/// Tails the feed of one region and writes its [`SharedRegionView`].
pub struct RegionFollower {
    source: Source,
    state: Following,
}

struct Following {
    tail: RegionTail,
    view: SharedRegionView,
    follower_region: RegionId,
    instance: std::sync::Arc<str>,
    needs_snapshot: bool,
}

impl RegionFollower {
    /// Follows `region` for a process of the same region, by the nodes of `source`.
    #[must_use]
    pub fn new(source: Source, region: RegionId) -> (Self, SharedRegionView) {
        let view = SharedRegionView::new(DirectoryState::empty());
        let state = Following {
            tail: RegionTail::new(region.clone()),
            view: view.clone(),
            follower_region: region,
            instance: source.instance.clone(),
            needs_snapshot: false,
        };
        (Self { source, state }, view)
    }

    /// Follows until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        session::run(self.state, self.source, stop).await;
    }
}

impl Session for Following {
    const FEED: &'static str = "region";
    type Frame = wire::FeedFrame;

    async fn open(
        &mut self,
        channel: Channel,
    ) -> Result<Response<Streaming<wire::FeedFrame>>, Status> {
        self.tail.restart();
        let after = self.view.position().filter(|_| !self.needs_snapshot);
        let request = wire::FollowRequest {
            scope: wire::FeedScope::Region.into(),
            after: after.map(|at| at.to_wire()),
            follower_region: self.follower_region.to_wire(),
        };
        FeedClient::new(channel)
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX)
            .follow(request)
            .await
    }

    async fn take(&mut self, frame: wire::FeedFrame) -> Result<(), FeedError> {
        let at = self.view.position();
        match self.tail.on_frame(at.as_ref(), frame)? {
            Action::Heard => {}
            Action::Replace(state) => {
                metrics::counter!(
                    "kvmesh_client_feed_snapshots_total",
                    "instance" => self.instance.to_string(), "feed" => Self::FEED
                )
                .increment(1);
                self.needs_snapshot = false;
                self.view.replace(state);
            }
            Action::Step(position, command) => {
                if !self.view.step(position, command.as_ref()) {
                    return Err(FeedError::Gap);
                }
            }
        }
        self.view.hear();
        Ok(())
    }

    fn failed(&mut self, error: &FeedError) {
        // After a gap only a snapshot helps: the view may be of another log.
        self.needs_snapshot |= matches!(error, FeedError::Gap);
        if let FeedError::Status(status) = error {
            let unformed = Problem::from_status(status) == Some(Problem::NotInitialised);
            self.view.note_unformed(unformed);
        }
    }
}
