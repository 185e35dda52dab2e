//! Who listens where, and the settings files that follow from it.

use std::path::{Path, PathBuf};

use anyhow::Result;
use kvmesh_gateway::templates::{self, Replication, Template};
use kvmesh_node::MemberSetting;
use kvmesh_process::tls::TlsSettings;
use kvmesh_region_sync::PeerSettings;

use super::ports;

/// A template of every gateway: as `always`, and numbers may be rounded on their way.
pub(crate) const LOSSY: &str = "always-lossy";
/// A template of every gateway: every block is brought to all regions of the mesh.
pub(crate) const PUSHED: &str = "pushed";
const NODE_MEMORY_BYTES: u64 = 2 << 30;

/// Which network a region's processes are in.
#[derive(Clone)]
pub(crate) struct Spot {
    /// The namespace; none: that of this program.
    pub(crate) network: Option<String>,
    /// Of all its processes.
    pub(crate) ip: String,
    /// Congestion control that its gateway names for connections between regions; empty: none.
    pub(crate) congestion_control: String,
    /// Bandwidth of the links to it, bits a second, as its peers are told.
    pub(crate) bandwidth_bits: u64,
}

impl Spot {
    /// Loopback.
    pub(super) fn here() -> Self {
        Self {
            network: None,
            ip: "127.0.0.1".to_owned(),
            congestion_control: String::new(),
            bandwidth_bits: 1_000_000_000,
        }
    }
}

/// Where one region's processes are.
#[derive(Clone)]
pub(super) struct Place {
    pub(super) region: &'static str,
    /// All regions of the mesh.
    all: Vec<String>,
    pub(super) spot: Spot,
    pub(super) nodes: Vec<NodePlace>,
    pub(super) gateway: String,
    gateway_metrics: String,
    region_sync: String,
    region_sync_metrics: String,
    /// Where a second one listens, and its metrics.
    pub(super) second_sync: Option<(String, String)>,
    /// Other regions whose clients the gateway serves.
    pub(super) clients_of: Vec<String>,
    /// Of certificates; none: everything is in plaintext.
    pki: Option<PathBuf>,
}

/// Where one node is.
#[derive(Clone)]
pub(super) struct NodePlace {
    pub(super) listen: String,
    pub(super) metrics: String,
}

/// Finds a place for every process.
pub(super) fn places(
    regions: &[(&'static str, u64)],
    spots: Vec<Spot>,
    pki: Option<&Path>,
) -> Result<Vec<Place>> {
    let nodes: u64 = regions.iter().map(|(_, nodes)| nodes).sum();
    let mut free = ports::free(2 * nodes as usize + 4 * regions.len())?.into_iter();
    let places = regions.iter().zip(spots).map(|(&(region, nodes), spot)| {
        let mut next = || free.next().unwrap_or_default();
        let there = |address: String| address.replace("127.0.0.1", &spot.ip);
        Place {
            region,
            all: regions.iter().map(|(name, _)| (*name).to_owned()).collect(),
            nodes: (0..nodes)
                .map(|_| NodePlace {
                    listen: there(next()),
                    metrics: next(),
                })
                .collect(),
            gateway: there(next()),
            gateway_metrics: next(),
            region_sync: there(next()),
            region_sync_metrics: next(),
            second_sync: None,
            clients_of: Vec::new(),
            pki: pki.map(Path::to_owned),
            spot: spot.clone(),
        }
    });
    Ok(places.collect())
}

impl Place {
    /// The files that `meshctl pki issue` made for a process of this region.
    fn tls(&self, role: &str, name: &str) -> TlsSettings {
        let Some(pki) = &self.pki else {
            return TlsSettings::default();
        };
        let own = format!("{}-{role}-{name}", self.region);
        TlsSettings {
            certificate: pki.join(format!("{own}.pem")),
            key: pki.join(format!("{own}-key.pem")),
            ca: pki.join("ca.pem"),
        }
    }

    pub(super) fn region_sync(&self) -> &str {
        &self.region_sync
    }

    fn node_addresses(&self) -> Vec<String> {
        self.nodes.iter().map(|node| node.listen.clone()).collect()
    }

    /// Of the node with this number, from 1.
    pub(super) fn node_settings(&self, node: u64, raft_dir: PathBuf) -> Result<String> {
        let zone = |node: u64| format!("zone-{node}");
        let members = (1..).zip(&self.nodes).map(|(node, place)| MemberSetting {
            node,
            address: place.listen.clone(),
            zone: zone(node),
            weight: 1,
            voter: true,
        });
        let place = &self.nodes[node as usize - 1];
        let settings = kvmesh_node::Settings {
            region: self.region.to_owned(),
            node,
            zone: zone(node),
            listen: place.listen.parse()?,
            metrics_listen: place.metrics.parse()?,
            memory_bytes: NODE_MEMORY_BYTES,
            raft_dir,
            raft_reserve: 0,
            tls: self.tls("node", &node.to_string()),
            members: members.collect(),
            ..kvmesh_node::Settings::default()
        };
        Ok(toml::to_string(&settings)?)
    }

    pub(super) fn gateway_settings(&self) -> Result<String> {
        let mut templates = templates::built_in();
        let always = templates[templates::ALWAYS].clone();
        let lossy = true;
        let pushed = Template {
            replication: Replication::Push,
            regions: self.all.clone(),
            ..always.clone()
        };
        templates.insert(PUSHED.to_owned(), pushed);
        templates.insert(LOSSY.to_owned(), Template { lossy, ..always });
        let settings = kvmesh_gateway::Settings {
            templates,
            congestion_control: self.spot.congestion_control.clone(),
            region: self.region.to_owned(),
            listen: self.gateway.parse()?,
            metrics_listen: self.gateway_metrics.parse()?,
            clients_of: self.clients_of.clone(),
            nodes: self.node_addresses(),
            region_syncs: self.region_syncs().map(|(sync, _)| sync.clone()).collect(),
            tls: self.tls("gateway", "1"),
            ..kvmesh_gateway::Settings::default()
        };
        Ok(toml::to_string(&settings)?)
    }

    /// Where its region-syncs listen, and their metrics.
    fn region_syncs(&self) -> impl Iterator<Item = (&String, &String)> {
        let second = self.second_sync.as_ref();
        let second = second.map(|(listen, metrics)| (listen, metrics));
        [(&self.region_sync, &self.region_sync_metrics)]
            .into_iter()
            .chain(second)
    }

    /// Of its region-syncs in their order; they differ in where they listen.
    pub(super) fn region_sync_settings(&self, all: &[Place]) -> Result<Vec<String>> {
        let others = all.iter().filter(|place| place.region != self.region);
        let peers = others.map(|place| PeerSettings {
            region: place.region.to_owned(),
            nodes: place.node_addresses(),
            gateways: vec![place.gateway.clone()],
            bandwidth_bits: place.spot.bandwidth_bits,
            dollars_per_gb: 0.0,
        });
        let peers: Vec<_> = peers.collect();
        let settings = self.region_syncs().map(|(listen, metrics)| {
            Ok(toml::to_string(&kvmesh_region_sync::Settings {
                region: self.region.to_owned(),
                listen: listen.parse()?,
                metrics_listen: metrics.parse()?,
                nodes: self.node_addresses(),
                gateways: vec![self.gateway.clone()],
                peers: peers.clone(),
                tls: self.tls("region-sync", "1"),
                ..kvmesh_region_sync::Settings::default()
            })?)
        });
        settings.collect()
    }
}
