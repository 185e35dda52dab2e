//! Serves what only reads of `Topology`, from the views, and passes on what is about namespaces.

use std::{collections::BTreeMap, sync::Arc};

use kvmesh_client::{Problem, ToWire};
use kvmesh_directory::{DirectoryState, NodeId, limits::VIRTUAL_NODES_PER_WEIGHT};
use kvmesh_proto::v1::{self as wire, topology_server::Topology};
use tonic::{Request, Response, Status};

use super::{encode, policy};
use crate::{at_risk, context::Gateway};

/// Entries that are counted before other tasks get their turn.
const COUNTED_AT_ONCE: usize = 16_384;

/// The service over one gateway.
pub(crate) struct Rpc {
    gateway: Arc<Gateway>,
}

impl Rpc {
    pub(crate) fn new(gateway: Arc<Gateway>) -> Self {
        Self { gateway }
    }
}

/// Copies and bytes by node.
async fn held(state: &DirectoryState) -> BTreeMap<NodeId, (u64, u64)> {
    let mut held: BTreeMap<NodeId, (u64, u64)> = BTreeMap::new();
    for (count, (_, entry)) in state.entries().enumerate() {
        for copy in &entry.holders {
            let node = held.entry(copy.node).or_default();
            node.0 += 1;
            node.1 += u64::from(entry.bytes);
        }
        if count % COUNTED_AT_ONCE == COUNTED_AT_ONCE - 1 {
            tokio::task::yield_now().await;
        }
    }
    held
}

fn ask_a_node<T>(what: &str) -> Result<Response<T>, Status> {
    let what = format!("{what} at a gateway (a node of the region may serve it)");
    Err(Problem::Unimplemented(what).into())
}

#[tonic::async_trait]
impl Topology for Rpc {
    async fn show(
        &self,
        _request: Request<wire::ShowRequest>,
    ) -> Result<Response<wire::ShowResponse>, Status> {
        let views = &self.gateway.views;
        let state = views.local.with(Clone::clone);
        let ring = views.ring();
        let ownership: BTreeMap<NodeId, f64> = ring.ownership().into_iter().collect();
        let held = held(&state).await;
        let members = &state.topology().members;
        let nodes = members.iter().zip(encode::members(members));
        let nodes = nodes.map(|(member, wire_member)| {
            let record = state.node(member.node);
            let (blocks, bytes) = held.get(&member.node).copied().unwrap_or_default();
            wire::NodeStatus {
                member: Some(wire_member),
                incarnation: record.map_or(0, |record| record.incarnation.0),
                state: match record {
                    Some(record) if record.incarnation.0 == 0 => wire::NodeState::New,
                    Some(record) if record.alive => wire::NodeState::Alive,
                    Some(_) => wire::NodeState::Dead,
                    None => wire::NodeState::New,
                }
                .into(),
                ownership: ownership.get(&member.node).copied().unwrap_or_default(),
                blocks,
                bytes,
                leaving: state.topology().leaving.contains(&member.node),
                joining: state.topology().is_joining(member.node),
                feature_level: record.map_or(0, |record| record.level),
            }
        });
        Ok(Response::new(wire::ShowResponse {
            region: self.gateway.region.to_wire(),
            initialised: state.position().is_some(),
            ring_epoch: ring.epoch().0,
            virtual_nodes: VIRTUAL_NODES_PER_WEIGHT,
            position: state.position().map(|at| at.to_wire()),
            nodes: nodes.collect(),
            // Who leads is not in the feed.
            leader: 0,
            moving: state.topology().is_moving(),
            // Nodes walk over the blocks, gateways do not.
            move_blocks_left: None,
            move_bytes_left: 0,
            voters_wanted: state.topology().voters_wanted,
            feature_level: state.feature_level(),
        }))
    }

    async fn list_regions(
        &self,
        _request: Request<wire::ListRegionsRequest>,
    ) -> Result<Response<wire::ListRegionsResponse>, Status> {
        let views = &self.gateway.views;
        let mut regions = vec![wire::RegionStatus {
            region: self.gateway.region.to_wire(),
            local: true,
            reachable: views.fresh().is_ok(),
            rtt_ms: 0.0,
            position: views.local.position().map(|at| at.to_wire()),
            age_ms: encode::millis(views.local.age()),
            blocks: views.local.with(|state| state.stats().blocks),
            ..Default::default()
        }];
        let blocks: BTreeMap<String, u64> = views.mesh.with(|mesh| {
            let regions = mesh.regions();
            regions
                .map(|(region, _, blocks)| (region.to_wire(), blocks))
                .collect()
        });
        for (region, link) in views.mesh.links() {
            if region == self.gateway.region {
                continue;
            }
            let name = region.to_wire();
            let seen = link.configured.seen.bandwidth;
            regions.push(wire::RegionStatus {
                local: false,
                reachable: link.reachable,
                rtt_ms: link.rtt_ms,
                position: views.mesh.position(&region).map(|at| at.to_wire()),
                age_ms: encode::millis(link.heard.elapsed()),
                blocks: blocks.get(&name).copied().unwrap_or_default(),
                state: link.state.to_wire(),
                lag_entries: link.lag_entries,
                bandwidth: known(self.gateway.links.bandwidth(&region, &link)),
                bandwidth_age_ms: seen.map(|told| (told.age * 1e3) as u64),
                region: name,
            });
        }
        Ok(Response::new(wire::ListRegionsResponse { regions }))
    }

    async fn list_namespaces(
        &self,
        _request: Request<wire::ListNamespacesRequest>,
    ) -> Result<Response<wire::ListNamespacesResponse>, Status> {
        let local = &self.gateway.views.local;
        let (namespaces, position) = local.with(|state| {
            let namespaces = state.namespaces().map(ToWire::to_wire).collect();
            (namespaces, state.position().map(|at| at.to_wire()))
        });
        Ok(Response::new(wire::ListNamespacesResponse {
            namespaces,
            position,
        }))
    }

    async fn stats(
        &self,
        _request: Request<wire::StatsRequest>,
    ) -> Result<Response<wire::StatsResponse>, Status> {
        let local = &self.gateway.views.local;
        let stats = local.with(DirectoryState::stats);
        Ok(Response::new(wire::StatsResponse {
            region: self.gateway.region.to_wire(),
            role: "gateway".to_owned(),
            position: local.position().map(|at| at.to_wire()),
            blocks: stats.blocks,
            copies: stats.copies,
            bytes: stats.bytes,
            under_replicated: stats.under_replicated,
            tombstones: stats.tombstones,
            namespaces: stats.namespaces,
            // A gateway keeps no blocks.
            memory_used: 0,
            memory_max: 0,
        }))
    }

    async fn at_risk(
        &self,
        _request: Request<wire::AtRiskRequest>,
    ) -> Result<Response<wire::AtRiskResponse>, Status> {
        let views = &self.gateway.views;
        views.fresh()?;
        let state = views.local.with(Clone::clone);
        let counted = at_risk::count(&self.gateway.region, &state, &views.mesh).await;
        let namespaces = counted.into_iter().map(|(id, at_risk)| {
            let name = state.namespace(id).map(|namespace| namespace.name.clone());
            wire::NamespaceAtRisk {
                namespace_id: id.to_wire(),
                name: name.unwrap_or_default(),
                blocks: at_risk.blocks,
                bytes: at_risk.bytes,
                alone_blocks: at_risk.alone_blocks,
                alone_bytes: at_risk.alone_bytes,
                newest_copied_hlc: at_risk.newest_copied.0,
                oldest_alone_hlc: at_risk.oldest_alone.map_or(0, |oldest| oldest.0),
            }
        });
        Ok(Response::new(wire::AtRiskResponse {
            region: self.gateway.region.to_wire(),
            position: state.position().map(|at| at.to_wire()),
            namespaces: namespaces.collect(),
        }))
    }

    async fn init_region(
        &self,
        _request: Request<wire::InitRegionRequest>,
    ) -> Result<Response<wire::InitRegionResponse>, Status> {
        ask_a_node("InitRegion")
    }

    async fn join(
        &self,
        _request: Request<wire::JoinRequest>,
    ) -> Result<Response<wire::JoinResponse>, Status> {
        ask_a_node("Join")
    }

    async fn leave(
        &self,
        _request: Request<wire::LeaveRequest>,
    ) -> Result<Response<wire::LeaveResponse>, Status> {
        ask_a_node("Leave")
    }

    async fn upgrade(
        &self,
        _request: Request<wire::UpgradeRequest>,
    ) -> Result<Response<wire::UpgradeResponse>, Status> {
        ask_a_node("Upgrade")
    }

    async fn set_policy(
        &self,
        request: Request<wire::SetPolicyRequest>,
    ) -> Result<Response<wire::SetPolicyResponse>, Status> {
        let set = policy::serve_set(&self.gateway, request).await?;
        Ok(Response::new(set))
    }

    async fn raise(
        &self,
        request: Request<wire::RaiseRequest>,
    ) -> Result<Response<wire::RaiseResponse>, Status> {
        let raised = policy::serve_raise(&self.gateway, request).await?;
        Ok(Response::new(raised))
    }
}

/// 0 for a bandwidth without a bound.
fn known(bandwidth: f64) -> f64 {
    match bandwidth.is_finite() {
        true => bandwidth,
        false => 0.0,
    }
}
