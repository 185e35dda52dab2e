//! The directory of a fake region, and everything that was asked of it.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use kvmesh_client::channel::Incoming;
use kvmesh_directory::{
    Command, DirectoryState, Event, FeedPosition, LogIncarnation, Member, NodeId, Outcome,
    RegionId, limits::FEATURE_LEVEL,
};
use kvmesh_process::server;
use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::rpc;

/// One applied command.
pub(crate) struct Step {
    pub(crate) index: u64,
    pub(crate) command: Command,
    pub(crate) events: Vec<Event>,
}

/// A region of one node, which is its gateway as well.
pub(crate) struct FakeRegion {
    pub(crate) name: RegionId,
    pub(crate) address: SocketAddr,
    pub(crate) state: Mutex<DirectoryState>,
    pub(crate) steps: Mutex<Vec<Arc<Step>>>,
    pub(crate) applied: watch::Sender<u64>,
    /// Commands of other processes, in order.
    pub(crate) asked: Mutex<Vec<Command>>,
    /// How often a feed was begun with a snapshot, and how often it was resumed.
    pub(crate) begun: Mutex<(u32, u32)>,
    /// Other regions of which its gateway can be asked to bring blocks.
    pub(crate) sources: Mutex<Vec<Arc<FakeRegion>>>,
    /// Blocks of each such call.
    pub(crate) brought: Mutex<Vec<usize>>,
    /// So many such calls more run out of time before they bring anything.
    pub(crate) late: AtomicU32,
    /// Log entries of which its `MESH` feed says nothing but their position.
    pub(crate) loses: Mutex<BTreeSet<u64>>,
    /// Who follows from before this index gets a snapshot.
    pub(crate) kept_from: AtomicU64,
    /// Whether it knows how to compare, how often it was asked for a digest, and the number of
    /// ranges each time that it was asked for blocks.
    pub(crate) compares: AtomicBool,
    pub(crate) digests: AtomicU32,
    /// How often its namespaces and deleted names were read.
    pub(crate) objects: AtomicU32,
    pub(crate) ranges: Mutex<Vec<usize>>,
    refuses: AtomicBool,
    streams: Mutex<CancellationToken>,
    stop: CancellationToken,
    pub(crate) tasks: TaskTracker,
}

impl FakeRegion {
    /// Initialised, with one node, on a free port of loopback.
    pub(crate) async fn start(name: &str) -> Arc<Self> {
        Self::start_at(name, 1).await
    }

    /// As [`Self::start`], with a log of its own.
    pub(crate) async fn start_at(name: &str, log: u64) -> Arc<Self> {
        let listening = server::listen(([127, 0, 0, 1], 0).into()).await.unwrap();
        Self::start_with(name, log, listening)
    }

    /// As [`Self::start`], where another one served before.
    pub(crate) async fn start_on(name: &str, port: u16) -> Arc<Self> {
        let listening = async {
            loop {
                match server::listen(([127, 0, 0, 1], port).into()).await {
                    Ok(listening) => return listening,
                    Err(_) => tokio::task::yield_now().await,
                }
            }
        };
        let listening = tokio::time::timeout(Duration::from_secs(20), listening).await;
        Self::start_with(name, 1, listening.unwrap())
    }

    fn start_with(name: &str, log: u64, (address, incoming): (SocketAddr, Incoming)) -> Arc<Self> {
        let region = Arc::new(Self {
            name: name.parse().unwrap(),
            address,
            state: Mutex::new(DirectoryState::empty()),
            steps: Mutex::default(),
            applied: watch::Sender::new(0),
            asked: Mutex::default(),
            begun: Mutex::default(),
            sources: Mutex::default(),
            brought: Mutex::default(),
            late: AtomicU32::new(0),
            loses: Mutex::default(),
            kept_from: AtomicU64::new(0),
            compares: AtomicBool::new(true),
            digests: AtomicU32::new(0),
            objects: AtomicU32::new(0),
            ranges: Mutex::default(),
            refuses: AtomicBool::new(false),
            streams: Mutex::default(),
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
        });
        region.apply(Command::InitRegion {
            region: region.name.clone(),
            log_incarnation: LogIncarnation(log),
            members: vec![Member {
                node: NodeId(1),
                address: address.to_string(),
                zone: String::new(),
                weight: 1,
                voter: true,
            }],
            feature_level: FEATURE_LEVEL,
        });
        let node = NodeId(1);
        region.apply(Command::BeginIncarnation {
            node,
            nonce: 1,
            store: 0,
            level: kvmesh_directory::limits::FEATURE_LEVEL,
        });
        let routes = rpc::routes(&region);
        let stop = region.stop.clone();
        region.tasks.spawn(async move {
            let environment = kvmesh_process::Environment::real("test");
            let serving = server::serve(routes, environment, incoming, stop, Duration::ZERO);
            serving.await.unwrap();
        });
        region
    }

    /// Applies a command of the region itself.
    pub(crate) fn apply(&self, command: Command) -> (FeedPosition, Outcome) {
        let mut state = self.state.lock().unwrap();
        let index = state.applied_index() + 1;
        let (outcome, events) = state.apply(index, &command);
        let position = state.position().unwrap();
        drop(state);
        self.steps.lock().unwrap().push(Arc::new(Step {
            index,
            command,
            events,
        }));
        self.applied.send_replace(index);
        (position, outcome)
    }

    pub(crate) fn position(&self) -> FeedPosition {
        self.state.lock().unwrap().position().unwrap()
    }

    /// Where it stands in another region's feed.
    pub(crate) fn stands_at(&self, region: &str) -> Option<FeedPosition> {
        let state = self.state.lock().unwrap();
        state.remote_position(&region.parse().unwrap()).cloned()
    }

    /// Applies a command of which its feed says nothing.
    pub(crate) fn apply_unsaid(&self, command: Command) -> FeedPosition {
        let index = self.position().index + 1;
        self.loses.lock().unwrap().insert(index);
        self.apply(command).0
    }

    /// Whether commands of others are refused from now on.
    pub(crate) fn refuse(&self, refuses: bool) {
        self.refuses.store(refuses, Ordering::Relaxed);
    }

    pub(crate) fn refuses(&self) -> bool {
        self.refuses.load(Ordering::Relaxed)
    }

    /// Breaks every stream that goes on.
    pub(crate) fn break_streams(&self) {
        let mut streams = self.streams.lock().unwrap();
        std::mem::take(&mut *streams).cancel();
    }

    pub(crate) fn streams(&self) -> CancellationToken {
        self.streams.lock().unwrap().clone()
    }

    /// Ends its server.
    pub(crate) fn end(&self) {
        self.stop.cancel();
        self.break_streams();
    }
}
