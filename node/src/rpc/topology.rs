//! `Topology`: what an operator asks a node.

use std::{collections::BTreeMap, sync::Arc};

use kvmesh_client::{Problem, ToWire, convert::each};
use kvmesh_directory::{DirectoryState, NodeId, limits::VIRTUAL_NODES_PER_WEIGHT};
use kvmesh_proto::v1::{self as wire, topology_server::Topology};
use tokio::time::Instant;
use tonic::{Request, Response, Status};

use super::members;
use crate::{Settings, node::Node};

pub(super) struct TopologyService(pub(super) Arc<Node>);

impl TopologyService {
    fn position(&self) -> Option<wire::FeedPosition> {
        let position = self.0.position().ok()?;
        Some(position.to_wire())
    }

    fn status_of(&self, state: &DirectoryState) -> Vec<wire::NodeStatus> {
        let ownership: BTreeMap<NodeId, f64> =
            self.0.placement.ring().ownership().into_iter().collect();
        let mut held: BTreeMap<NodeId, (u64, u64)> = BTreeMap::new();
        for (_, entry) in state.entries() {
            for copy in &entry.holders {
                let (blocks, bytes) = held.entry(copy.node).or_default();
                *blocks += 1;
                *bytes += u64::from(entry.bytes);
            }
        }
        let members = state.topology().members.iter();
        members
            .map(|member| {
                let record = state.node(member.node);
                let health = match record {
                    Some(record) if record.alive => wire::NodeState::Alive,
                    Some(record) if record.incarnation.0 > 0 => wire::NodeState::Dead,
                    _ => wire::NodeState::New,
                };
                let (blocks, bytes) = held.get(&member.node).copied().unwrap_or_default();
                wire::NodeStatus {
                    member: Some(member.to_wire()),
                    incarnation: record.map_or(0, |record| record.incarnation.0),
                    state: health.into(),
                    ownership: ownership.get(&member.node).copied().unwrap_or_default(),
                    blocks,
                    bytes,
                    leaving: state.topology().leaving.contains(&member.node),
                    joining: state.topology().is_joining(member.node),
                    feature_level: record.map_or(0, |record| record.level),
                }
            })
            .collect()
    }
}

#[tonic::async_trait]
impl Topology for TopologyService {
    async fn init_region(
        &self,
        _request: Request<wire::InitRegionRequest>,
    ) -> Result<Response<wire::InitRegionResponse>, Status> {
        let node = &self.0;
        let members = node.settings.now().members();
        if members.is_empty() {
            let why = "the node's settings list no members: list all of the region's first nodes";
            return Err(Problem::invalid("members", why).into());
        }
        let deadline = Instant::now() + Settings::millis(node.settings.now().put_deadline_ms);
        let region = node.region.clone();
        let formed = node.consensus.init_region(region, members, deadline).await;
        let position = formed.map_err(Problem::from)?;
        let wait = Settings::millis(node.settings.now().put_deadline_ms);
        if !node.applied(position.index, wait).await {
            return Err(Problem::OutOfTime("the initialisation").into());
        }
        let (ring_epoch, members) = node.directory.with(|state| {
            let topology = state.topology();
            (topology.epoch.0, each(&topology.members))
        });
        Ok(Response::new(wire::InitRegionResponse {
            region: node.region.to_wire(),
            ring_epoch,
            position: Some(position.to_wire()),
            members,
        }))
    }

    async fn show(
        &self,
        _request: Request<wire::ShowRequest>,
    ) -> Result<Response<wire::ShowResponse>, Status> {
        let state = self.0.directory.freeze();
        let topology = state.topology();
        let left = self.0.progress.left(topology.epoch);
        let left = left.filter(|_| topology.is_moving());
        Ok(Response::new(wire::ShowResponse {
            region: self.0.region.to_wire(),
            initialised: state.region().is_some(),
            ring_epoch: topology.epoch.0,
            virtual_nodes: VIRTUAL_NODES_PER_WEIGHT,
            position: state.position().map(|position| position.to_wire()),
            nodes: self.status_of(&state),
            leader: self.0.consensus.leader().map_or(0, |leader| leader.0),
            moving: topology.is_moving(),
            move_blocks_left: left.map(|left| left.blocks),
            move_bytes_left: left.map_or(0, |left| left.bytes),
            voters_wanted: topology.voters_wanted,
            feature_level: state.feature_level(),
        }))
    }

    async fn list_regions(
        &self,
        _request: Request<wire::ListRegionsRequest>,
    ) -> Result<Response<wire::ListRegionsResponse>, Status> {
        let own = wire::RegionStatus {
            region: self.0.region.to_wire(),
            local: true,
            reachable: true,
            rtt_ms: 0.0,
            position: self.position(),
            age_ms: 0,
            blocks: self.0.directory.with(|state| state.stats().blocks),
            ..Default::default()
        };
        let regions = vec![own];
        Ok(Response::new(wire::ListRegionsResponse { regions }))
    }

    async fn list_namespaces(
        &self,
        _request: Request<wire::ListNamespacesRequest>,
    ) -> Result<Response<wire::ListNamespacesResponse>, Status> {
        let (namespaces, position) = self.0.directory.with(|state| {
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
        let stats = self.0.directory.with(|state| state.stats());
        let usage = self.0.store.usage();
        Ok(Response::new(wire::StatsResponse {
            region: self.0.region.to_wire(),
            role: "node".to_owned(),
            position: self.position(),
            blocks: stats.blocks,
            copies: stats.copies,
            bytes: stats.bytes,
            under_replicated: stats.under_replicated,
            tombstones: stats.tombstones,
            namespaces: stats.namespaces,
            memory_used: usage.used,
            memory_max: usage.max,
        }))
    }

    async fn at_risk(
        &self,
        _request: Request<wire::AtRiskRequest>,
    ) -> Result<Response<wire::AtRiskResponse>, Status> {
        let what = "AtRisk at a node (a gateway of the region serves it)";
        Err(Problem::Unimplemented(what.to_owned()).into())
    }

    async fn join(
        &self,
        request: Request<wire::JoinRequest>,
    ) -> Result<Response<wire::JoinResponse>, Status> {
        let joined = members::join(&self.0, request.into_inner()).await?;
        Ok(Response::new(joined))
    }

    async fn leave(
        &self,
        request: Request<wire::LeaveRequest>,
    ) -> Result<Response<wire::LeaveResponse>, Status> {
        let left = members::leave(&self.0, &request.into_inner()).await?;
        Ok(Response::new(left))
    }

    async fn upgrade(
        &self,
        _request: Request<wire::UpgradeRequest>,
    ) -> Result<Response<wire::UpgradeResponse>, Status> {
        Ok(Response::new(members::upgrade(&self.0).await?))
    }

    async fn set_policy(
        &self,
        request: Request<wire::SetPolicyRequest>,
    ) -> Result<Response<wire::SetPolicyResponse>, Status> {
        let set = super::policy::set_policy(&self.0, request.into_inner()).await?;
        Ok(Response::new(set))
    }

    async fn raise(
        &self,
        request: Request<wire::RaiseRequest>,
    ) -> Result<Response<wire::RaiseResponse>, Status> {
        let passed_on = super::leading::passed_on(request.metadata());
        let raised = super::policy::raise(&self.0, request.into_inner(), passed_on).await?;
        Ok(Response::new(raised))
    }
}
