//! Keeps the mesh view of a gateway by the `FollowMesh` feed of its region-syncs.

use std::{sync::Arc, time::Duration};

use kvmesh_directory::{
    PeerState,
    cost::{Configured, Estimate, Seen, Told, Z95},
    limits::MESSAGE_BYTES_MAX,
};
use kvmesh_proto::v1::{self as wire, feed_client::FeedClient};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::{Response, Status, Streaming};

use crate::{channel::Channel, convert::FromWire};

use super::{
    FeedError, Link, SharedMeshView, Source,
    compare::Marked,
    mesh_tail::{Action, MeshTail},
    session::{self, Session},
};

/// Tails the mesh view and writes its [`SharedMeshView`].
pub struct MeshViewFollower {
    source: Source,
    state: Following,
}

struct Following {
    tail: MeshTail,
    view: SharedMeshView,
    /// What the view said when region-sync asked to remember it.
    marked: Marked,
    instance: Arc<str>,
}

impl MeshViewFollower {
    /// Follows the region-syncs of `source`; one that has none knows no other region.
    #[must_use]
    pub fn new(source: Source) -> (Self, SharedMeshView) {
        let view = SharedMeshView::new();
        let state = Following {
            tail: MeshTail::default(),
            view: view.clone(),
            marked: Marked::default(),
            instance: Arc::clone(&source.instance),
        };
        (Self { source, state }, view)
    }

    /// Follows until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        session::run(self.state, self.source, stop).await;
    }
}

impl Session for Following {
    const FEED: &'static str = "mesh_view";
    type Frame = wire::MeshFrame;

    async fn open(
        &mut self,
        channel: Channel,
    ) -> Result<Response<Streaming<wire::MeshFrame>>, Status> {
        self.tail.restart();
        self.marked.clear();
        FeedClient::new(channel)
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX)
            .follow_mesh(wire::FollowMeshRequest { compares: true })
            .await
    }

    async fn take(&mut self, frame: wire::MeshFrame) -> Result<(), FeedError> {
        match self.tail.on_frame(frame)? {
            Action::Heard => {}
            Action::Replace(region, tags, position) => self.view.replace(&region, &tags, position),
            Action::Step {
                region,
                appeared,
                vanished,
                position,
            } => self.view.step(&region, &appeared, &vanished, position),
            Action::Mend {
                region,
                appeared,
                vanished,
                position,
            } => {
                let stands = self.view.mend(&region, &appeared, &vanished, &position);
                stands.then_some(()).ok_or(FeedError::Gap)?;
            }
            Action::Mark(region, position) => {
                let frozen = self.view.freeze(&region);
                self.marked.mark(region, position, frozen)?;
            }
            Action::Compare(region, position, theirs) => {
                self.marked
                    .compare(&self.instance, region, &position, theirs)
                    .await?;
            }
            Action::Link(region, link) => self.view.set_link(region, read_link(link)),
        }
        Ok(())
    }

    fn failed(&mut self, _error: &FeedError) {}
}

/// A region-sync of an earlier version only says whether the region is asked, as does one of a
/// later version that knows more states.
fn read_state(raw: &wire::LinkState) -> PeerState {
    PeerState::from_wire(raw.state).unwrap_or(match raw.reachable {
        true => PeerState::Online,
        false => PeerState::Offline,
    })
}

fn read_link(raw: wire::LinkState) -> Link {
    let now = Instant::now();
    let age = Duration::from_millis(raw.age_ms);
    Link {
        reachable: raw.reachable,
        state: read_state(&raw),
        lag_entries: raw.lag_entries,
        rtt_ms: raw.rtt_ms,
        bandwidth: raw.bandwidth,
        configured: configured(&raw),
        gateways: raw.gateways,
        heard: now.checked_sub(age).unwrap_or(now),
    }
}

/// A region-sync of an earlier version says only the last round trip.
fn configured(raw: &wire::LinkState) -> Configured {
    let spread = match raw.rtt_p50_ms > 0.0 && raw.rtt_p95_ms >= raw.rtt_p50_ms {
        true => (raw.rtt_p95_ms / raw.rtt_p50_ms).ln() / Z95,
        false => 0.0,
    };
    let rtt_ms = match raw.rtt_p50_ms > 0.0 {
        true => raw.rtt_p50_ms,
        false => raw.rtt_ms,
    };
    Configured {
        rtt: Estimate {
            median: rtt_ms / 1e3,
            sigma: spread,
        },
        bandwidth: raw.bandwidth,
        dollars_per_gb: raw.dollars_per_gb,
        seen: Seen {
            first_byte: raw.first_byte_trips.and_then(told),
            bandwidth: raw.bandwidth_seen.and_then(told),
        },
    }
}

/// None where it is no estimate.
fn told(raw: wire::LinkSeen) -> Option<Told> {
    let positive = |number: f64| number > 0.0 && number.is_finite();
    let can_be = positive(raw.median) && positive(raw.weight);
    let can_be = can_be && raw.sigma >= 0.0 && raw.sigma.is_finite();
    can_be.then_some(Told {
        estimate: Estimate {
            median: raw.median,
            sigma: raw.sigma,
        },
        weight: raw.weight,
        age: raw.age_ms as f64 / 1e3,
    })
}
