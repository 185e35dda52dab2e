//! A region of one node with a disk, and its gateway: real processes.

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
/// So that not everything is served from it.
const MEMORY_BYTES: u64 = 256 << 20;
/// Nothing is evicted from disk.
const DISK_BYTES: u64 = 5 << 30;

/// See the module. The processes end when it is dropped.
pub(super) struct Lone {
    pub(super) node: Process,
    _gateway: Process,
    listen: String,
    channels: Channels,
    pub(super) opened: Opened,
}

impl Lone {
    /// Starts them, makes the region and opens a namespace of one replica.
    pub(super) async fn start(
        folder: &Path,
        disk: &Path,
        description: &Description,
    ) -> Result<Self> {
        let programs = programs::folder()?;
        let addresses = ports::free(4)?;
        let node = kvmesh_node::Settings {
            region: "us-east".to_owned(),
            node: 1,
            listen: addresses[0].parse()?,
            metrics_listen: addresses[1].parse()?,
            memory_bytes: MEMORY_BYTES,
            raft_dir: disk.join("raft"),
            disk_dir: disk.join("blocks"),
            disk_bytes: DISK_BYTES,
            members: vec![kvmesh_node::MemberSetting {
                node: 1,
                address: addresses[0].clone(),
                zone: String::new(),
                weight: 1,
                voter: true,
            }],
            ..kvmesh_node::Settings::default()
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
        let operator = Operator {
            program: programs.join("meshctl"),
        };
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
            channels,
            opened,
        })
    }

    /// Starts the node again, and waits until it has begun.
    pub(super) async fn restart(&mut self) -> Result<()> {
        self.node.start().await?;
        poll::until("the node's start", READY_BOUND, async || {
            let seen = rpc::see(&self.channels, &self.listen).await?;
            ensure!(seen.nodes.iter().all(|(_, _, alive)| *alive), "not begun");
            Ok(())
        })
        .await
    }
}
