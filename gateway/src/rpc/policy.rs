//! Policies and generations of namespaces: calls of operators, and those to nodes that follow.

use std::time::Duration;

use kvmesh_client::{FromWire, Problem, ToWire, channel::Channel, convert};
use kvmesh_directory::{FeedPosition, Hlc, Namespace, NamespaceId, Policy};
use kvmesh_proto::v1::{self as wire, topology_client::TopologyClient};
use tokio::time::Instant;
use tonic::Request;

use super::control::{Failure, timed, unreadable};
use crate::{context::Gateway, deadline::Deadline, policies};

/// How long an operator's call may take that names no deadline.
const DEADLINE: Duration = Duration::from_secs(15);

/// Changes a policy by a node.
pub(crate) async fn set(
    channel: Channel,
    namespace: NamespaceId,
    policy: &Policy,
    until: Instant,
) -> Result<(Namespace, FeedPosition), Failure> {
    let request = wire::SetPolicyRequest {
        namespace_id: namespace.to_wire(),
        policy: Some(policy.to_wire()),
    };
    let mut client = TopologyClient::new(channel);
    let response = client.set_policy(timed(request, until)).await?.into_inner();
    let namespace = convert::required("namespace", response.namespace).map_err(unreadable)?;
    let position = convert::required("position", response.position).map_err(unreadable)?;
    Ok((namespace, position))
}

/// Raises a generation by a node.
pub(crate) async fn raise(
    channel: Channel,
    namespace: NamespaceId,
    until: Instant,
) -> Result<(FeedPosition, Hlc), Failure> {
    let request = wire::RaiseRequest {
        namespace_id: namespace.to_wire(),
    };
    let mut client = TopologyClient::new(channel);
    let response = client.raise(timed(request, until)).await?.into_inner();
    let position = convert::required("position", response.position).map_err(unreadable)?;
    Ok((position, Hlc(response.generation)))
}

pub(super) async fn serve_set(
    gateway: &Gateway,
    request: Request<wire::SetPolicyRequest>,
) -> Result<wire::SetPolicyResponse, Problem> {
    let until = until(&request);
    let request = request.into_inner();
    let namespace = NamespaceId::from_wire(request.namespace_id)?;
    let policy: Policy = convert::required("policy", request.policy)?;
    let (namespace, position) = policies::set(gateway, namespace, &policy, until).await?;
    Ok(wire::SetPolicyResponse {
        namespace: Some(namespace.to_wire()),
        position: Some(position.to_wire()),
    })
}

pub(super) async fn serve_raise(
    gateway: &Gateway,
    request: Request<wire::RaiseRequest>,
) -> Result<wire::RaiseResponse, Problem> {
    let until = until(&request);
    let namespace = NamespaceId::from_wire(request.into_inner().namespace_id)?;
    let (position, generation) = policies::raise(gateway, namespace, until).await?;
    Ok(wire::RaiseResponse {
        position: Some(position.to_wire()),
        generation: generation.0,
    })
}

fn until<T>(request: &Request<T>) -> Instant {
    let deadline = Deadline::of(request.metadata(), 0, DEADLINE);
    deadline.with_room_to_answer().at
}
