//! `Topology.Join`, `Topology.Leave` and `Topology.Upgrade`: any node proposes them to the leader.

use kvmesh_client::{Problem, ToWire, convert::required};
use kvmesh_directory::{Command, Member, NodeId, command::Refusal, limits::FEATURE_LEVEL};
use kvmesh_proto::v1 as wire;
use tokio::time::Instant;

use crate::{Settings, consensus::ProposeError, node::Node};

pub(super) async fn join(
    node: &Node,
    request: wire::JoinRequest,
) -> Result<wire::JoinResponse, Problem> {
    let member: Member = required("member", request.member)?;
    let joining = member.node;
    let deadline = Instant::now() + Settings::millis(node.settings.now().put_deadline_ms);
    let command = Command::JoinNode { member };
    node.consensus.propose(command, deadline).await?;
    Ok(node.directory.with(|state| {
        let topology = state.topology();
        wire::JoinResponse {
            ring_epoch: topology.epoch.0,
            moving: topology.is_moving(),
            member: topology.member(joining).map(ToWire::to_wire),
        }
    }))
}

pub(super) async fn leave(
    node: &Node,
    request: &wire::LeaveRequest,
) -> Result<wire::LeaveResponse, Problem> {
    let (leaving, forget) = (NodeId(request.node), request.forget);
    let known = node
        .directory
        .with(|state| state.topology().member(leaving).is_some());
    let deadline = Instant::now() + Settings::millis(node.settings.now().put_deadline_ms);
    let command = Command::LeaveNode {
        node: leaving,
        forget,
    };
    match node.consensus.propose(command, deadline).await {
        Ok(_) => {}
        // The proposal was made again after an answer was lost, and the first one counted.
        Err(ProposeError::Refused(Refusal::NotMember(_))) if known => {}
        Err(error) => return Err(error.into()),
    }
    Ok(node.directory.with(|state| {
        let topology = state.topology();
        wire::LeaveResponse {
            ring_epoch: topology.epoch.0,
            moving: topology.is_moving(),
        }
    }))
}

pub(super) async fn upgrade(node: &Node) -> Result<wire::UpgradeResponse, Problem> {
    let from = node.directory.with(|state| state.feature_level());
    let deadline = Instant::now() + Settings::millis(node.settings.now().put_deadline_ms);
    let level = FEATURE_LEVEL;
    let command = Command::RaiseFeatureLevel { level };
    node.consensus.propose(command, deadline).await?;
    let to = node.directory.with(|state| state.feature_level());
    Ok(wire::UpgradeResponse { from, to })
}
