//! Two regions, of which one compares what it knows of the other, for tests.

use std::{
    collections::BTreeSet,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use kvmesh_client::{
    channel::{Channels, TcpConnect},
    follow::{MeshViewFollower, SharedMeshView, Source},
};
use kvmesh_directory::{Command, FeedPosition, Namespace, RegionId, Tag};
use kvmesh_process::{Environment, server};
use kvmesh_proto::v1::{
    self as wire, region_sync_client::RegionSyncClient, sync_frame::Kind, sync_request::How,
};
use tokio::time::{Instant, timeout};
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};
use tonic::{Code, Status};

use crate::{
    PeerSettings, Settings, serve,
    testing::{FakeRegion, block, namespace, until},
};

/// Two regions, and a region-sync of `us`.
pub(super) struct World {
    pub(super) us: Arc<FakeRegion>,
    pub(super) eu: Arc<FakeRegion>,
    pub(super) model: Namespace,
    pub(super) ours: Ours,
}

/// A region-sync of `us` that compares often, and a gateway that follows it.
pub(super) struct Ours {
    pub(super) address: String,
    pub(super) view: SharedMeshView,
    _tasks: TaskTracker,
    _stop: DropGuard,
}

pub(super) fn settings(us: &FakeRegion, eu: &FakeRegion) -> Settings {
    Settings {
        region: "us".to_owned(),
        nodes: vec![us.address.to_string()],
        gateways: vec![us.address.to_string()],
        peers: vec![PeerSettings {
            region: "eu".to_owned(),
            nodes: vec![eu.address.to_string()],
            gateways: vec![eu.address.to_string()],
            bandwidth_bits: 8_000_000,
            dollars_per_gb: 0.0,
        }],
        probe_interval_ms: 20,
        compare_every_ms: 20,
        ..Settings::default()
    }
}

impl Ours {
    pub(super) async fn start(settings: Settings) -> Self {
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let (address, incoming) = server::listen(([127, 0, 0, 1], 0).into()).await.unwrap();
        let environment = Environment::real("us/region-sync");
        let serving = serve(settings, environment, incoming, stop.clone());
        tasks.spawn(async move { serving.await.unwrap() });
        let (follower, view) = MeshViewFollower::new(Source {
            channels: Channels::new(Arc::new(TcpConnect)),
            addresses: vec![address.to_string()],
            instance: "us/gateway".into(),
        });
        tasks.spawn(follower.run(stop.clone()));
        Self {
            address: address.to_string(),
            view,
            _tasks: tasks,
            _stop: stop.drop_guard(),
        }
    }

    /// Its gateway has heard so much of `eu`.
    pub(super) async fn reaches(&self, position: &FeedPosition) {
        let deadline = Instant::now() + Duration::from_secs(20);
        let reached = self.view.wait_for(position, deadline).await;
        assert!(reached, "{position:?} is not reached");
    }

    /// Its gateway could ask `eu`.
    pub(super) async fn links(&self) {
        let eu: RegionId = "eu".parse().unwrap();
        until("it is asked", || {
            self.view.link(&eu).is_some_and(|link| link.reachable)
        })
        .await;
    }

    pub(super) fn shown(&self) -> BTreeSet<(Tag, u32)> {
        let eu: RegionId = "eu".parse().unwrap();
        let tags = self.view.with(|view| view.tags_of(&eu));
        tags.into_iter().collect()
    }

    pub(super) async fn sync(&self, peer: &str, how: Option<How>) -> Result<wire::SyncEnd, Status> {
        let channels = Channels::new(Arc::new(TcpConnect));
        let mut client = RegionSyncClient::new(channels.to(&self.address).unwrap());
        let request = wire::SyncRequest {
            peer: peer.to_owned(),
            how,
        };
        let mut frames = client.sync(request).await?.into_inner();
        loop {
            let next = timeout(Duration::from_secs(20), frames.message());
            match next.await.unwrap()?.expect("an end").kind.unwrap() {
                Kind::Progress(_) => {}
                Kind::End(end) => return Ok(end),
            }
        }
    }
}

impl World {
    pub(super) async fn start(change: impl FnOnce(&mut Settings)) -> Self {
        let (us, eu) = tokio::join!(FakeRegion::start("us"), FakeRegion::start("eu"));
        us.sources.lock().unwrap().push(Arc::clone(&eu));
        let model = namespace("m");
        eu.apply(Command::OpenNamespace(model.clone()));
        let mut settings = settings(&us, &eu);
        change(&mut settings);
        let ours = Ours::start(settings).await;
        ours.reaches(&eu.position()).await;
        ours.links().await;
        Self {
            us,
            eu,
            model,
            ours,
        }
    }

    pub(super) async fn reaches(&self, position: &FeedPosition) {
        self.ours.reaches(position).await;
    }

    pub(super) fn shown(&self) -> BTreeSet<(Tag, u32)> {
        self.ours.shown()
    }

    pub(super) fn blocks(&self, numbers: impl IntoIterator<Item = u32>) -> BTreeSet<(Tag, u32)> {
        let tag = |number| (block(&self.model, number).tag(), 1_000 + number);
        numbers.into_iter().map(tag).collect()
    }

    pub(super) fn digests(&self) -> u32 {
        self.eu.digests.load(Ordering::Relaxed)
    }

    pub(super) fn reads(&self) -> usize {
        self.eu.ranges.lock().unwrap().len()
    }

    /// Comparisons that begin from now on.
    pub(super) async fn compared(&self, times: u32) {
        let before = self.digests();
        until("it is compared", || self.digests() > before + times).await;
    }

    pub(super) async fn sync(&self, peer: &str, how: Option<How>) -> Result<wire::SyncEnd, Status> {
        self.ours.sync(peer, how).await
    }

    pub(super) async fn refused(&self, peer: &str, how: Option<How>) -> (Code, String) {
        let status = self.sync(peer, how).await.unwrap_err();
        (status.code(), status.message().to_owned())
    }

    pub(super) fn since(&self, log: u64, index: u64) -> Option<How> {
        Some(How::Since(wire::FeedPosition {
            region: "eu".to_owned(),
            log_incarnation: log,
            index,
        }))
    }
}

pub(super) fn compare() -> Option<How> {
    Some(How::Compare(wire::SyncCompare {}))
}

pub(super) fn from_zero() -> Option<How> {
    Some(How::FromZero(wire::SyncFromZero {}))
}
