//! Three nodes' consensus in this process, over loopback, each with its log on disk.

use std::{net::SocketAddr, path::Path, time::Duration};

use futures::{StreamExt, stream};
use kvmesh_directory::{
    ChangeOutcome, Command, Copy, CopyNumber, Member, Namespace, NodeId, RegionId,
    command::BlockChange,
};
use kvmesh_node::{
    consensus::{Consensus, Settings, Storage},
    directory::SharedDirectory,
};
use kvmesh_process::{Environment, server};
use tokio::time::{self, Instant};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::rows::{claim, name, namespace};

pub(super) const NODES: usize = 3;
/// Of a block's number, below it the count of the node's own blocks.
const NODE_SHIFT: u32 = 40;
const SOON: Duration = Duration::from_secs(30);

struct Node {
    id: NodeId,
    consensus: Consensus,
    directory: SharedDirectory,
}

pub(super) struct Region {
    nodes: Vec<Node>,
    namespace: Namespace,
    tasks: TaskTracker,
    stop: CancellationToken,
}

/// What a run came to.
pub(super) struct Done {
    pub(super) rate: f64,
    pub(super) entries: u64,
    pub(super) p50_ms: f64,
    pub(super) p99_ms: f64,
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let mut tick = time::interval(Duration::from_millis(5));
    let deadline = Instant::now() + SOON;
    while !holds() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        tick.tick().await;
    }
}

impl Region {
    /// Formed, with a namespace, and every node may serve.
    pub(super) async fn start(dir: &Path) -> Self {
        let region: RegionId = "bench".parse().expect("a region's name");
        let (mut members, mut listeners) = (Vec::new(), Vec::new());
        for node in (1..=NODES as u64).map(NodeId) {
            let any = SocketAddr::from(([127, 0, 0, 1], 0));
            let (address, incoming) = server::listen(any).await.expect("a port is free");
            listeners.push(incoming);
            members.push(Member {
                node,
                address: address.to_string(),
                zone: String::new(),
                weight: 1,
                voter: true,
            });
        }
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let mut nodes = Vec::new();
        for (member, incoming) in members.iter().zip(listeners) {
            let (id, directory) = (member.node, SharedDirectory::default());
            let storage = Storage::Directory(dir.join(id.to_string()));
            let settings = Settings::new(region.clone(), id, members.clone(), storage);
            let environment = Environment::real(&format!("bench/node-{id}"));
            let started = Consensus::start(
                settings,
                environment.clone(),
                directory.clone(),
                &tasks,
                stop.clone(),
            );
            let consensus = started.await.expect("the store opens");
            let routes = consensus.routes();
            let served = server::serve(routes, environment, incoming, stop.clone(), SOON);
            tasks.spawn(served);
            nodes.push(Node {
                id,
                consensus,
                directory,
            });
        }
        let namespace = namespace();
        let (first, deadline) = (&nodes[0].consensus, Instant::now() + SOON);
        let formed = first.init_region(region, members, deadline);
        formed.await.expect("the region is formed");
        let open = Command::OpenNamespace(namespace.clone());
        first.propose(open, deadline).await.expect("it is opened");
        for node in &nodes {
            let consensus = &node.consensus;
            until("every node may serve", || {
                consensus.incarnation().is_some() && consensus.lease_valid()
            })
            .await;
        }
        Self {
            nodes,
            namespace,
            tasks,
            stop,
        }
    }

    pub(super) async fn leader(&self) -> usize {
        let leads = |node: &Node| node.consensus.leads();
        until("a node leads", || self.nodes.iter().any(leads)).await;
        self.nodes.iter().position(leads).expect("one leads")
    }

    /// Submits claims at one node, so many at a time, and waits for all of them.
    pub(super) async fn commit(&self, at: usize, descriptors: u64, open: usize) -> Done {
        let node = &self.nodes[at];
        let index = || node.directory.with(|state| state.applied_index());
        let (before, began) = (index(), Instant::now());
        let submit = |number| async move {
            let sent = Instant::now();
            let change = vec![self.claim(node, number)];
            let submitted = node.consensus.submit(change, sent + SOON).await;
            let (_, outcomes) = submitted.expect("it is committed");
            assert_eq!(outcomes, [ChangeOutcome::Accepted]);
            sent.elapsed()
        };
        let submits = stream::iter(0..descriptors).map(submit);
        let mut times: Vec<Duration> = submits.buffer_unordered(open).collect().await;
        let took = began.elapsed();
        times.sort_unstable();
        let millis = |part: f64| {
            let at = (times.len() as f64 * part) as usize;
            times[at.min(times.len() - 1)].as_secs_f64() * 1e3
        };
        Done {
            rate: descriptors as f64 / took.as_secs_f64(),
            entries: index() - before,
            p50_ms: millis(0.5),
            p99_ms: millis(0.99),
        }
    }

    fn claim(&self, node: &Node, number: u64) -> BlockChange {
        let copy = Copy {
            node: node.id,
            incarnation: node.consensus.incarnation().expect("it has begun"),
            copy: CopyNumber(number + 1),
        };
        // Blocks of another node are others.
        let number = node.id.0 << NODE_SHIFT | number;
        claim(name(self.namespace.id, number), number, vec![copy])
    }

    pub(super) async fn stop(self) {
        self.stop.cancel();
        self.tasks.close();
        let ended = time::timeout(SOON, self.tasks.wait()).await;
        ended.expect("all tasks end");
    }
}
