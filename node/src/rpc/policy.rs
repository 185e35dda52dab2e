//! What an operator changes about a namespace: its policy, its generation.

use futures::FutureExt;
use kvmesh_client::{Problem, ToWire, channel::Channel, convert};
use kvmesh_directory::{Command, FeedPosition, Hlc, Namespace, Policy};
use kvmesh_proto::v1::{self as wire, topology_client::TopologyClient};
use tokio::time::Instant;
use tonic::Status;

use super::leading::{at_leader, to_leader};
use crate::{Settings, consensus::ProposeError, node::Node};

pub(super) async fn set_policy(
    node: &Node,
    request: wire::SetPolicyRequest,
) -> Result<wire::SetPolicyResponse, Problem> {
    let known = node.namespace(super::namespace_id(&request.namespace_id)?)?;
    let policy: Policy = convert::required("policy", request.policy)?;
    if let Some(why) = policy.impossible_regions(&known.description) {
        return Err(Problem::invalid("regions", why));
    }
    let deadline = Instant::now() + Settings::millis(node.settings.now().put_deadline_ms);
    let (position, namespace) = commit(node, known, &policy, deadline).await?;
    Ok(wire::SetPolicyResponse {
        namespace: Some(namespace.to_wire()),
        position: Some(position.to_wire()),
    })
}

/// Writes the policy. Another node that stamps the same clock value would make this write no
/// news: it is stamped anew then, until it or a later one stands.
async fn commit(
    node: &Node,
    known: Namespace,
    policy: &Policy,
    deadline: Instant,
) -> Result<(FeedPosition, Namespace), Problem> {
    loop {
        let written = Namespace {
            policy: policy.clone(),
            policy_hlc: node.stamp().max(Hlc(known.policy_hlc.0 + 1)),
            policy_region: node.region.clone(),
            ..known.clone()
        };
        let hlc = written.policy_hlc;
        let command = Command::OpenNamespace(written);
        let (position, outcome) = node.consensus.propose(command, deadline).await?;
        let now = outcome.namespace.ok_or_else(|| {
            Problem::Internal("the namespace of a policy was not returned".to_owned())
        })?;
        if now.policy == *policy || now.policy_hlc > hlc {
            return Ok((position, now));
        }
    }
}

/// Answers as a delete does: once every live node has applied it.
pub(super) async fn raise(
    node: &Node,
    request: wire::RaiseRequest,
    passed_on: bool,
) -> Result<wire::RaiseResponse, Problem> {
    let namespace = node.namespace(super::namespace_id(&request.namespace_id)?)?;
    let deadline = Instant::now() + Settings::millis(node.settings.now().put_deadline_ms);
    let here = || raise_here(node, &namespace, deadline).boxed();
    let there = |channel| raise_there(channel, request.clone()).boxed();
    at_leader(node, "the raise", passed_on, deadline, here, there).await
}

async fn raise_here(
    node: &Node,
    namespace: &Namespace,
    deadline: Instant,
) -> Result<wire::RaiseResponse, ProposeError> {
    let hlc = node.stamp();
    let command = Command::RaiseGeneration {
        namespace: namespace.id,
        hlc,
    };
    let (position, _) = node.consensus.propose(command, deadline).await?;
    let all = node.consensus.applied_by_all(position.index, deadline);
    all.await?;
    Ok(wire::RaiseResponse {
        position: Some(position.to_wire()),
        generation: hlc.0,
    })
}

async fn raise_there(
    channel: Channel,
    request: wire::RaiseRequest,
) -> Result<wire::RaiseResponse, Status> {
    let mut client = TopologyClient::new(channel);
    Ok(client.raise(to_leader(request)).await?.into_inner())
}
