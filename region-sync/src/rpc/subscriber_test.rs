use std::{collections::BTreeMap, sync::Arc, time::Duration};

use kvmesh_client::follow::MeshEvent;
use kvmesh_directory::{FeedPosition, LogIncarnation, RegionId, view::MeshStep};
use kvmesh_proto::v1::{self as wire, mesh_frame::Kind};
use tokio::{
    sync::mpsc,
    time::{Instant, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::Status;

use super::subscriber::Subscriber;
use crate::{
    backlog::Backlog,
    compare::Difference,
    mesh::{Link, Mesh},
    testing::{block, namespace},
};

/// A mesh of which `eu` is known, and one subscriber.
struct Subscribed {
    mesh: Arc<Mesh>,
    region: RegionId,
    backlog: Backlog,
    frames: mpsc::Receiver<Result<wire::MeshFrame, Status>>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Subscribed {
    fn new(news_max: usize, blocks: u32) -> Self {
        Self::with(news_max, blocks, true)
    }

    fn with(news_max: usize, blocks: u32, compares: bool) -> Self {
        let region: RegionId = "eu".parse().unwrap();
        let link = Link {
            state: kvmesh_directory::PeerState::Offline,
            heard_at: None,
            rtt: None,
            bandwidth: 1.0,
            trips: None,
            dollars_per_gb: 0.0,
            gateways: Vec::new(),
            heard: Instant::now(),
        };
        let links = BTreeMap::from([(region.clone(), link)]);
        let mesh = Arc::new(Mesh::with_news_max(links, news_max));
        let (sender, frames) = mpsc::channel(2);
        let subscriber =
            Subscriber::new(Arc::clone(&mesh), "us/region-sync".into(), sender, compares);
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let mut subscribed = Self {
            mesh,
            region,
            backlog: Backlog::default(),
            frames,
            stop,
            tasks,
        };
        let name = |number| (block(&namespace("m"), number), number);
        subscribed.take(MeshEvent::SnapshotBegin);
        subscribed.take(MeshEvent::Snapshot {
            blocks: (0..blocks).map(name).collect(),
            namespaces: Vec::new(),
            tombstones: Vec::new(),
        });
        subscribed.take(MeshEvent::SnapshotEnd(at(1)));
        let run = subscriber.run(subscribed.stop.clone());
        subscribed.tasks.spawn(run);
        subscribed
    }

    fn take(&mut self, event: MeshEvent) {
        self.backlog.take(event);
        while let Some(change) = self.backlog.next_free() {
            self.mesh.show(&self.region, change);
        }
    }

    fn step(&mut self, index: u64) {
        let step = MeshStep {
            appeared: vec![(block(&namespace("m"), 1_000_000 + index as u32), 1)],
            ..MeshStep::default()
        };
        self.take(MeshEvent::Step(at(index), step));
    }

    async fn next(&mut self) -> Option<Kind> {
        let next = timeout(Duration::from_secs(20), self.frames.recv());
        let frame = next.await.unwrap()?.unwrap();
        assert_eq!(frame.region, "eu");
        frame.kind
    }

    /// The next frames until one shows a position: resets, tags that appeared, the position.
    async fn until_position(&mut self) -> (u32, usize, u64) {
        let (mut resets, mut appeared) = (0, 0);
        loop {
            match self.next().await.unwrap() {
                Kind::Reset(_) => resets += 1,
                Kind::Tags(tags) => {
                    appeared += tags.appeared.len() / 12;
                    if !tags.snapshot_more {
                        return (resets, appeared, tags.position.unwrap().index);
                    }
                }
                Kind::Link(_) => {}
                other => panic!("nobody compares: {other:?}"),
            }
        }
    }
}

fn at(index: u64) -> FeedPosition {
    FeedPosition {
        region: "eu".parse().unwrap(),
        log_incarnation: LogIncarnation(9),
        index,
    }
}

#[tokio::test]
async fn a_subscriber_gets_a_snapshot_in_parts_and_then_steps() {
    let mut subscribed = Subscribed::new(16, 150_000);
    assert_eq!(subscribed.until_position().await, (1, 150_000, 1));
    subscribed.step(2);
    subscribed.step(3);
    assert_eq!(subscribed.until_position().await, (0, 1, 2));
    assert_eq!(subscribed.until_position().await, (0, 1, 3));
}

#[tokio::test]
async fn a_lagging_subscriber_gets_the_snapshot_again() {
    let mut subscribed = Subscribed::new(4, 10);
    assert_eq!(subscribed.until_position().await, (1, 10, 1));
    for index in 2..=101 {
        subscribed.step(index);
    }
    // Whatever was under way comes first; then everything, at the newest position.
    loop {
        let (resets, appeared, index) = subscribed.until_position().await;
        if resets == 1 {
            assert_eq!((appeared, index), (110, 101));
            break;
        }
    }
}

#[tokio::test]
async fn replaced_tags_are_sent_anew() {
    let mut subscribed = Subscribed::new(16, 10);
    assert_eq!(subscribed.until_position().await, (1, 10, 1));
    subscribed.take(MeshEvent::SnapshotBegin);
    subscribed.take(MeshEvent::SnapshotEnd(at(7)));
    assert_eq!(subscribed.until_position().await, (1, 0, 7));
    // A snapshot that is older than what is shown says nothing new.
    subscribed.take(MeshEvent::SnapshotBegin);
    subscribed.take(MeshEvent::SnapshotEnd(at(6)));
    subscribed.step(8);
    assert_eq!(subscribed.until_position().await, (0, 1, 8));
}

#[tokio::test]
async fn who_compares_gets_mends_and_digests_and_others_a_snapshot() {
    for (compares, want) in [
        (true, &["mends", "mark", "digest", "tags"][..]),
        (false, &["reset", "tags", "tags"]),
    ] {
        let mut subscribed = Subscribed::with(16, 10, compares);
        assert_eq!(subscribed.until_position().await, (1, 10, 1));
        let (mesh, eu) = (Arc::clone(&subscribed.mesh), subscribed.region.clone());
        let mut frozen = mesh.freeze(&eu).unwrap();
        let found = Difference {
            missing: vec![(block(&namespace("m"), 99), 99)],
            ..Difference::default()
        };
        mesh.mend(&mut frozen, found).unwrap();
        let (view, position) = mesh.mark(&eu).unwrap();
        let total = view.digest(&eu).total();
        assert_eq!((total.blocks, position.index), (11, 1));
        mesh.tell_digest(&eu, position, total);
        subscribed.step(2);
        let mut kinds = Vec::new();
        while kinds.last() != Some(&"tags") || kinds.len() < want.len() {
            match subscribed.next().await.unwrap() {
                Kind::Link(_) => {}
                Kind::Reset(_) => kinds.push("reset"),
                Kind::Tags(tags) if tags.mends => kinds.push("mends"),
                Kind::Tags(_) => kinds.push("tags"),
                Kind::Mark(_) => kinds.push("mark"),
                Kind::Digest(_) => kinds.push("digest"),
            }
        }
        assert_eq!(kinds, want);
    }
}

#[tokio::test(start_paused = true)]
async fn links_are_told_at_least_every_500_ms_until_the_end() {
    let mut subscribed = Subscribed::new(16, 0);
    subscribed.until_position().await;
    let begun = Instant::now();
    for _ in 0..6 {
        let kind = subscribed.next().await.unwrap();
        assert!(matches!(kind, Kind::Link(_)), "{kind:?}");
    }
    assert!(begun.elapsed() <= Duration::from_millis(3_000));
    subscribed.stop.cancel();
    while subscribed.next().await.is_some() {}
    subscribed.tasks.close();
    subscribed.tasks.wait().await;
}

#[tokio::test(start_paused = true)]
async fn a_subscriber_that_takes_nothing_is_given_up() {
    let subscribed = Subscribed::new(16, 500_000);
    subscribed.tasks.close();
    let begun = Instant::now();
    subscribed.tasks.wait().await;
    assert!(begun.elapsed() < Duration::from_secs(60));
}
