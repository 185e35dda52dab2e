//! A region of real nodes in this process: how it starts, changes and is looked at.

use std::{collections::BTreeMap, sync::Mutex, time::Duration};

use bytes::Bytes;
use kvmesh_client::{
    ToWire,
    channel::{Channel, Channels, TcpConnect},
};
use kvmesh_directory::{Command, Description, limits::MESSAGE_BYTES_MAX};
use kvmesh_node::{
    MemberSetting, Settings,
    consensus::{MemoryStorage, Storage},
};
use kvmesh_process::{
    Environment, server,
    settings::{Live, live::Changer},
};
use kvmesh_proto::v1::{
    self as wire, cache_client::CacheClient, consensus_client::ConsensusClient,
    feed_client::FeedClient, topology_client::TopologyClient,
};
use tokio::time::{Instant, interval};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::Status;

pub(crate) const WIDTH: u32 = 16;
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct Region {
    pub(crate) settings: Vec<Settings>,
    changers: Mutex<BTreeMap<usize, Changer<Settings>>>,
    stops: Vec<CancellationToken>,
    storages: Vec<MemoryStorage>,
    tasks: TaskTracker,
    channels: Channels,
    pub(crate) namespace: Bytes,
    /// By which puts choose their nodes.
    pub(crate) epoch: u64,
}

/// Ends the nodes with the test, also when it fails.
impl Drop for Region {
    fn drop(&mut self) {
        self.stops.iter().for_each(CancellationToken::cancel);
    }
}

fn fast(settings: &mut Settings) {
    settings.raft_heartbeat_ms = 100;
    settings.election_min_ms = 500;
    settings.election_max_ms = 1_000;
    settings.report_ms = 50;
    settings.suspect_after_ms = 2_000;
    settings.serve_lease_ms = 3_000;
    settings.dead_after_ms = 5_000;
    settings.memory_bytes = 64 << 20;
    settings.memory_ahead_bytes = 4 << 20;
    settings.shutdown_grace_ms = 1_000;
    settings.put_deadline_ms = 20_000;
}

impl Region {
    /// Nodes that listen, not initialised.
    pub(crate) async fn listening(nodes: usize, change: impl Fn(&mut Settings)) -> Self {
        let mut incoming = Vec::new();
        let mut members = Vec::new();
        for node in 1..=nodes as u64 {
            let (address, connections) = server::listen(([127, 0, 0, 1], 0).into()).await.unwrap();
            incoming.push((address, connections));
            members.push(MemberSetting {
                node,
                address: address.to_string(),
                zone: String::new(),
                weight: 1,
                voter: true,
            });
        }
        let mut region = Self {
            settings: Vec::new(),
            changers: Mutex::default(),
            stops: Vec::new(),
            storages: Vec::new(),
            tasks: TaskTracker::new(),
            channels: Channels::new(std::sync::Arc::new(TcpConnect)),
            namespace: Bytes::new(),
            epoch: 1,
        };
        for (at, (address, connections)) in incoming.into_iter().enumerate() {
            let mut settings = Settings {
                region: "us-east".to_owned(),
                node: at as u64 + 1,
                listen: address,
                members: members.clone(),
                ..Settings::default()
            };
            fast(&mut settings);
            change(&mut settings);
            region.settings.push(settings);
            region.stops.push(CancellationToken::new());
            region.storages.push(MemoryStorage::default());
            region.run(at, connections);
        }
        region
    }

    fn run(&self, at: usize, connections: kvmesh_client::channel::Incoming) {
        let (changer, settings) = Live::new(self.settings[at].clone());
        self.changers.lock().unwrap().insert(at, changer);
        let environment = Environment::real(&format!("us-east/node-{}", at + 1));
        let storage = Storage::Memory(self.storages[at].clone());
        let stop = self.stops[at].clone();
        self.tasks.spawn(async move {
            kvmesh_node::serve_with(settings, environment, storage, connections, stop)
                .await
                .unwrap();
        });
    }

    /// An initialised region with an open namespace, all nodes alive and serving.
    pub(crate) async fn start(nodes: usize) -> Self {
        Self::start_with(nodes, |_| {}).await
    }

    pub(crate) async fn start_with(nodes: usize, change: impl Fn(&mut Settings)) -> Self {
        let mut region = Self::listening(nodes, change).await;
        let init = wire::InitRegionRequest {};
        region.topology(0).init_region(init).await.unwrap();
        region.all_alive().await;
        region.namespace = region.open(0, "test").await.unwrap().namespace.unwrap().id;
        for node in 0..nodes {
            let region = &region;
            until(async || region.namespaces(node).await == 1).await;
            until(async || region.serves(node).await).await;
        }
        region
    }

    /// Whether a node has a serve lease: without it, everything is a miss.
    async fn serves(&self, node: usize) -> bool {
        let request = wire::LookupRequest {
            namespace_id: self.namespace.clone(),
            ..Default::default()
        };
        let found = self.cache(node).lookup(request).await;
        found.is_ok_and(|found| found.into_inner().age_ms == 0)
    }

    async fn namespaces(&self, node: usize) -> u64 {
        self.stats(node).await.namespaces
    }

    pub(crate) async fn all_alive(&self) {
        for node in 0..self.settings.len() {
            until(async || {
                let shown = self.topology(node).show(wire::ShowRequest {}).await;
                shown.is_ok_and(|shown| {
                    let nodes = shown.into_inner().nodes;
                    let alive = |node: &wire::NodeStatus| node.state() == wire::NodeState::Alive;
                    !nodes.is_empty() && nodes.iter().all(alive)
                })
            })
            .await;
        }
    }

    /// Starts one more node, which joins through one that is there. Returns its index.
    pub(crate) async fn join(&mut self, through: usize, change: impl Fn(&mut Settings)) -> usize {
        let (address, connections) = server::listen(([127, 0, 0, 1], 0).into()).await.unwrap();
        let at = self.settings.len();
        let mut settings = Settings {
            region: "us-east".to_owned(),
            node: at as u64 + 1,
            listen: address,
            join: vec![self.settings[through].listen.to_string()],
            ..Settings::default()
        };
        fast(&mut settings);
        change(&mut settings);
        self.settings.push(settings);
        self.stops.push(CancellationToken::new());
        self.storages.push(MemoryStorage::default());
        self.run(at, connections);
        at
    }

    /// Runs something else that ends with the region.
    pub(crate) fn beside<F: Future<Output = ()> + Send + 'static>(
        &mut self,
        serve: impl FnOnce(CancellationToken) -> F,
    ) {
        let stop = CancellationToken::new();
        self.tasks.spawn(serve(stop.clone()));
        self.stops.push(stop);
    }

    /// Changes settings of a node that runs.
    pub(crate) fn change(&self, node: usize, change: impl FnOnce(&mut Settings)) {
        let mut settings = self.settings[node].clone();
        change(&mut settings);
        self.changers.lock().unwrap()[&node].change(settings);
    }

    /// The topology as one node has it.
    pub(crate) async fn shown(&self, node: usize) -> wire::ShowResponse {
        let shown = self.topology(node).show(wire::ShowRequest {}).await;
        shown.unwrap().into_inner()
    }

    /// Ends a node and all that it holds, but for its log.
    pub(crate) fn stop(&self, node: usize) {
        self.stops[node].cancel();
    }

    /// Starts a node again that was stopped, on its old address.
    pub(crate) async fn restart(&mut self, node: usize) {
        let address = self.settings[node].listen;
        let began = Instant::now();
        let mut ticks = interval(Duration::from_millis(20));
        let connections = loop {
            ticks.tick().await;
            match server::listen(address).await {
                Ok((_, connections)) => break connections,
                Err(error) => assert!(began.elapsed() < PATIENCE, "{error}"),
            }
        };
        self.stops[node] = CancellationToken::new();
        self.run(node, connections);
    }

    pub(crate) fn channel(&self, node: usize) -> Channel {
        let address = self.settings[node].listen.to_string();
        self.channels.to(&address).unwrap()
    }

    pub(crate) fn cache(&self, node: usize) -> CacheClient<Channel> {
        CacheClient::new(self.channel(node))
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX)
    }

    pub(crate) fn topology(&self, node: usize) -> TopologyClient<Channel> {
        TopologyClient::new(self.channel(node))
    }

    pub(crate) fn feed(&self, node: usize) -> FeedClient<Channel> {
        FeedClient::new(self.channel(node)).max_decoding_message_size(MESSAGE_BYTES_MAX)
    }

    /// Proposes a command as another process of the region would.
    pub(crate) async fn propose(&self, node: usize, command: &Command) {
        let request = wire::ProposeRequest {
            command: Some(command.to_wire()),
            forwarded: false,
        };
        let mut client = ConsensusClient::new(self.channel(node));
        client.propose(request).await.unwrap();
    }

    /// A node's start, as another one knows it.
    pub(crate) async fn incarnation(&self, node: usize) -> u64 {
        let shown = self.topology(0).show(wire::ShowRequest {}).await.unwrap();
        shown.into_inner().nodes[node].incarnation
    }

    pub(crate) async fn stats(&self, node: usize) -> wire::StatsResponse {
        let stats = self.topology(node).stats(wire::StatsRequest {}).await;
        stats.unwrap().into_inner()
    }

    pub(crate) async fn open(&self, node: usize, name: &str) -> Result<wire::OpenResponse, Status> {
        let request = wire::OpenRequest {
            description: Some(description(name).to_wire()),
            name: name.to_owned(),
            template: String::new(),
        };
        Ok(self.cache(node).open(request).await?.into_inner())
    }

    /// Owners of a block and who holds it, as indexes of nodes, by the view of a node.
    pub(crate) async fn locate(&self, node: usize, number: u64) -> (Vec<usize>, Vec<usize>) {
        let request = wire::LocateRequest {
            namespace_id: self.namespace.clone(),
            chain: self.chain([number]),
            ..Default::default()
        };
        let located = self.cache(node).locate(request).await.unwrap().into_inner();
        let indexes = |raw: &[u32]| raw.iter().map(|at| *at as usize).collect();
        let block = &located.blocks[0];
        (indexes(&block.owners), indexes(&block.holders))
    }
}

pub(crate) fn description(model: &str) -> Description {
    Description {
        model: model.to_owned(),
        dtype: "bf16".to_owned(),
        layout: "plain".to_owned(),
        block_tokens: 16,
        hash_width: WIDTH,
        short_hashes: false,
        shard_count: 1,
        group_count: 1,
        tenant: String::new(),
        salt: Vec::new(),
        residency: Vec::new(),
    }
}

/// Waits for a condition, bounded.
pub(crate) async fn until(condition: impl AsyncFn() -> bool) {
    let began = Instant::now();
    let mut ticks = interval(Duration::from_millis(20));
    while !condition().await {
        assert!(
            began.elapsed() < PATIENCE,
            "the condition was not met in time"
        );
        ticks.tick().await;
    }
}
