//! One gateway that follows the mesh view.
//!
//! It gets each region's tags as a snapshot and then its steps. When it lags further behind
//! than the queue of news reaches, it gets the snapshots again.

use std::{sync::Arc, time::Duration};

use kvmesh_client::{
    ToWire,
    convert::mesh::{pack_appeared, pack_vanished},
};
use kvmesh_directory::{
    FeedPosition, RegionId, Tag,
    cost::{Told, Z95},
};
use kvmesh_proto::v1::{self as wire, mesh_frame::Kind};
use tokio::{
    sync::{broadcast::error::RecvError, mpsc},
    time::{MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::mesh::{Link, Mesh, News};

/// Frames between a subscriber's task and its connection.
pub(super) const FRAMES_MAX: usize = 16;
/// Tags of one frame: 768 KiB.
const FRAME_TAGS_MAX: usize = 65_536;
/// Links are told this often; followers give a stream up after 3 s of silence.
const LINKS_INTERVAL: Duration = Duration::from_millis(500);
/// A subscriber that takes nothing for so long is given up.
const SEND_TIME_MAX: Duration = Duration::from_secs(10);

type Frame = Result<wire::MeshFrame, Status>;

/// The subscriber is gone, or takes nothing.
struct Gone;

/// See the module.
pub(super) struct Subscriber {
    mesh: Arc<Mesh>,
    instance: Arc<str>,
    frames: mpsc::Sender<Frame>,
    /// It understands mends, marks and digests.
    compares: bool,
}

impl Subscriber {
    pub(super) fn new(
        mesh: Arc<Mesh>,
        instance: Arc<str>,
        frames: mpsc::Sender<Frame>,
        compares: bool,
    ) -> Self {
        Self {
            mesh,
            instance,
            frames,
            compares,
        }
    }

    /// Until `stop`, or until the subscriber is gone.
    pub(super) async fn run(self, stop: CancellationToken) {
        self.count(1.0);
        // Frames that were sent stay whole: what is dropped is only the wait for more.
        tokio::select! {
            () = stop.cancelled() => {}
            Gone = self.feed() => {}
        }
        self.count(-1.0);
    }

    async fn feed(&self) -> Gone {
        match self.feed_on().await {
            Err(gone) => gone,
            Ok(never) => match never {},
        }
    }

    async fn feed_on(&self) -> Result<std::convert::Infallible, Gone> {
        // News before tags: what happens in between is repeated, and so harmless.
        let mut news = self.mesh.subscribe();
        self.everything().await?;
        let mut links = interval(LINKS_INTERVAL);
        links.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                heard = news.recv() => match heard {
                    Ok(news) => self.pass_on(&news).await?,
                    Err(RecvError::Lagged(_)) => {
                        metrics::counter!(
                            "kvmesh_region_sync_subscriber_resets_total",
                            "instance" => self.instance.to_string()
                        )
                        .increment(1);
                        self.everything().await?;
                    }
                    Err(RecvError::Closed) => return Err(Gone),
                },
                _ = links.tick() => self.links().await?,
                () = self.frames.closed() => return Err(Gone),
            }
        }
    }

    async fn everything(&self) -> Result<(), Gone> {
        self.links().await?;
        for (region, _) in self.mesh.links() {
            self.snapshot(&region).await?;
        }
        Ok(())
    }

    async fn links(&self) -> Result<(), Gone> {
        for (region, link) in self.mesh.links() {
            let state = self.link_state(&region, link);
            self.send(&region, Kind::Link(state)).await?;
        }
        Ok(())
    }

    async fn pass_on(&self, news: &News) -> Result<(), Gone> {
        match news {
            News::Replaced(region) => self.snapshot(region).await,
            News::Mended { region, .. } if !self.compares => self.snapshot(region).await,
            News::Mended {
                region,
                appeared,
                vanished,
                position,
            } => {
                let mended = wire::MeshTags {
                    mends: true,
                    ..tags(appeared, vanished, position, false)
                };
                self.send(region, Kind::Tags(mended)).await
            }
            News::Mark(..) | News::Digest(..) if !self.compares => Ok(()),
            News::Mark(region, position) => {
                let position = Some(position.to_wire());
                let mark = wire::MeshMark { position };
                self.send(region, Kind::Mark(mark)).await
            }
            News::Digest(region, position, total) => {
                let digest = wire::MeshDigest {
                    position: Some(position.to_wire()),
                    blocks: total.blocks,
                    sum: total.sum,
                };
                self.send(region, Kind::Digest(digest)).await
            }
            News::Step {
                region,
                appeared,
                vanished,
                position,
            } => {
                let step = tags(appeared, vanished, position, false);
                self.send(region, Kind::Tags(step)).await
            }
            News::Link(region) => match self.mesh.link(region) {
                Some(link) => {
                    let state = self.link_state(region, link);
                    self.send(region, Kind::Link(state)).await
                }
                None => Ok(()),
            },
        }
    }

    async fn snapshot(&self, region: &RegionId) -> Result<(), Gone> {
        let Some((all, position)) = self.mesh.tags(region) else {
            return Ok(());
        };
        self.send(region, Kind::Reset(wire::MeshReset {})).await?;
        let (parts, last) = all.split_at(all.len() - all.len() % FRAME_TAGS_MAX);
        for part in parts.chunks(FRAME_TAGS_MAX) {
            let part = tags(part, &[], &position, true);
            self.send(region, Kind::Tags(part)).await?;
        }
        let last = tags(last, &[], &position, false);
        self.send(region, Kind::Tags(last)).await
    }

    async fn send(&self, region: &RegionId, kind: Kind) -> Result<(), Gone> {
        let frame = wire::MeshFrame {
            region: region.to_string(),
            kind: Some(kind),
        };
        let sent = self.frames.send_timeout(Ok(frame), SEND_TIME_MAX).await;
        sent.map_err(|_| Gone)
    }

    fn link_state(&self, region: &RegionId, link: Link) -> wire::LinkState {
        let seen = self.mesh.seen(region);
        wire::LinkState {
            reachable: link.state.is_asked(),
            rtt_ms: link.rtt.map_or(0.0, |rtt| rtt.as_secs_f64() * 1e3),
            bandwidth: link.bandwidth,
            age_ms: u64::try_from(link.heard.elapsed().as_millis()).unwrap_or(u64::MAX),
            gateways: link.gateways,
            state: link.state.to_wire(),
            lag_entries: self.mesh.lag(region).unwrap_or_default(),
            rtt_p50_ms: link.trips.map_or(0.0, |trips| trips.median * 1e3),
            rtt_p95_ms: link.trips.map_or(0.0, |trips| trips.quantile(Z95) * 1e3),
            dollars_per_gb: link.dollars_per_gb,
            first_byte_trips: seen.first_byte.map(link_seen),
            bandwidth_seen: seen.bandwidth.map(link_seen),
        }
    }

    fn count(&self, change: f64) {
        metrics::gauge!(
            "kvmesh_region_sync_subscribers", "instance" => self.instance.to_string()
        )
        .increment(change);
    }
}

fn link_seen(told: Told) -> wire::LinkSeen {
    wire::LinkSeen {
        median: told.estimate.median,
        sigma: told.estimate.sigma,
        weight: told.weight,
        age_ms: (told.age * 1e3) as u64,
    }
}

fn tags(
    appeared: &[(Tag, u32)],
    vanished: &[Tag],
    position: &FeedPosition,
    more: bool,
) -> wire::MeshTags {
    wire::MeshTags {
        position: Some(position.to_wire()),
        appeared: pack_appeared(appeared),
        vanished: pack_vanished(vanished),
        snapshot_more: more,
        mends: false,
    }
}
