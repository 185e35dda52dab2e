//! A region of nodes on real loopback ports, whose nodes can be stopped, restarted and muted.

use std::{
    future::Future,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use kvmesh_client::channel::{BoxedIo, Connect, Connecting, TcpConnect};
use kvmesh_directory::{
    BlockHash, BlockName, ChangeKind, Checksum, Command, Copy, CopyNumber, Description, Hlc,
    Member, Namespace, NodeId, Part, Policy, RegionId,
    command::{BlockChange, Claim},
};
use kvmesh_process::{Environment, SystemClock, server};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{self, Instant},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{Consensus, MemoryStorage, Settings, Storage};
use crate::directory::SharedDirectory;

/// A bound for whatever a test waits for.
pub(super) fn soon() -> Instant {
    Instant::now() + Duration::from_secs(15)
}

/// Waits until a condition holds.
pub(super) async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let mut tick = time::interval(Duration::from_millis(2));
    let deadline = soon();
    while !holds() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        tick.tick().await;
    }
}

/// Waits until a call gives what is wanted.
pub(super) async fn until_some<T, F>(what: &str, mut call: impl FnMut() -> F) -> T
where
    F: Future<Output = Option<T>>,
{
    let mut tick = time::interval(Duration::from_millis(20));
    let deadline = soon();
    loop {
        if let Some(value) = call().await {
            return value;
        }
        assert!(Instant::now() < deadline, "not in time: {what}");
        tick.tick().await;
    }
}

/// TCP that fails in both directions while it is muted, and how often it was asked to connect.
#[derive(Clone, Default)]
struct Mutable(Arc<AtomicBool>, Arc<AtomicU64>);

struct MutableIo(BoxedIo, Arc<AtomicBool>);

impl MutableIo {
    fn check(&self) -> io::Result<()> {
        if self.1.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        Ok(())
    }
}

impl Connect for Mutable {
    fn connect(&self, address: &str) -> Connecting {
        self.1.fetch_add(1, Ordering::Relaxed);
        let (connecting, muted) = (TcpConnect.connect(address), Arc::clone(&self.0));
        Box::pin(async move {
            let io = MutableIo(connecting.await?, muted);
            io.check()?;
            Ok(BoxedIo::new(io))
        })
    }
}

impl AsyncRead for MutableIo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check()?;
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for MutableIo {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.check()?;
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// One node that runs.
pub(super) struct Running {
    pub(super) consensus: Consensus,
    pub(super) directory: SharedDirectory,
    tasks: TaskTracker,
    stop: CancellationToken,
}

/// One node, whether it runs or not.
pub(super) struct Node {
    pub(super) id: NodeId,
    pub(super) settings: Settings,
    address: SocketAddr,
    muted: Mutable,
    running: Option<Running>,
}

pub(super) struct Region {
    pub(super) name: RegionId,
    pub(super) members: Vec<Member>,
    pub(super) nodes: Vec<Node>,
}

impl Node {
    pub(super) async fn start(&mut self) {
        let (_, incoming) = server::listen(self.address).await.unwrap();
        self.run(incoming).await;
    }

    async fn run(&mut self, incoming: kvmesh_client::channel::Incoming) {
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let directory = SharedDirectory::default();
        let connector = Arc::new(self.muted.clone());
        let environment = Environment::new(connector, Arc::new(SystemClock), "test");
        let consensus = until_some("the store is free", || async {
            Consensus::start(
                self.settings.clone(),
                environment.clone(),
                directory.clone(),
                &tasks,
                stop.clone(),
            )
            .await
            .inspect_err(|error| eprintln!("{error:?}"))
            .ok()
        })
        .await;
        let (routes, served) = (consensus.routes(), stop.clone());
        tasks.spawn(async move {
            let grace = Duration::ZERO;
            let serving = server::serve(routes, environment, incoming, served, grace);
            serving.await.unwrap();
        });
        self.running = Some(Running {
            consensus,
            directory,
            tasks,
            stop,
        });
    }

    pub(super) fn up(&self) -> &Running {
        self.running.as_ref().unwrap()
    }

    /// Forgets all that the node kept.
    pub(super) fn wipe(&mut self) {
        assert!(self.running.is_none(), "stop it first");
        self.settings.storage = Storage::Memory(MemoryStorage::default());
    }

    /// Ends the node; all of its tasks end.
    pub(super) async fn stop(&mut self) {
        let running = self.running.take().unwrap();
        running.stop.cancel();
        running.tasks.close();
        time::timeout(Duration::from_secs(10), running.tasks.wait())
            .await
            .expect("all tasks end");
    }

    /// How often the node has begun to connect to another one.
    pub(super) fn connects(&self) -> u64 {
        self.muted.1.load(Ordering::Relaxed)
    }

    /// Whether what the node itself sends gets through.
    pub(super) fn mute(&self, muted: bool) {
        self.muted.0.store(muted, Ordering::Relaxed);
    }
}

impl Region {
    /// Nodes 1 to `nodes`, of which the first `voters` vote, all running.
    pub(super) async fn new(voters: u64, nodes: u64, adjust: impl Fn(u64, &mut Settings)) -> Self {
        let name: RegionId = "here".parse().unwrap();
        let (mut members, mut listeners) = (Vec::new(), Vec::new());
        for id in 1..=nodes {
            let any = SocketAddr::from(([127, 0, 0, 1], 0));
            let (address, incoming) = server::listen(any).await.unwrap();
            listeners.push((address, incoming));
            members.push(Member {
                node: NodeId(id),
                address: address.to_string(),
                zone: "z".to_owned(),
                weight: 1,
                voter: id <= voters,
            });
        }
        let mut region = Self {
            name,
            members,
            nodes: Vec::new(),
        };
        for (id, (address, incoming)) in (1..).zip(listeners) {
            let storage = Storage::Memory(MemoryStorage::default());
            let members = region.members.clone();
            let mut settings = Settings::new(region.name.clone(), NodeId(id), members, storage);
            adjust(id, &mut settings);
            let mut node = Node {
                id: NodeId(id),
                settings,
                address,
                muted: Mutable::default(),
                running: None,
            };
            node.run(incoming).await;
            region.nodes.push(node);
        }
        region
    }

    /// Starts another node, with an empty store, and lets it join.
    pub(super) async fn join(&mut self, id: u64, voter: bool) {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let (address, incoming) = server::listen(any).await.unwrap();
        let member = Member {
            node: NodeId(id),
            address: address.to_string(),
            zone: "z".to_owned(),
            weight: 1,
            voter,
        };
        self.members.push(member.clone());
        let storage = Storage::Memory(MemoryStorage::default());
        let members = self.members.clone();
        let mut settings = Settings::new(self.name.clone(), NodeId(id), members, storage);
        brisk(id, &mut settings);
        let mut node = Node {
            id: NodeId(id),
            settings,
            address,
            muted: Mutable::default(),
            running: None,
        };
        node.run(incoming).await;
        self.nodes.push(node);
        self.change(Command::JoinNode { member }).await;
        let joined = self.nodes.last().unwrap().up();
        let begun = || joined.consensus.incarnation().is_some();
        until("it has begun", begun).await;
    }

    /// Commits a change of the members, and that all blocks have moved.
    pub(super) async fn change(&self, command: Command) {
        let gone = match &command {
            Command::LeaveNode { node, .. } => *node,
            _ => NodeId(0),
        };
        let mut others = self.running().filter(|node| node.id != gone);
        let running = others.next().unwrap().up();
        running.consensus.propose(command, soon()).await.unwrap();
        let epoch = running.directory.with(|state| state.topology().epoch);
        let finish = Command::FinishMove { epoch };
        running.consensus.propose(finish, soon()).await.unwrap();
    }

    /// Waits until the nodes that run agree that these vote, and nobody else follows but
    /// members.
    pub(super) async fn until_voters(&self, voters: &[u64]) {
        let agree = |node: &Node| {
            let running = node.up();
            let metrics = running.consensus.inner.group.raft.metrics();
            let metrics = metrics.borrow();
            let membership = metrics.membership_config.membership();
            let members = running.directory.with(|state| {
                let members = state.topology().members.iter();
                members.map(|member| member.node.0).collect::<Vec<_>>()
            });
            membership.get_joint_config().len() == 1
                && membership.voter_ids().eq(voters.iter().copied())
                && membership.nodes().map(|(node, _)| *node).eq(members)
        };
        let active = |node: &&Node| node.up().consensus.ended().is_none();
        let deadline = soon();
        let mut tick = time::interval(Duration::from_millis(10));
        while !self.running().filter(active).all(agree) {
            tick.tick().await;
            if Instant::now() < deadline {
                continue;
            }
            for node in self.running() {
                let consensus = &node.up().consensus;
                let metrics = consensus.inner.group.raft.metrics();
                let ended = consensus.ended();
                eprintln!("node {}: {ended:?} {}", node.id, *metrics.borrow());
            }
            panic!("not in time: {voters:?} vote");
        }
    }

    /// Forms the region at node 1, opens a namespace, and waits until every node may serve.
    pub(super) async fn form(&self) {
        let first = &self.nodes[0].up().consensus;
        let formed = first.init_region(self.name.clone(), self.members.clone(), soon());
        formed.await.unwrap();
        let open = Command::OpenNamespace(namespace("ns"));
        first.propose(open, soon()).await.unwrap();
        for node in &self.nodes {
            until("every node may serve", || {
                let consensus = &node.up().consensus;
                consensus.incarnation().is_some() && consensus.lease_valid()
            })
            .await;
        }
    }

    pub(super) fn running(&self) -> impl Iterator<Item = &Node> {
        self.nodes.iter().filter(|node| node.running.is_some())
    }

    /// The place of the running node that leads.
    pub(super) async fn leader(&self) -> usize {
        let leads = |node: &Node| {
            let running = node.running.as_ref();
            running.is_some_and(|running| running.consensus.leads())
        };
        until("a node leads", || self.nodes.iter().any(leads)).await;
        self.nodes.iter().position(leads).unwrap()
    }

    /// Waits until all running nodes have applied the same, and compares it all.
    pub(super) async fn assert_equal(&self) {
        let applied = |node: &Node| *node.up().directory.applied().borrow();
        until("all nodes have applied the same", || {
            let mut indexes = self.running().map(applied);
            let first = indexes.next();
            indexes.all(|index| Some(index) == first)
        })
        .await;
        let states: Vec<_> = self
            .running()
            .map(|node| node.up().directory.freeze())
            .collect();
        for state in &states[1..] {
            assert_eq!(state.head(), states[0].head());
            assert!(state.entries().eq(states[0].entries()));
            assert!(state.tombstones().eq(states[0].tombstones()));
        }
    }
}

pub(super) fn namespace(alias: &str) -> Namespace {
    let description = Description {
        model: "m".to_owned(),
        dtype: "bf16".to_owned(),
        layout: "l".to_owned(),
        block_tokens: 16,
        hash_width: 32,
        short_hashes: false,
        shard_count: 1,
        group_count: 1,
        tenant: "t".to_owned(),
        salt: Vec::new(),
        residency: Vec::new(),
    };
    Namespace {
        id: description.id(),
        name: alias.to_owned(),
        description,
        policy: Policy::default(),
        generation: Hlc(0),
        policy_hlc: Hlc(1),
        policy_region: "here".parse().unwrap(),
    }
}

pub(super) fn name(block: u64) -> BlockName {
    let mut hash = [0; 32];
    hash[..8].copy_from_slice(&block.to_be_bytes());
    BlockName {
        namespace: namespace("ns").id,
        hash: BlockHash(hash),
        part: Part::default(),
    }
}

/// A node's claim of its copy of a block.
pub(super) fn claim(node: &Node, block: u64) -> BlockChange {
    let incarnation = node.up().consensus.incarnation().unwrap();
    let copy = Copy {
        node: node.id,
        incarnation,
        copy: CopyNumber(block + 1),
    };
    BlockChange {
        name: name(block),
        kind: ChangeKind::Claim(Claim {
            put_hlc: Hlc(1_000),
            checksum: Checksum([1; 16]),
            bytes: 1 << 20,
            depth: 0,
            replicas: 1,
            copies: vec![copy],
        }),
    }
}

/// Fast enough for tests, slow enough for a busy machine.
pub(super) fn brisk(_: u64, settings: &mut Settings) {
    settings.heartbeat = Duration::from_millis(150);
    settings.election_min = Duration::from_millis(600);
    settings.election_max = Duration::from_millis(1_200);
    settings.report_interval = Duration::from_millis(50);
    settings.serve_lease = Duration::from_secs(2);
    settings.suspect_after = Duration::from_millis(500);
    settings.dead_after = Duration::from_millis(1_500);
}
