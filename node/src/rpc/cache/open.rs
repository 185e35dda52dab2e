//! `Open` on a node, with default policies: templates are the gateways'.

use kvmesh_client::{Problem, ToWire, convert::required};
use kvmesh_directory::{
    Command, Description, Namespace, Policy,
    limits::{
        BLOCK_BYTES_MAX, CHAIN_BLOCKS_MAX, LOOKUP_CHAINS_MAX, LOOKUP_HASHES_MAX, MESSAGE_BYTES_MAX,
        PIECE_BYTES, PROTOCOL_VERSION,
    },
    words::Hlc,
};
use kvmesh_proto::v1 as wire;
use tokio::time::Instant;

use crate::{Settings, node::Node};

const TEMPLATE: &str = "default";

pub(super) async fn open(
    node: &Node,
    request: wire::OpenRequest,
) -> Result<wire::OpenResponse, Problem> {
    let description: Description = required("description", request.description)?;
    if !description.resides_in(&node.region) {
        let why = format!("its residency does not name this region, {}", node.region);
        return Err(Problem::Denied(why));
    }
    if !request.template.is_empty() && request.template != TEMPLATE {
        let why = "a node knows only \"default\": open the namespace at a gateway";
        return Err(Problem::invalid("template", why));
    }
    let id = description.id();
    let name = match request.name.as_str() {
        "" => id.to_string(),
        name => name.to_owned(),
    };
    // One that is known keeps its policy: a call without a template changes nothing.
    let known = node.directory.with(|state| state.namespace(id).cloned());
    if let Some(known) = known.filter(|known| known.name == name || request.name.is_empty()) {
        return answer(node, &known);
    }
    let namespace = Namespace {
        id,
        name,
        description,
        policy: Policy::default(),
        generation: Hlc(0),
        policy_hlc: node.stamp(),
        policy_region: node.region.clone(),
    };
    let deadline = Instant::now() + Settings::millis(node.settings.now().put_deadline_ms);
    let command = Command::OpenNamespace(namespace);
    let (_, outcome) = node.consensus.propose(command, deadline).await?;
    match outcome.namespace {
        Some(namespace) => answer(node, &namespace),
        None => Err(Problem::Internal(
            "an open namespace was not returned".to_owned(),
        )),
    }
}

fn answer(node: &Node, namespace: &Namespace) -> Result<wire::OpenResponse, Problem> {
    Ok(wire::OpenResponse {
        namespace: Some(namespace.to_wire()),
        limits: Some(limits()),
        protocol_version: PROTOCOL_VERSION,
        ring_epoch: node.placement.epoch().0,
        region: node.region.to_wire(),
        position: Some(node.position()?.to_wire()),
    })
}

fn limits() -> wire::Limits {
    wire::Limits {
        message_bytes_max: MESSAGE_BYTES_MAX as u64,
        block_bytes_max: BLOCK_BYTES_MAX,
        piece_bytes: PIECE_BYTES as u64,
        chain_blocks_max: CHAIN_BLOCKS_MAX as u32,
        lookup_chains_max: LOOKUP_CHAINS_MAX as u32,
        lookup_hashes_max: LOOKUP_HASHES_MAX as u32,
    }
}
