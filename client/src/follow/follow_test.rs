//! Followers reach what their feed says, whatever breaks on the way.

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::{Arc, Mutex},
    time::Duration,
};

use futures::{Stream, StreamExt};
use kvmesh_directory::{
    BlockHash, BlockName, Command, DirectoryState, FeedPosition, LogIncarnation, Member,
    NamespaceId, NodeId, Part, RegionId, Tag, view::RangeDigest,
};
use kvmesh_proto::v1::{
    self as wire, feed_frame, feed_server, feed_server::FeedServer, mesh_frame,
};
use tokio::{
    sync::mpsc,
    time::{Instant, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::{Request, Response, Status, service::Routes};

use super::{
    MeshEvent, MeshScopeFollower, MeshViewFollower, RegionFollower, SharedRegionView, Source,
};
use crate::{
    convert::{ToWire, mesh, snapshot},
    fake_net_test::FakeNet,
};

/// Time that no test needs in full.
const LONG: Duration = Duration::from_secs(20);

/// What one stream says; then it ends, or says nothing more.
struct Plan<T> {
    frames: Vec<T>,
    ends: bool,
}

/// A server of feeds that does what its script says and notes what it was asked.
#[derive(Clone, Default)]
struct FakeFeed {
    plans: Arc<Mutex<VecDeque<Plan<wire::FeedFrame>>>>,
    mesh_plans: Arc<Mutex<VecDeque<Plan<wire::MeshFrame>>>>,
    asked: Arc<Mutex<Vec<wire::FollowRequest>>>,
}

type Frames<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

fn play<T: Send + 'static>(plan: Option<Plan<T>>) -> Result<Response<Frames<T>>, Status> {
    let plan = plan.ok_or_else(|| Status::unavailable("the script is over"))?;
    let said = futures::stream::iter(plan.frames.into_iter().map(Ok));
    Ok(Response::new(match plan.ends {
        true => Box::pin(said),
        false => Box::pin(said.chain(futures::stream::pending())),
    }))
}

#[tonic::async_trait]
impl feed_server::Feed for FakeFeed {
    type FollowStream = Frames<wire::FeedFrame>;
    type FollowMeshStream = Frames<wire::MeshFrame>;

    async fn follow(
        &self,
        request: Request<wire::FollowRequest>,
    ) -> Result<Response<Self::FollowStream>, Status> {
        self.asked.lock().unwrap().push(request.into_inner());
        play(self.plans.lock().unwrap().pop_front())
    }

    async fn follow_mesh(
        &self,
        _: Request<wire::FollowMeshRequest>,
    ) -> Result<Response<Self::FollowMeshStream>, Status> {
        play(self.mesh_plans.lock().unwrap().pop_front())
    }
}

impl FakeFeed {
    fn plan(&self, ends: bool, frames: Vec<wire::FeedFrame>) {
        self.plans.lock().unwrap().push_back(Plan { frames, ends });
    }

    fn plan_mesh(&self, ends: bool, frames: Vec<wire::MeshFrame>) {
        let plan = Plan { frames, ends };
        self.mesh_plans.lock().unwrap().push_back(plan);
    }

    /// The indexes that streams were asked to start after.
    fn asked(&self) -> Vec<Option<u64>> {
        let asked = self.asked.lock().unwrap();
        let after = |request: &wire::FollowRequest| request.after.as_ref().map(|at| at.index);
        asked.iter().map(after).collect()
    }

    fn source(&self) -> Source {
        let net = FakeNet::default();
        net.serve("feed:1", Routes::new(FeedServer::new(self.clone())));
        Source {
            channels: net.channels(),
            // The first one is dead.
            addresses: vec!["nobody:1".to_owned(), "feed:1".to_owned()],
            instance: "test".into(),
        }
    }
}

fn region() -> RegionId {
    "eu-west".parse().unwrap()
}

fn position(log: u64, index: u64) -> FeedPosition {
    FeedPosition {
        region: region(),
        log_incarnation: LogIncarnation(log),
        index,
    }
}

fn frame(kind: feed_frame::Kind) -> wire::FeedFrame {
    wire::FeedFrame { kind: Some(kind) }
}

fn init(log: u64) -> Command {
    let member = Member {
        node: NodeId(1),
        address: "127.0.0.1:1".to_owned(),
        zone: String::new(),
        weight: 1,
        voter: true,
    };
    Command::InitRegion {
        region: region(),
        log_incarnation: LogIncarnation(log),
        members: vec![member],
        feature_level: 1,
    }
}

/// The frames of a snapshot of a region that has just been initialised, at index 1.
fn whole_snapshot(log: u64) -> Vec<wire::FeedFrame> {
    let mut state = DirectoryState::empty();
    state.apply(1, &init(log));
    snapshot::chunks(state)
        .map(|chunk| frame(feed_frame::Kind::SnapshotChunk(chunk)))
        .collect()
}

/// A step that makes node 1 begin its next incarnation.
fn step(log: u64, index: u64) -> wire::FeedFrame {
    let command = Command::BeginIncarnation {
        node: NodeId(1),
        nonce: index,
        store: 0,
        level: kvmesh_directory::limits::FEATURE_LEVEL,
    };
    frame(feed_frame::Kind::RegionStep(wire::RegionStep {
        position: Some(position(log, index).to_wire()),
        command: Some(command.to_wire()),
    }))
}

fn heartbeat(log: u64, index: u64) -> wire::FeedFrame {
    frame(feed_frame::Kind::Heartbeat(position(log, index).to_wire()))
}

fn incarnation(view: &SharedRegionView) -> u64 {
    view.with(|state| state.node(NodeId(1)).map_or(0, |node| node.incarnation.0))
}

fn follow_region(feed: &FakeFeed) -> (SharedRegionView, CancellationToken) {
    let (follower, view) = RegionFollower::new(feed.source(), region());
    let stop = CancellationToken::new();
    TaskTracker::new().spawn(follower.run(stop.clone()));
    (view, stop)
}

async fn reaches(view: &SharedRegionView, at: FeedPosition) {
    let reached = view.wait_for(&at, Instant::now() + LONG).await;
    assert!(reached, "the view stays at {:?}", view.position());
}

#[tokio::test]
async fn a_region_is_followed_over_a_break() {
    let feed = FakeFeed::default();
    let mut first = whole_snapshot(7);
    first.extend([step(7, 2), heartbeat(7, 2)]);
    feed.plan(true, first);
    // What is repeated does no harm.
    feed.plan(false, vec![step(7, 2), step(7, 3)]);
    let (view, _stop) = follow_region(&feed);
    assert_eq!(view.position(), None);
    reaches(&view, position(7, 3)).await;
    assert_eq!(incarnation(&view), 2);
    assert_eq!(feed.asked(), [None, Some(2)]);
    assert_eq!(
        view.ring().epoch(),
        view.with(|state| state.topology().epoch)
    );
    assert!(view.age() < LONG);
}

#[tokio::test]
async fn after_a_gap_a_snapshot_is_asked_for() {
    let feed = FakeFeed::default();
    let mut gap = whole_snapshot(7);
    gap.push(step(7, 3));
    feed.plan(false, gap);
    let mut whole = whole_snapshot(7);
    whole.push(step(7, 2));
    feed.plan(false, whole);
    let (view, _stop) = follow_region(&feed);
    reaches(&view, position(7, 2)).await;
    assert_eq!(feed.asked(), [None, None]);
}

#[tokio::test]
async fn another_log_is_taken_from_its_snapshot() {
    let feed = FakeFeed::default();
    let mut old = whole_snapshot(7);
    old.extend([step(7, 2), heartbeat(8, 1)]);
    feed.plan(false, old);
    feed.plan(false, whole_snapshot(8));
    let (view, _stop) = follow_region(&feed);
    reaches(&view, position(8, 1)).await;
    assert_eq!(incarnation(&view), 0);
    // Nothing that was said of the old log is promised any more.
    let soon = Instant::now() + Duration::from_millis(20);
    assert!(!view.wait_for(&position(7, 2), soon).await);
}

#[tokio::test]
async fn a_snapshot_that_is_cut_off_changes_nothing() {
    let feed = FakeFeed::default();
    feed.plan(true, whole_snapshot(7));
    // Only the head: the view must stay as it was.
    let mut cut = whole_snapshot(8);
    cut.truncate(1);
    feed.plan(true, cut);
    feed.plan(false, vec![step(7, 2)]);
    let (view, _stop) = follow_region(&feed);
    reaches(&view, position(7, 2)).await;
    assert_eq!(feed.asked(), [None, Some(1), Some(1)]);
}

#[tokio::test(start_paused = true)]
async fn a_silent_feed_is_given_up() {
    let feed = FakeFeed::default();
    feed.plan(false, whole_snapshot(7));
    feed.plan(false, vec![step(7, 2)]);
    let (view, _stop) = follow_region(&feed);
    reaches(&view, position(7, 2)).await;
}

#[tokio::test]
async fn a_follower_ends_when_it_is_told_to() {
    let feed = FakeFeed::default();
    feed.plan(false, whole_snapshot(7));
    let (follower, view) = RegionFollower::new(feed.source(), region());
    let stop = CancellationToken::new();
    let running = TaskTracker::new().spawn(follower.run(stop.clone()));
    reaches(&view, position(7, 1)).await;
    stop.cancel();
    timeout(LONG, running).await.unwrap().unwrap();
}

fn name(number: u8) -> BlockName {
    BlockName {
        namespace: NamespaceId([1; 16]),
        hash: BlockHash([number; 32]),
        part: Part::default(),
    }
}

fn mesh_part(number: u8, last: bool) -> wire::FeedFrame {
    let part = mesh::MeshPart {
        position: position(7, 5),
        blocks: vec![(name(number), 100)],
        namespaces: Vec::new(),
        tombstones: Vec::new(),
        last,
    };
    frame(feed_frame::Kind::MeshSnapshot(part.to_wire()))
}

fn mesh_step(index: u64, number: u8) -> wire::FeedFrame {
    let step = kvmesh_directory::view::MeshStep {
        appeared: vec![(name(number), 100)],
        ..Default::default()
    };
    frame(feed_frame::Kind::MeshStep(
        (position(7, index), step).to_wire(),
    ))
}

/// An event in a word, with the number of its block or its index.
fn told(event: MeshEvent) -> String {
    match event {
        MeshEvent::SnapshotBegin => "begin".to_owned(),
        MeshEvent::Snapshot { blocks, .. } => format!("block {}", blocks[0].0.hash.0[0]),
        MeshEvent::SnapshotEnd(at) => format!("end {}", at.index),
        MeshEvent::Step(at, _) => format!("step {}", at.index),
        MeshEvent::Heartbeat(at) => format!("at {}", at.index),
    }
}

#[tokio::test]
async fn another_regions_feed_is_told_in_order() {
    let feed = FakeFeed::default();
    // Cut off in the middle of the snapshot; nothing of it can be resumed.
    feed.plan(true, vec![mesh_part(1, false)]);
    feed.plan(
        true,
        vec![
            mesh_part(1, false),
            mesh_part(2, true),
            mesh_step(6, 3),
            heartbeat(7, 9),
        ],
    );
    feed.plan(false, vec![mesh_step(10, 4)]);
    let (events, mut told_events) = mpsc::channel(1);
    let home = "us-east".parse().unwrap();
    let follower = MeshScopeFollower::new(feed.source(), region(), home, None, events);
    TaskTracker::new().spawn(follower.run(CancellationToken::new()));
    let want = [
        "begin", "block 1", "begin", "block 1", "block 2", "end 5", "step 6", "at 9", "step 10",
    ];
    for want in want {
        let event = timeout(LONG, told_events.recv()).await.unwrap().unwrap();
        assert_eq!(told(event), want);
    }
    assert_eq!(feed.asked(), [None, None, Some(9)]);
    let asked = feed.asked.lock().unwrap();
    assert_eq!(asked[0].follower_region, "us-east");
    assert_eq!(asked[0].scope(), wire::FeedScope::Mesh);
}

#[tokio::test]
async fn a_follower_whose_events_nobody_takes_ends() {
    let feed = FakeFeed::default();
    feed.plan(false, vec![mesh_part(1, true)]);
    let (events, nobody) = mpsc::channel(1);
    drop(nobody);
    let home = "us-east".parse().unwrap();
    let follower = MeshScopeFollower::new(feed.source(), region(), home, None, events);
    timeout(LONG, follower.run(CancellationToken::new()))
        .await
        .unwrap();
}

fn of_region(kind: mesh_frame::Kind) -> wire::MeshFrame {
    wire::MeshFrame {
        region: region().to_wire(),
        kind: Some(kind),
    }
}

fn tags(index: u64, tags: &[u64], more: bool) -> wire::MeshFrame {
    let appeared: Vec<(Tag, u32)> = tags.iter().map(|tag| (Tag(*tag), 100)).collect();
    of_region(mesh_frame::Kind::Tags(wire::MeshTags {
        position: Some(position(7, index).to_wire()),
        appeared: mesh::pack_appeared(&appeared),
        vanished: Default::default(),
        snapshot_more: more,
        mends: false,
    }))
}

/// A block is there that was not told, and another one is not.
fn mends(index: u64, missing: u64, gone: u64) -> wire::MeshFrame {
    of_region(mesh_frame::Kind::Tags(wire::MeshTags {
        position: Some(position(7, index).to_wire()),
        appeared: mesh::pack_appeared(&[(Tag(missing), 100)]),
        vanished: mesh::pack_vanished(&[Tag(gone)]),
        snapshot_more: false,
        mends: true,
    }))
}

fn mark(index: u64) -> wire::MeshFrame {
    let position = Some(position(7, index).to_wire());
    of_region(mesh_frame::Kind::Mark(wire::MeshMark { position }))
}

/// Of these tags, at a position.
fn digest(index: u64, tags: &[u64]) -> wire::MeshFrame {
    let total: RangeDigest = tags.iter().map(|tag| (Tag(*tag), 100)).collect();
    of_region(mesh_frame::Kind::Digest(wire::MeshDigest {
        position: Some(position(7, index).to_wire()),
        blocks: total.blocks,
        sum: total.sum,
    }))
}

fn reset() -> wire::MeshFrame {
    of_region(mesh_frame::Kind::Reset(wire::MeshReset {}))
}

fn link(rtt_ms: f64) -> wire::MeshFrame {
    of_region(mesh_frame::Kind::Link(wire::LinkState {
        reachable: true,
        rtt_ms,
        bandwidth: 125e6,
        gateways: vec!["10.0.0.1:7400".to_owned()],
        age_ms: 40,
        ..Default::default()
    }))
}

#[tokio::test]
async fn the_mesh_view_changes_region_sync_without_forgetting() {
    let feed = FakeFeed::default();
    feed.plan_mesh(
        true,
        vec![
            link(78.5),
            reset(),
            tags(4, &[1], true),
            tags(5, &[2], false),
        ],
    );
    // The next region-sync begins its snapshot, and breaks.
    feed.plan_mesh(true, vec![reset(), tags(4, &[1], true), link(80.0)]);
    feed.plan_mesh(
        false,
        vec![reset(), tags(6, &[2, 3], false), tags(7, &[4], false)],
    );
    let (follower, view) = MeshViewFollower::new(feed.source());
    TaskTracker::new().spawn(follower.run(CancellationToken::new()));
    let until = Instant::now() + LONG;
    let has = |tag: u64| view.with(|mesh| mesh.names(mesh.whereabouts(Tag(tag)).0, &region()));

    assert!(view.wait_for(&position(7, 5), until).await);
    let mut changes = view.changes();
    let broken = async {
        while view.link(&region()).is_none_or(|link| link.rtt_ms < 80.0) {
            assert!(has(1) && has(2), "the half snapshot replaced the whole one");
            changes.changed().await.unwrap();
        }
    };
    timeout(LONG, broken).await.unwrap();

    assert!(view.wait_for(&position(7, 7), until).await);
    assert_eq!([1, 2, 3, 4].map(has), [false, true, true, true]);
    assert!(view.age(&region()).unwrap() >= Duration::from_millis(40));
    assert_eq!(view.links()[0].1.gateways, ["10.0.0.1:7400"]);
}

/// What the view has when a region-sync has said these frames; and whether it was asked for
/// everything again.
async fn after(frames: Vec<wire::MeshFrame>) -> (Vec<u64>, bool) {
    let feed = FakeFeed::default();
    let begin = vec![reset(), tags(5, &[1, 2], false)];
    feed.plan_mesh(false, begin.into_iter().chain(frames).collect());
    feed.plan_mesh(false, vec![reset(), tags(100, &[9], false), link(1.0)]);
    let (follower, view) = MeshViewFollower::new(feed.source());
    let stop = CancellationToken::new();
    TaskTracker::new().spawn(follower.run(stop.clone()));
    let mut changes = view.changes();
    let settled = changes.wait_for(|_| view.link(&region()).is_some());
    timeout(LONG, settled).await.unwrap().unwrap();
    stop.cancel();
    let tags = view.with(|mesh| mesh.tags_of(&region()));
    let tags: Vec<u64> = tags.into_iter().map(|(tag, _)| tag.0).collect();
    let again = feed.mesh_plans.lock().unwrap().is_empty();
    (tags, again)
}

#[tokio::test]
async fn what_is_mended_takes_effect_where_the_view_stands() {
    let right = after(vec![tags(6, &[3], false), mends(6, 4, 1), link(2.0)]).await;
    assert_eq!(right, (vec![2, 3, 4], false));
    // A snapshot that came later has it already.
    let early = after(vec![mends(4, 4, 1), link(2.0)]).await;
    assert_eq!(early, (vec![1, 2], false));
    // Steps are missing before it.
    let late = after(vec![mends(8, 4, 1), link(2.0)]).await;
    assert_eq!(late, (vec![9], true));
}

#[tokio::test]
async fn a_view_that_is_not_what_the_region_sync_has_is_asked_for_again() {
    // Compared is what was marked, whatever came since.
    let step = || tags(6, &[3], false);
    let equal = vec![mark(5), step(), digest(5, &[2, 1]), link(2.0)];
    assert_eq!(after(equal).await, (vec![1, 2, 3], false));
    let differs = vec![mark(5), step(), digest(5, &[1, 2, 3]), link(2.0)];
    assert_eq!(after(differs).await, (vec![9], true));
    // Nothing was marked at that position.
    let unmarked = vec![digest(5, &[7]), mark(4), digest(4, &[7]), link(2.0)];
    assert_eq!(after(unmarked).await, (vec![1, 2], false));
    let behind = vec![mark(6), link(2.0)];
    assert_eq!(after(behind).await, (vec![9], true));
}
