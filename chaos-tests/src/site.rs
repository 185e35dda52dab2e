//! One region of real processes whose nodes come and go.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use kvmesh_client::{
    Client,
    channel::{Channels, TcpConnect},
};
use kvmesh_node::MemberSetting;

use crate::{
    mesh::ports,
    operator::Operator,
    poll,
    process::Process,
    programs,
    rpc::{self, Seen},
};

/// The region's name.
pub(crate) const REGION: &str = "us-east";
const GATEWAYS: usize = 2;
/// Nodes that there may ever be.
const NODES_MAX: usize = 12;
const NODE_MEMORY_BYTES: u64 = 1 << 30;
/// From the start of the first process until the region is made.
const READY_BOUND: Duration = Duration::from_secs(60);

/// How a node comes to its region.
pub(crate) enum Comes {
    /// It is one of the first.
    First,
    /// It asks, through these members.
    Asks(Vec<String>),
    /// It waits until an operator makes it a member.
    Waits,
}

/// A node that is, or was, a member.
pub(crate) struct Node {
    pub(crate) process: Process,
    pub(crate) listen: String,
    raft_dir: PathBuf,
}

/// See the module. The processes end when it is dropped.
pub(crate) struct Site {
    /// By number.
    pub(crate) nodes: BTreeMap<u64, Node>,
    pub(crate) gateways: Vec<Process>,
    pub(crate) operator: Operator,
    doors: Vec<String>,
    first: Vec<MemberSetting>,
    addresses: Vec<String>,
    /// Of gateways, where it is another than usual.
    owner_timeout_ms: Option<u64>,
    programs: PathBuf,
    folder: PathBuf,
    channels: Channels,
}

impl Site {
    /// Starts the first nodes, of which so many vote, and the gateways, and makes the region.
    pub(crate) async fn start(folder: &Path, nodes: u64, voters: u64) -> Result<Self> {
        Self::start_with(folder, (nodes, voters), None).await
    }

    /// As [`Self::start`], all nodes vote, and gateways give up no owner that is only slow.
    pub(crate) async fn patient(folder: &Path, nodes: u64) -> Result<Self> {
        Self::start_with(folder, (nodes, nodes), Some(30_000)).await
    }

    async fn start_with(
        folder: &Path,
        (nodes, voters): (u64, u64),
        owner_timeout_ms: Option<u64>,
    ) -> Result<Self> {
        let programs = programs::folder()?;
        let mut addresses = ports::free(2 * NODES_MAX + 2 * GATEWAYS)?;
        let mut site = Self {
            nodes: BTreeMap::new(),
            gateways: Vec::new(),
            operator: Operator::plain(programs.join("meshctl")),
            doors: addresses.split_off(2 * NODES_MAX),
            first: Vec::new(),
            addresses,
            owner_timeout_ms,
            programs,
            folder: folder.to_owned(),
            channels: Channels::new(Arc::new(TcpConnect)),
        };
        let member = |node: u64| MemberSetting {
            node,
            address: site.addresses[2 * (node as usize - 1)].clone(),
            zone: zone(node),
            weight: 1,
            voter: node <= voters,
        };
        site.first = (1..=nodes).map(member).collect();
        for node in 1..=nodes {
            site.add(node, Comes::First)?;
            site.node(node)?.process.start().await?;
        }
        site.make().await?;
        for gateway in 0..GATEWAYS {
            let mut process = site.gateway(gateway)?;
            process.start().await?;
            site.gateways.push(process);
        }
        Ok(site)
    }

    /// An operator makes the region, once.
    async fn make(&mut self) -> Result<()> {
        let first = self.address(1)?;
        let made = ["region", "init", "--node", &first];
        self.operator.json(&made).await?;
        let count = self.first.len();
        poll::until("the start of all nodes", READY_BOUND, async || {
            let seen = self.see(1).await?;
            let alive = seen.nodes.iter().filter(|(_, _, alive)| *alive).count();
            ensure!(alive == count, "{alive} of {count} nodes have begun");
            Ok(())
        })
        .await?;
        let again = "initialised already";
        self.operator.refused(&made, again).await
    }

    /// Notes a node, and writes its settings; does not start it.
    pub(crate) fn add(&mut self, number: u64, comes: Comes) -> Result<()> {
        let [listen, metrics] =
            [0, 1].map(|at| self.addresses[2 * (number as usize - 1) + at].clone());
        let (members, join) = match comes {
            Comes::First => (self.first.clone(), Vec::new()),
            Comes::Asks(join) => (Vec::new(), join),
            Comes::Waits => (Vec::new(), Vec::new()),
        };
        let raft_dir = self.folder.join(format!("node-{number}-raft"));
        let settings = kvmesh_node::Settings {
            region: REGION.to_owned(),
            node: number,
            zone: zone(number),
            listen: listen.parse()?,
            metrics_listen: metrics.parse()?,
            memory_bytes: NODE_MEMORY_BYTES,
            raft_dir: raft_dir.clone(),
            raft_reserve: 0,
            members,
            join,
            ..kvmesh_node::Settings::default()
        };
        let process = self.process(
            &format!("node-{number}"),
            "kvmesh-node",
            &toml::to_string(&settings)?,
        )?;
        let node = Node {
            process,
            listen,
            raft_dir,
        };
        self.nodes.insert(number, node);
        Ok(())
    }

    /// A process that would be a node under a number that is taken.
    pub(crate) fn impostor(&self, number: u64, through: String) -> Result<Process> {
        let free = self.addresses.len() - 2;
        let settings = kvmesh_node::Settings {
            region: REGION.to_owned(),
            node: number,
            listen: self.addresses[free].parse()?,
            metrics_listen: self.addresses[free + 1].parse()?,
            memory_bytes: NODE_MEMORY_BYTES,
            raft_dir: self.folder.join("impostor-raft"),
            raft_reserve: 0,
            join: vec![through],
            ..kvmesh_node::Settings::default()
        };
        self.process("impostor", "kvmesh-node", &toml::to_string(&settings)?)
    }

    fn gateway(&self, gateway: usize) -> Result<Process> {
        let nodes = self.first.iter().map(|member| member.address.clone());
        let usual = kvmesh_gateway::Settings::default();
        let settings = kvmesh_gateway::Settings {
            region: REGION.to_owned(),
            owner_timeout_ms: self.owner_timeout_ms.unwrap_or(usual.owner_timeout_ms),
            listen: self.doors[2 * gateway].parse()?,
            metrics_listen: self.doors[2 * gateway + 1].parse()?,
            nodes: nodes.collect(),
            ..usual
        };
        let name = format!("gateway-{}", gateway + 1);
        self.process(&name, "kvmesh-gateway", &toml::to_string(&settings)?)
    }

    fn process(&self, name: &str, program: &str, settings: &str) -> Result<Process> {
        let program = self.programs.join(program);
        Process::new(name.to_owned(), program, &self.folder, settings)
    }

    pub(crate) fn node(&mut self, number: u64) -> Result<&mut Node> {
        let node = self.nodes.get_mut(&number);
        node.with_context(|| format!("there is no node {number}"))
    }

    /// Where a node listens.
    pub(crate) fn address(&self, number: u64) -> Result<String> {
        let node = self.nodes.get(&number);
        let node = node.with_context(|| format!("there is no node {number}"))?;
        Ok(node.listen.clone())
    }

    /// A node that is not this one.
    pub(crate) fn other(&self, number: u64) -> Result<u64> {
        let other = self.nodes.keys().find(|node| **node != number);
        other.copied().context("there is no other node")
    }

    /// What was kept of a node's log is lost.
    pub(crate) fn wipe(&mut self, number: u64) -> Result<()> {
        let node = self.node(number)?;
        fs::remove_dir_all(&node.raft_dir).context("the Raft store cannot be removed")
    }

    /// A client whose blocks go through gateways, this one first, with channels of its own.
    pub(crate) fn client_through(&self, first: usize) -> Result<Client> {
        let channels = Channels::new(Arc::new(TcpConnect));
        Ok(Client::connect_through(self.gateways(first), channels)?)
    }

    /// A client that asks this gateway first, with channels of its own.
    pub(crate) fn client(&self, first: usize) -> Result<Client> {
        let channels = Channels::new(Arc::new(TcpConnect));
        Ok(Client::connect(self.gateways(first), channels)?)
    }

    fn gateways(&self, first: usize) -> Vec<String> {
        let doors = (0..GATEWAYS).map(|at| self.doors[2 * ((first + at) % GATEWAYS)].clone());
        doors.collect()
    }

    /// Where the gateways show their metrics.
    pub(crate) fn gateway_metrics(&self) -> impl Iterator<Item = &str> {
        self.doors.iter().skip(1).step_by(2).map(String::as_str)
    }

    /// Whether a gateway takes calls.
    pub(crate) async fn gateway_serves(&self, gateway: usize) -> Result<()> {
        let asked = ["health", &self.doors[2 * gateway]];
        let ran = self.operator.run(&asked).await?;
        ensure!(ran.code == 0, "it does not serve: {ran:?}");
        Ok(())
    }

    /// What a node sees.
    pub(crate) async fn see(&self, number: u64) -> Result<Seen> {
        let seen = rpc::see(&self.channels, &self.address(number)?).await;
        seen.with_context(|| format!("node {number} does not answer"))
    }

    /// Waits until every node here lives, knows the same, nothing moves and nothing lacks a copy.
    pub(crate) async fn whole(&self, why: &str, bound: Duration) -> Result<()> {
        let what = format!("being whole after {why}");
        poll::until(&what, bound, async || {
            let (mut goal, mut members) = (0, Vec::new());
            for number in self.nodes.keys() {
                let seen = self.see(*number).await?;
                let lacking = seen.under_replicated;
                ensure!(
                    lacking == 0,
                    "{lacking} blocks lack copies at node {number}"
                );
                ensure!(!seen.moving, "blocks move still, as node {number} knows");
                if goal == 0 {
                    (goal, members) = (seen.applied, seen.nodes);
                    let alive = members.iter().filter(|(_, _, alive)| *alive);
                    let alive: Vec<u64> = alive.map(|(node, _, _)| *node).collect();
                    ensure!(alive.iter().eq(self.nodes.keys()), "{alive:?} are alive");
                } else {
                    let applied = seen.applied;
                    ensure!(applied >= goal, "node {number} is at {applied} of {goal}");
                    ensure!(seen.nodes == members, "node {number} knows other members");
                }
            }
            Ok(())
        })
        .await
    }

    /// Whether every process that should run does.
    pub(crate) fn check(&mut self) -> Result<()> {
        let nodes = self.nodes.values_mut().map(|node| &mut node.process);
        nodes.chain(&mut self.gateways).try_for_each(Process::check)
    }
}

fn zone(node: u64) -> String {
    format!("zone-{node}")
}
