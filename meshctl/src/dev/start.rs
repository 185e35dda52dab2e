//! Binds every listener of a dev mesh, so that all addresses are known, and then starts its
//! processes with settings that name them.

use std::{
    error::Error,
    fmt::Display,
    fs,
    future::Future,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::Context;
use kvmesh_client::{
    channel::{Connect, Incoming},
    tls::{Role, TlsConnect},
};
use kvmesh_directory::RegionId;
use kvmesh_process::{Environment, SystemClock, server, tls};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, error};

use super::{
    link::{Links, mortal},
    mesh::{Life, Node, Region, Running, Settings},
    ports::Ports,
    rtt,
    secured::Secured,
};

/// Calls in flight when the mesh ends may go on for so long.
const GRACE_MS: u64 = 1_000;

/// A listener of one process, and how it ends.
struct Door {
    address: SocketAddr,
    incoming: Incoming,
    life: Life,
}

/// The listeners of one region.
struct Doors {
    id: RegionId,
    nodes: Vec<Door>,
    gateway: Door,
    region_sync: Door,
}

/// Starts all processes; they run until `running` stops.
pub(super) async fn processes(
    settings: &Settings,
    running: &Running,
    sockets: &Path,
    secured: Option<&Secured>,
) -> anyhow::Result<(Vec<Region>, Links)> {
    let doors = doors(settings, running).await?;
    let regions = doors.iter().map(|doors| region(doors, sockets));
    let regions: Vec<Region> = regions.collect();
    for region in &regions {
        fs::create_dir(&region.local).context("a folder for sockets")?;
    }
    let ids = regions.iter().map(|region| region.id.clone()).collect();
    let links = Links::new(
        ids,
        settings.link_scale,
        running.tasks.clone(),
        running.stop.clone(),
    );
    for (at, region) in regions.iter().enumerate() {
        let nodes = region.nodes.iter().map(|node| &node.address);
        for address in nodes.chain([&region.gateway, &region.region_sync]) {
            links.settle(address, at);
        }
    }
    let starting = Starting {
        settings,
        running,
        links: &links,
        regions: &regions,
        secured,
    };
    for (at, doors) in doors.into_iter().enumerate() {
        for (node, door) in doors.nodes.into_iter().enumerate() {
            starting.node(at, node, door);
        }
        starting.gateway(at, doors.gateway);
        starting.region_sync(at, doors.region_sync);
    }
    Ok((regions, links))
}

/// The names of the regions that a mesh of these settings has.
pub(super) fn regions(settings: &Settings) -> anyhow::Result<Vec<RegionId>> {
    let names = rtt::REGIONS.iter().take(settings.regions);
    names.map(|name| Ok(name.parse()?)).collect()
}

async fn doors(settings: &Settings, running: &Running) -> anyhow::Result<Vec<Doors>> {
    let ports = Ports::load(settings)?;
    let mut all = Vec::new();
    for (at, id) in regions(settings)?.into_iter().enumerate() {
        let mut nodes = Vec::new();
        for node in 0..settings.nodes {
            nodes.push(door(ports.node(at, node), running).await?);
        }
        all.push(Doors {
            id,
            nodes,
            gateway: door(ports.gateway(at), running).await?,
            region_sync: door(ports.region_sync(at), running).await?,
        });
    }
    let taken = all.iter().map(|doors| {
        let nodes = doors.nodes.iter().map(|door| door.address.port());
        let others = [&doors.gateway, &doors.region_sync].map(|door| door.address.port());
        nodes.chain(others).collect()
    });
    Ports::keep(settings, taken.collect())?;
    Ok(all)
}

async fn door(port: u16, running: &Running) -> anyhow::Result<Door> {
    let wanted = SocketAddr::from(([127, 0, 0, 1], port));
    let (address, incoming) = server::listen(wanted)
        .await
        .with_context(|| format!("{wanted} cannot be listened on: name a free port"))?;
    let killed = CancellationToken::new();
    Ok(Door {
        address,
        incoming: mortal(incoming, killed.clone()),
        life: Life {
            stop: running.stop.child_token(),
            killed,
            ended: CancellationToken::new(),
        },
    })
}

fn region(doors: &Doors, sockets: &Path) -> Region {
    let node = |(at, door): (usize, &Door)| Node {
        node: at as u64 + 1,
        address: door.address.to_string(),
        life: door.life.clone(),
    };
    Region {
        id: doors.id.clone(),
        gateway: doors.gateway.address.to_string(),
        local: sockets.join(doors.id.as_str()),
        region_sync: doors.region_sync.address.to_string(),
        nodes: doors.nodes.iter().enumerate().map(node).collect(),
    }
}

struct Starting<'a> {
    settings: &'a Settings,
    running: &'a Running,
    links: &'a Links,
    regions: &'a [Region],
    secured: Option<&'a Secured>,
}

impl Starting<'_> {
    fn node(&self, at: usize, node: usize, door: Door) {
        let region = &self.regions[at];
        let number = region.nodes[node].node;
        let member = |(at, node): (usize, &Node)| kvmesh_node::MemberSetting {
            node: node.node,
            address: node.address.clone(),
            zone: zone(at),
            weight: 1,
            voter: true,
        };
        let nodes = self.settings.regions * self.settings.nodes;
        let settings = kvmesh_node::Settings {
            region: region.id.to_string(),
            node: number,
            zone: zone(node),
            listen: door.address,
            memory_bytes: self.settings.memory_bytes / nodes as u64,
            // A mesh to try things takes no memory that it may never use.
            memory_ahead_bytes: 0,
            local_socket: region.local.join(format!("node-{number}.sock")),
            raft_dir: self.raft_dir(&region.id, number),
            raft_reserve: 0,
            members: region.nodes.iter().enumerate().map(member).collect(),
            shutdown_grace_ms: GRACE_MS,
            ..Default::default()
        };
        let instance = format!("{}/node-{number}", region.id);
        let who = (Role::Node, &*number.to_string());
        let (environment, incoming) = self.secure(at, &instance, who, door.incoming);
        let stop = door.life.stop.clone();
        let span = environment.span.clone();
        let serving = kvmesh_node::serve(settings, environment, incoming, stop);
        self.run(instance, door.life, serving.instrument(span));
    }

    fn gateway(&self, at: usize, door: Door) {
        let region = &self.regions[at];
        let mut templates = kvmesh_gateway::templates::built_in();
        // A region of one node, for trials only, has none for a second copy.
        for template in templates.values_mut() {
            template.replicas = template.replicas.min(region.nodes.len() as u32);
        }
        let settings = kvmesh_gateway::Settings {
            region: region.id.to_string(),
            listen: door.address,
            nodes: addresses(region),
            region_syncs: vec![region.region_sync.clone()],
            local_sockets: match self.settings.gateways_map {
                true => region.local.clone(),
                false => PathBuf::new(),
            },
            templates,
            shutdown_grace_ms: GRACE_MS,
            ..Default::default()
        };
        let instance = format!("{}/gateway-1", region.id);
        let who = (Role::Gateway, "1");
        let (environment, incoming) = self.secure(at, &instance, who, door.incoming);
        let stop = door.life.stop.clone();
        let span = environment.span.clone();
        let serving = kvmesh_gateway::serve(settings, environment, incoming, stop);
        self.run(instance, door.life, serving.instrument(span));
    }

    fn region_sync(&self, at: usize, door: Door) {
        let region = &self.regions[at];
        let others = self.regions.iter().filter(|other| other.id != region.id);
        let peer = |other: &Region| kvmesh_region_sync::PeerSettings {
            region: other.id.to_string(),
            nodes: addresses(other),
            gateways: vec![other.gateway.clone()],
            bandwidth_bits: 1_000_000_000,
            dollars_per_gb: 0.0,
        };
        let usual = kvmesh_region_sync::Settings::default();
        let return_after_ms = self.settings.return_after.map(|it| it.as_millis() as u64);
        let settings = kvmesh_region_sync::Settings {
            return_after_ms: return_after_ms.unwrap_or(usual.return_after_ms),
            region: region.id.to_string(),
            listen: door.address,
            nodes: addresses(region),
            gateways: vec![region.gateway.clone()],
            peers: others.map(peer).collect(),
            shutdown_grace_ms: GRACE_MS,
            ..usual
        };
        let instance = format!("{}/region-sync-1", region.id);
        let who = (Role::RegionSync, "1");
        let (environment, incoming) = self.secure(at, &instance, who, door.incoming);
        let stop = door.life.stop.clone();
        let span = environment.span.clone();
        let serving = kvmesh_region_sync::serve(settings, environment, incoming, stop);
        self.run(instance, door.life, serving.instrument(span));
    }

    /// What a process is given from outside, with its certificate where the mesh has any.
    fn secure(
        &self,
        at: usize,
        instance: &str,
        (role, name): (Role, &str),
        incoming: Incoming,
    ) -> (Environment, Incoming) {
        let secured = self.secured;
        let credentials = secured.and_then(|it| it.of(&self.regions[at].id, role, name));
        let plain = self.links.connector(at);
        let (connector, incoming) = match credentials {
            None => (plain, incoming),
            Some(credentials) => {
                let connector = TlsConnect::new(plain, credentials.clone());
                let connector: Arc<dyn Connect> = Arc::new(connector);
                (connector, tls::incoming(incoming, credentials))
            }
        };
        let environment = Environment::new(connector, Arc::new(SystemClock), instance);
        (environment, incoming)
    }

    fn raft_dir(&self, region: &RegionId, node: u64) -> PathBuf {
        match &self.settings.data_dir {
            Some(dir) => dir.join(region.as_str()).join(format!("node-{node}")),
            None => PathBuf::new(),
        }
    }

    /// A process that fails while the mesh runs ends the mesh's start, and is logged.
    fn run<E>(
        &self,
        instance: String,
        life: Life,
        serving: impl Future<Output = Result<(), E>> + Send + 'static,
    ) where
        E: Error + Send + 'static,
    {
        let failed = self.running.failed.clone();
        self.running.tasks.spawn(async move {
            if let Err(failure) = serving.await {
                let why = format!("{instance} failed: {}", Chain(&failure));
                error!("{why}");
                failed.send_if_modified(|first| {
                    let is_first = first.is_none();
                    first.get_or_insert(why);
                    is_first
                });
            }
            life.ended.cancel();
        });
    }
}

fn addresses(region: &Region) -> Vec<String> {
    let nodes = region.nodes.iter();
    nodes.map(|node| node.address.clone()).collect()
}

fn zone(node: usize) -> String {
    format!("zone-{}", node + 1)
}

/// An error with its causes.
struct Chain<'a>(&'a dyn Error);

impl Display for Chain<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)?;
        let mut source = self.0.source();
        while let Some(cause) = source {
            write!(f, ": {cause}")?;
            source = cause.source();
        }
        Ok(())
    }
}
