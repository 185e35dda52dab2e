//! A region of one node and its gateway: real processes.

use std::{path::Path, sync::Arc, time::Duration};

use anyhow::{Result, ensure};
use kvmesh_client::{
    Client,
    channel::{Channels, TcpConnect},
    client::Opened,
};
use kvmesh_directory::Description;

use crate::{mesh::ports, operator::Operator, poll, process::Process, programs, rpc};

const READY_BOUND: Duration = Duration::from_secs(60);
/// At least. Small: what is on disk as well is not all served from it.
const MEMORY_BYTES: u64 = 256 << 20;
/// A region of one has no rival: an election need not be waited for.
const HEARTBEAT_MS: u64 = 50;
const ELECTION_MS: (u64, u64) = (150, 300);

/// See the module. The processes end when it is dropped.
pub(crate) struct Lone {
    pub(crate) node: Process,
    _gateway: Process,
    listen: String,
    pub(crate) metrics: String,
    channels: Channels,
    pub(crate) opened: Opened,
}

impl Lone {
    /// Starts them, makes the region and opens a namespace of one replica. `own` says where the
    /// node keeps what it keeps, and how much.
    pub(crate) async fn start(
        folder: &Path,
        own: kvmesh_node::Settings,
        description: &Description,
    ) -> Result<Self> {
        let programs = programs::folder()?;
        let addresses = ports::free(4)?;
        let node = kvmesh_node::Settings {
            region: "us-east".to_owned(),
            node: 1,
            listen: addresses[0].parse()?,
            metrics_listen: addresses[1].parse()?,
            memory_bytes: own.memory_bytes.max(MEMORY_BYTES),
            raft_heartbeat_ms: HEARTBEAT_MS,
            election_min_ms: ELECTION_MS.0,
            election_max_ms: ELECTION_MS.1,
            members: vec![kvmesh_node::MemberSetting {
                node: 1,
                address: addresses[0].clone(),
                zone: String::new(),
                weight: 1,
                voter: true,
            }],
            ..own
        };
        let gateway = kvmesh_gateway::Settings {
            region: "us-east".to_owned(),
            listen: addresses[2].parse()?,
            metrics_listen: addresses[3].parse()?,
            nodes: vec![addresses[0].clone()],
            ..kvmesh_gateway::Settings::default()
        };
        let process = |name: &str, settings: String| {
            let program = programs.join(format!("kvmesh-{name}"));
            Process::new(name.to_owned(), program, folder, &settings)
        };
        let mut node = process("node", toml::to_string(&node)?)?;
        let mut gateway = process("gateway", toml::to_string(&gateway)?)?;
        node.start().await?;
        let operator = Operator::plain(programs.join("meshctl"));
        let made = ["region", "init", "--node", &addresses[0]];
        operator.json(&made).await?;
        gateway.start().await?;
        let channels = Channels::new(Arc::new(TcpConnect));
        let client = Client::connect(vec![addresses[2].clone()], channels.clone())?;
        let opened = poll::until("opening the namespace", READY_BOUND, async || {
            let opened = client.open(description, "durable", "", READY_BOUND);
            Ok(opened.await?)
        });
        let opened = opened.await?;
        let single = ["namespace", "set", "durable", "--replicas", "1"];
        let at = ["--gateway", &addresses[2]];
        operator.json(&[&single[..], &at[..]].concat()).await?;
        Ok(Self {
            node,
            _gateway: gateway,
            listen: addresses[0].clone(),
            metrics: addresses[1].clone(),
            channels,
            opened,
        })
    }

    /// Starts the node again, and waits until it has begun.
    pub(crate) async fn restart(&mut self) -> Result<()> {
        self.node.start().await?;
        poll::until("the node's start", READY_BOUND, async || {
            let seen = rpc::see(&self.channels, &self.listen).await?;
            ensure!(seen.nodes.iter().all(|(_, _, alive)| *alive), "not begun");
            Ok(())
        })
        .await
    }
}
