use std::{collections::BTreeSet, sync::Arc, time::Duration};

use kvmesh_client::{
    channel::{Channels, TcpConnect},
    follow::{MeshViewFollower, SharedMeshView, Source},
};
use kvmesh_directory::{
    BlockName, Command, FeedPosition, PeerState, RegionId, Tag, cost::Seen,
    limits::LINK_TRANSFERS_MAX,
};
use kvmesh_process::{Environment, server};
use kvmesh_proto::v1::{
    FollowRequest, LinkTransfer, TransferredRequest, feed_client::FeedClient,
    region_sync_client::RegionSyncClient,
};
use tokio::task::JoinHandle;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::Code;

use crate::{
    PeerSettings, ServeError, Settings, serve,
    testing::{FakeRegion, block, deletion, evict, namespace, put, until},
};

/// A region-sync of `us` with peers, and a gateway that follows it.
struct Running {
    view: SharedMeshView,
    address: String,
    stop: CancellationToken,
    ended: JoinHandle<Result<(), ServeError>>,
    _tasks: TaskTracker,
}

impl Running {
    async fn start(home: &FakeRegion, peers: &[&FakeRegion]) -> Self {
        Self::start_with(home, peers.iter().map(|peer| peer_settings(peer)).collect()).await
    }

    #[allow(clippy::disallowed_methods, reason = "the test awaits it")]
    async fn start_with(home: &FakeRegion, peers: Vec<PeerSettings>) -> Self {
        let settings = Settings {
            region: "us".to_owned(),
            nodes: vec![home.address.to_string()],
            peers,
            probe_interval_ms: 20,
            probe_timeout_ms: 500,
            offline_after_ms: 100,
            ..Settings::default()
        };
        let (address, incoming) = server::listen(([127, 0, 0, 1], 0).into()).await.unwrap();
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let environment = Environment::real("us/region-sync");
        let ended = tokio::spawn(serve(settings, environment, incoming, stop.clone()));
        let source = Source {
            channels: Channels::new(Arc::new(TcpConnect)),
            addresses: vec![address.to_string()],
            instance: "us/gateway".into(),
        };
        let (follower, view) = MeshViewFollower::new(source);
        tasks.spawn(follower.run(stop.clone()));
        Self {
            view,
            address: address.to_string(),
            stop,
            ended,
            _tasks: tasks,
        }
    }

    fn tags(&self, region: &str) -> BTreeSet<(Tag, u32)> {
        let region: RegionId = region.parse().unwrap();
        self.view
            .with(|view| view.tags_of(&region))
            .into_iter()
            .collect()
    }

    async fn reaches(&self, position: &FeedPosition) {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
        let reached = self.view.wait_for(position, deadline).await;
        assert!(reached, "{position:?} is not reached");
    }

    async fn end(self) {
        self.stop.cancel();
        let ended = tokio::time::timeout(Duration::from_secs(20), self.ended).await;
        ended.unwrap().unwrap().unwrap();
    }
}

fn peer_settings(peer: &FakeRegion) -> PeerSettings {
    PeerSettings {
        region: peer.name.to_string(),
        nodes: vec![peer.address.to_string()],
        gateways: vec![peer.address.to_string()],
        bandwidth_bits: 8_000,
        dollars_per_gb: 0.0,
    }
}

fn tags_of(names: &[(BlockName, u32)]) -> BTreeSet<(Tag, u32)> {
    names
        .iter()
        .map(|(name, bytes)| (name.tag(), *bytes))
        .collect()
}

#[tokio::test]
async fn the_view_follows_what_appears_and_vanishes() {
    let (us, eu, ap) = tokio::join!(
        FakeRegion::start("us"),
        FakeRegion::start("eu"),
        FakeRegion::start("ap")
    );
    let model = namespace("m");
    eu.apply(Command::OpenNamespace(model.clone()));
    eu.apply(put(&model, 1, 10));
    let running = Running::start(&us, &[&eu, &ap]).await;
    running.reaches(&eu.position()).await;
    assert_eq!(running.tags("eu"), tags_of(&[(block(&model, 1), 1_001)]));

    eu.apply(put(&model, 2, 10));
    let (position, _) = eu.apply(evict(&model, 1));
    running.reaches(&position).await;
    assert_eq!(running.tags("eu"), tags_of(&[(block(&model, 2), 1_002)]));
    assert_eq!(running.tags("ap"), BTreeSet::new());
    // A namespace of another region is known here by its id.
    assert_eq!(
        us.state.lock().unwrap().namespace(model.id).unwrap().name,
        "m"
    );
    running.end().await;
}

#[tokio::test]
async fn a_broken_stream_is_resumed_and_nothing_is_missed() {
    let (us, eu) = tokio::join!(FakeRegion::start("us"), FakeRegion::start("eu"));
    let model = namespace("m");
    eu.apply(Command::OpenNamespace(model.clone()));
    let running = Running::start(&us, &[&eu]).await;
    running.reaches(&eu.position()).await;
    for number in 0..20 {
        eu.apply(put(&model, number, 10));
        if number % 7 == 3 {
            eu.break_streams();
        }
    }
    running.reaches(&eu.position()).await;
    let all: Vec<_> = (0..20).map(|n| (block(&model, n), 1_000 + n)).collect();
    assert_eq!(running.tags("eu"), tags_of(&all));
    let (snapshots, resumed) = *eu.begun.lock().unwrap();
    assert_eq!(snapshots, 1, "resumed {resumed} times");
    assert!(resumed > 0);
    running.end().await;
}

#[tokio::test]
async fn a_delete_is_carried_over_with_its_position_before_the_view_shows_it() {
    let (us, eu) = tokio::join!(FakeRegion::start("us"), FakeRegion::start("eu"));
    let model = namespace("m");
    for region in [&us, &eu] {
        region.apply(Command::OpenNamespace(model.clone()));
        region.apply(put(&model, 1, 10));
    }
    let running = Running::start(&us, &[&eu]).await;
    running.reaches(&eu.position()).await;
    assert_eq!(us.asked.lock().unwrap().len(), 0, "nothing there is newer");

    us.refuse(true);
    let before = eu.position();
    let (deleted, _) = eu.apply(Command::Delete(deletion(&model, &[1, 2], 20)));
    let soon = tokio::time::Instant::now() + Duration::from_millis(500);
    assert!(
        !running.view.wait_for(&deleted, soon).await,
        "not committed"
    );
    running.reaches(&before).await;
    assert_eq!(
        running.tags("eu").len(),
        1,
        "the old view is served meanwhile"
    );

    us.refuse(false);
    running.reaches(&deleted).await;
    assert_eq!(running.tags("eu").len(), 0);
    assert_eq!(us.stands_at("eu"), Some(deleted.clone()));
    assert!(us.state.lock().unwrap().entry(&block(&model, 1)).is_none());
    let want = Command::RemoteEffects {
        position: deleted,
        namespaces: vec![],
        deletes: vec![deletion(&model, &[1, 2], 20)],
        raises: vec![],
    };
    assert_eq!(*us.asked.lock().unwrap(), [want]);
    running.end().await;
}

#[tokio::test]
async fn a_delete_made_while_nobody_followed_is_carried_over_from_the_snapshot() {
    let (us, eu) = tokio::join!(FakeRegion::start("us"), FakeRegion::start("eu"));
    let model = namespace("m");
    us.apply(Command::OpenNamespace(model.clone()));
    us.apply(put(&model, 5, 10));
    eu.apply(Command::OpenNamespace(model.clone()));
    let keys: Vec<u32> = (0..10_000).collect();
    for part in keys.chunks(4_000) {
        eu.apply(Command::Delete(deletion(&model, part, 20)));
    }
    let running = Running::start(&us, &[&eu]).await;
    running.reaches(&eu.position()).await;
    assert_eq!(us.stands_at("eu"), Some(eu.position()));
    assert!(us.state.lock().unwrap().entry(&block(&model, 5)).is_none());
    assert_eq!(us.state.lock().unwrap().stats().tombstones, 10_000);
    {
        let asked = us.asked.lock().unwrap();
        let (last, early) = asked.split_last().unwrap();
        assert!(matches!(last, Command::RemoteEffects { .. }), "{last:?}");
        let plain = |c: &Command| matches!(c, Command::Delete(_));
        assert!(!early.is_empty() && early.iter().all(plain));
    }
    // A second region-sync finds everything done.
    let asked = us.asked.lock().unwrap().len();
    let second = Running::start(&us, &[&eu]).await;
    second.reaches(&eu.position()).await;
    assert_eq!(us.asked.lock().unwrap().len(), asked);
    running.end().await;
    second.end().await;
}

#[tokio::test]
async fn an_own_region_with_another_log_is_told_everything_again() {
    let (us, eu) = tokio::join!(FakeRegion::start("us"), FakeRegion::start("eu"));
    let model = namespace("m");
    eu.apply(Command::OpenNamespace(model.clone()));
    let running = Running::start(&us, &[&eu]).await;
    running.reaches(&eu.position()).await;
    // Restored from nothing: the same address, another log.
    let fresh = FakeRegion::start_at("us", 2).await;
    let state = fresh.state.lock().unwrap().clone();
    *us.steps.lock().unwrap() = Vec::new();
    *us.state.lock().unwrap() = state;
    us.break_streams();
    until("the namespace is known again", || {
        us.state.lock().unwrap().namespace(model.id).is_some()
    })
    .await;
    running.end().await;
    fresh.end();
}

#[tokio::test]
async fn a_region_is_reachable_while_any_of_its_gateways_answers() {
    let (us, eu, other) = tokio::join!(
        FakeRegion::start("us"),
        FakeRegion::start("eu"),
        FakeRegion::start("eu")
    );
    let [first, second] = [&eu, &other].map(|gateway| gateway.address.to_string());
    let peer = PeerSettings {
        gateways: vec![first.clone(), second.clone()],
        dollars_per_gb: 0.02,
        ..peer_settings(&eu)
    };
    let running = Running::start_with(&us, vec![peer]).await;
    let region: RegionId = "eu".parse().unwrap();
    let link = || running.view.link(&region);
    until("the region is reachable", || {
        link().is_some_and(|link| link.reachable && link.rtt_ms > 0.0)
    })
    .await;
    assert_eq!(link().unwrap().gateways, [first.clone(), second.clone()]);
    assert!((link().unwrap().bandwidth - 1_000.0).abs() < 1e-9);
    let told = link().unwrap().configured;
    let (median, sigma) = (told.rtt.median, told.rtt.sigma);
    assert!(median > 0.0 && sigma > 0.0, "{told:?}: as its probes were");
    assert!((told.dollars_per_gb - 0.02).abs() < 1e-9);

    eu.end();
    until("the other gateway is asked first", || {
        let link = link().unwrap();
        assert!(link.reachable);
        link.gateways == [second.clone(), first.clone()]
    })
    .await;
    other.end();
    until("the region is unreachable", || !link().unwrap().reachable).await;
    running.end().await;
}

#[tokio::test]
async fn what_gateways_saw_of_a_link_is_told_to_all_of_them() {
    let (us, eu) = tokio::join!(FakeRegion::start("us"), FakeRegion::start("eu"));
    let running = Running::start(&us, &[&eu]).await;
    let region: RegionId = "eu".parse().unwrap();
    let seen = || running.view.link(&region).map(|link| link.configured.seen);
    until("the link is known", || seen().is_some()).await;
    assert_eq!(seen(), Some(Seen::default()));

    let channels = Channels::new(Arc::new(TcpConnect));
    let client = RegionSyncClient::new(channels.to(&running.address).unwrap());
    let tell = async |transfers| {
        let request = TransferredRequest { transfers };
        let answer = client.clone().transferred(request).await;
        answer.map(drop).map_err(|status| status.code())
    };
    let transfer = |region: &str, bytes| LinkTransfer {
        region: region.to_owned(),
        first_byte_ms: 120.0,
        rtt_ms: 80.0,
        bytes,
        took_ms: 50.0,
    };
    let backwards = LinkTransfer {
        took_ms: -1.0,
        ..transfer("eu", 5 << 20)
    };
    let refused = tell(vec![transfer("eu", 5 << 20), backwards]).await;
    assert_eq!(refused, Err(Code::InvalidArgument));
    let too_many = vec![transfer("eu", 5 << 20); LINK_TRANSFERS_MAX + 1];
    assert_eq!(tell(too_many).await, Err(Code::InvalidArgument));
    assert_eq!(tell(vec![transfer("elsewhere", 5 << 20)]).await, Ok(()));
    // Too few bytes tell no bandwidth.
    assert_eq!(tell(vec![transfer("eu", 4_096)]).await, Ok(()));
    until("the time to the first byte is told", || {
        seen().is_some_and(|seen| seen.first_byte.is_some())
    })
    .await;
    assert_eq!(
        seen().unwrap().bandwidth,
        None,
        "what was refused counts not"
    );

    assert_eq!(tell(vec![transfer("eu", 5 << 20); 3]).await, Ok(()));
    let told = || seen().and_then(|seen| seen.bandwidth);
    until("the bandwidth is told", || told().is_some()).await;
    let told = told().unwrap();
    let wanted = f64::from(5 << 20) / 0.05;
    assert!(
        (told.estimate.median / wanted - 1.0).abs() < 1e-9,
        "{told:?}"
    );
    // Three samples: 1, 0.85 and 0.7225.
    assert!((told.weight - 2.5725).abs() < 0.01, "{told:?}");
    let trips = seen().unwrap().first_byte.unwrap();
    assert!((trips.estimate.median - 1.5).abs() < 1e-9, "{trips:?}");
    running.end().await;
}

#[tokio::test]
async fn a_region_that_was_lost_is_asked_again_only_after_a_while() {
    let (us, eu) = tokio::join!(FakeRegion::start("us"), FakeRegion::start("eu"));
    let running = Running::start(&us, &[&eu]).await;
    let region: RegionId = "eu".parse().unwrap();
    let state = || running.view.link(&region).map(|link| link.state);
    until("it is online", || state() == Some(PeerState::Online)).await;
    let port = eu.address.port();
    eu.end();
    until("it is offline", || state() == Some(PeerState::Offline)).await;
    // `return_after_ms` is half a minute: it answers, and is not asked yet.
    let again = FakeRegion::start_on("eu", port).await;
    until("it comes back", || state() == Some(PeerState::CatchingUp)).await;
    assert!(!running.view.link(&region).unwrap().reachable);
    again.end();
    until("it is offline", || state() == Some(PeerState::Offline)).await;
    running.end().await;
}

#[tokio::test]
async fn a_gateway_follows_either_of_two_region_syncs() {
    let (us, eu) = tokio::join!(FakeRegion::start("us"), FakeRegion::start("eu"));
    let model = namespace("m");
    eu.apply(Command::OpenNamespace(model.clone()));
    eu.apply(put(&model, 1, 10));
    let one = Running::start(&us, &[&eu]).await;
    let two = Running::start(&us, &[&eu]).await;
    let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
    let (follower, view) = MeshViewFollower::new(Source {
        channels: Channels::new(Arc::new(TcpConnect)),
        addresses: vec![one.address.clone(), two.address.clone()],
        instance: "us/gateway".into(),
    });
    tasks.spawn(follower.run(stop.clone()));
    let _stop = stop.drop_guard();
    let deadline = || tokio::time::Instant::now() + Duration::from_secs(20);
    assert!(view.wait_for(&eu.position(), deadline()).await);
    one.end().await;
    let region: RegionId = "eu".parse().unwrap();
    assert_eq!(
        view.with(|view| view.tags_of(&region)).len(),
        1,
        "it keeps what it knows"
    );
    let (position, _) = eu.apply(put(&model, 2, 10));
    assert!(view.wait_for(&position, deadline()).await);
    until("the other one says that it is online", || {
        view.link(&region)
            .is_some_and(|link| link.state == PeerState::Online)
    })
    .await;
    two.end().await;
}

#[tokio::test]
async fn following_a_region_is_refused_with_a_hint() {
    let us = FakeRegion::start("us").await;
    let running = Running::start(&us, &[]).await;
    let channels = Channels::new(Arc::new(TcpConnect));
    let mut feed = FeedClient::new(channels.to(&running.address).unwrap());
    let status = feed.follow(FollowRequest::default()).await.unwrap_err();
    assert_eq!(status.code(), Code::Unimplemented);
    assert!(status.message().contains("FollowMesh"), "{status:?}");
    running.end().await;
}

#[tokio::test]
async fn impossible_settings_are_refused_before_anything_starts() {
    let settings = Settings {
        region: "us".to_owned(),
        ..Settings::default()
    };
    let (_, incoming) = server::listen(([127, 0, 0, 1], 0).into()).await.unwrap();
    let environment = Environment::real("us/region-sync");
    let refused = serve(settings, environment, incoming, CancellationToken::new()).await;
    let Err(ServeError::Settings(impossible)) = refused else {
        panic!("{refused:?}");
    };
    assert_eq!(impossible.key, "nodes");
}
