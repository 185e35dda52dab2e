//! `Locate`: which nodes own each block of a chain, and which have it.

use kvmesh_client::{
    Problem,
    convert::{self, each},
};
use kvmesh_directory::{BlockName, Member, NodeId, RingEpoch, Topology, limits::LOOKUP_HASHES_MAX};
use kvmesh_proto::v1 as wire;

use super::{chain_of, namespace_of};
use crate::node::Node;

pub(super) async fn locate(
    node: &Node,
    request: wire::LocateRequest,
) -> Result<wire::LocateResponse, Problem> {
    let namespace = namespace_of(node, &request.namespace_id)?;
    let hashes = chain_of(request.chain.as_ref(), &namespace)?;
    let parts = convert::parts(&request.parts, &namespace.description)?;
    if hashes.len() * parts.len() > LOOKUP_HASHES_MAX {
        let why = format!("over {LOOKUP_HASHES_MAX} blocks over all parts: split the call");
        return Err(Problem::invalid("parts", why));
    }
    if request.ring_epoch > 0 {
        node.at_epoch(RingEpoch(request.ring_epoch)).await?;
    }
    let (ring, state) = (node.placement.ring(), node.directory.freeze());
    let topology = state.topology();
    let replicas = namespace.policy.replicas as usize;
    let mut blocks = Vec::with_capacity(hashes.len() * parts.len());
    for hash in hashes {
        for part in &parts {
            let name = BlockName {
                namespace: namespace.id,
                hash,
                part: *part,
            };
            let owners = ring.preference(&name).iter().take(replicas);
            let entry = state.entry(&name);
            let holders = entry.iter().flat_map(|entry| &entry.holders);
            blocks.push(wire::BlockOwners {
                owners: owners.filter_map(|node| index(topology, *node)).collect(),
                holders: holders
                    .filter_map(|copy| index(topology, copy.node))
                    .collect(),
            });
        }
    }
    let endpoint = |member: &Member| wire::NodeEndpoint {
        node: member.node.0,
        address: member.address.clone(),
        zone: member.zone.clone(),
    };
    let known = request.ring_known.map(RingEpoch);
    let members = known.map(|known| topology.ring_beside(known, ring.epoch()));
    let members: Vec<Member> = members.into_iter().flatten().cloned().collect();
    Ok(wire::LocateResponse {
        ring_epoch: ring.epoch().0,
        nodes: topology.members.iter().map(endpoint).collect(),
        blocks,
        ring: each(&members),
    })
}

fn index(topology: &Topology, node: NodeId) -> Option<u32> {
    let at = topology
        .members
        .binary_search_by_key(&node, |member| member.node);
    u32::try_from(at.ok()?).ok()
}
