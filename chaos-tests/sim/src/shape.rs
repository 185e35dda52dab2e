//! Which processes a simulated mesh has, and their settings.

use std::collections::BTreeMap;

use kvmesh_gateway::templates::{self, Template};

use crate::{
    changes::{Change, ChangeKind},
    net::PORT,
};

/// Names of regions.
const REGIONS: [&str; 3] = ["us-east", "eu-west", "ap-south"];
/// Memory for blocks of one node: more than a run puts, so that nothing is evicted.
const MEMORY_BYTES: u64 = 512 << 20;
/// What is in flight at a node.
const INFLIGHT_BYTES: u64 = 64 << 20;

/// How many processes there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Regions; 1 to 3.
    pub regions: usize,
    /// Nodes of each, at first.
    pub nodes: usize,
    /// Regions which another node joins.
    pub joins: [bool; REGIONS.len()],
    /// Gateways of each.
    pub gateways: usize,
    /// Clients of each.
    pub clients: usize,
}

impl Shape {
    /// With the nodes that join.
    pub(crate) fn joined(mut self, changes: &[Change]) -> Self {
        let joins = changes.iter().filter(|it| it.kind == ChangeKind::Join);
        joins.for_each(|change| self.joins[change.region] = true);
        self
    }

    /// A region's name.
    #[must_use]
    pub fn region(self, region: usize) -> &'static str {
        REGIONS[region]
    }

    /// A node's host, by its number in the region, from 0.
    #[must_use]
    pub fn node(self, region: usize, node: usize) -> String {
        format!("{}-n{}", REGIONS[region], node + 1)
    }

    /// Nodes of a region, with the one that joins it.
    #[must_use]
    pub fn nodes_of(self, region: usize) -> usize {
        self.nodes + usize::from(self.joins[region])
    }

    /// A gateway's host.
    #[must_use]
    pub fn gateway(self, region: usize, gateway: usize) -> String {
        format!("{}-g{}", REGIONS[region], gateway + 1)
    }

    /// A region-sync's host.
    #[must_use]
    pub fn region_sync(self, region: usize) -> String {
        format!("{}-s1", REGIONS[region])
    }

    /// A client's host.
    #[must_use]
    pub fn client(self, region: usize, client: usize) -> String {
        format!("{}-c{}", REGIONS[region], client + 1)
    }

    /// Servers of a region.
    #[must_use]
    pub fn servers(self, region: usize) -> Vec<String> {
        let nodes = (0..self.nodes_of(region)).map(|node| self.node(region, node));
        let gateways = (0..self.gateways).map(|gateway| self.gateway(region, gateway));
        let mut servers: Vec<String> = nodes.chain(gateways).collect();
        servers.push(self.region_sync(region));
        servers
    }

    /// All hosts of a region, its clients too.
    #[must_use]
    pub fn hosts(self, region: usize) -> Vec<String> {
        let clients = (0..self.clients).map(|client| self.client(region, client));
        let servers = self.servers(region).into_iter();
        servers.chain(clients).collect()
    }

    pub(crate) fn gateways(self, region: usize) -> Vec<String> {
        let gateways = (0..self.gateways).map(|at| address(&self.gateway(region, at)));
        gateways.collect()
    }

    /// Those that form it.
    pub(crate) fn nodes(self, region: usize) -> Vec<String> {
        let nodes = (0..self.nodes).map(|node| address(&self.node(region, node)));
        nodes.collect()
    }

    pub(crate) fn node_settings(self, region: usize, node: usize) -> kvmesh_node::Settings {
        let member = |at: usize| kvmesh_node::MemberSetting {
            node: at as u64 + 1,
            address: address(&self.node(region, at)),
            zone: format!("zone-{}", at + 1),
            weight: 1,
            voter: true,
        };
        let (members, join) = match node < self.nodes {
            true => ((0..self.nodes).map(member).collect(), Vec::new()),
            false => (Vec::new(), self.nodes(region)),
        };
        kvmesh_node::Settings {
            region: self.region(region).to_owned(),
            node: node as u64 + 1,
            zone: format!("zone-{}", node + 1),
            memory_bytes: MEMORY_BYTES,
            // A thread of its own would touch it.
            memory_ahead_bytes: 0,
            inflight_bytes_max: INFLIGHT_BYTES,
            members,
            join,
            advertise: address(&self.node(region, node)),
            suspect_after_ms: 1_000,
            dead_after_ms: 4_000,
            serve_lease_ms: 2_000,
            provisional_ttl_ms: 8_000,
            shutdown_grace_ms: 500,
            ..Default::default()
        }
    }

    pub(crate) fn gateway_settings(self, region: usize) -> kvmesh_gateway::Settings {
        kvmesh_gateway::Settings {
            region: self.region(region).to_owned(),
            nodes: self.nodes(region),
            region_syncs: vec![address(&self.region_sync(region))],
            templates: templates(),
            shutdown_grace_ms: 500,
            ..Default::default()
        }
    }

    pub(crate) fn sync_settings(self, region: usize) -> kvmesh_region_sync::Settings {
        let peer = |at: usize| kvmesh_region_sync::PeerSettings {
            region: self.region(at).to_owned(),
            nodes: self.nodes(at),
            gateways: self.gateways(at),
            bandwidth_bits: 1_000_000_000,
            dollars_per_gb: 0.0,
        };
        let others = (0..self.regions).filter(|at| *at != region);
        kvmesh_region_sync::Settings {
            region: self.region(region).to_owned(),
            nodes: self.nodes(region),
            peers: others.map(peer).collect(),
            // A run is shorter than the half minute for which a return is held back.
            return_after_ms: 2_000,
            // Under every fault, and it must never find anything.
            compare_every_ms: 2_000,
            shutdown_grace_ms: 500,
            ..Default::default()
        }
    }
}

/// `host:port` of a host.
pub(crate) fn address(host: &str) -> String {
    format!("{host}:{PORT}")
}

/// The built-in ones, none of which lets blocks expire within a run.
fn templates() -> BTreeMap<String, Template> {
    templates::built_in()
}
