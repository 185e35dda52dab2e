//! `Lease` on a node: keeps copies that the directory says are here from being evicted.

use std::time::Duration;

use kvmesh_client::{FromWire, Problem, ToWire, convert::all, lease::LeaseId};
use kvmesh_directory::{
    BlockKey, BlockName, NamespaceId,
    limits::{LEASE_BLOCKS_MAX, LEASE_MS_MAX},
};
use kvmesh_proto::v1 as wire;

use super::namespace_of;
use crate::node::Node;

/// When a caller that found a limit of leases used up should try again.
const RETRY_AFTER: Duration = Duration::from_secs(1);

pub(super) fn lease(
    node: &Node,
    request: wire::LeaseRequest,
) -> Result<wire::LeaseResponse, Problem> {
    let namespace = namespace_of(node, &request.namespace_id)?.id;
    if !request.chains.is_empty() || !request.at_least.is_empty() {
        let why = "a node leases by id and keys: ask a gateway to lease chains";
        return Err(Problem::invalid("chains", why));
    }
    let takes = !request.id.is_empty() || !request.keys.is_empty();
    let hold = granted(node, request.hold_ms);
    match (takes, request.renew.is_empty(), request.release.is_empty()) {
        (true, true, true) => take(node, namespace, request, hold),
        (false, false, true) => renew(node, (namespace, LeaseId::from_wire(request.renew)?), hold),
        (false, true, false) => {
            let lease = (namespace, LeaseId::from_wire(request.release)?);
            Ok(wire::LeaseResponse {
                blocks: count(node.store.release_lease(lease)),
                ..Default::default()
            })
        }
        _ => {
            let why = "name exactly one of id with keys, renew and release";
            Err(Problem::invalid("id", why))
        }
    }
}

/// For how long, when so long was asked for.
fn granted(node: &Node, hold_ms: u32) -> Duration {
    let wanted = match hold_ms {
        0 => node.settings.now().lease_ttl_ms,
        named => u64::from(named),
    };
    Duration::from_millis(wanted.min(LEASE_MS_MAX))
}

fn take(
    node: &Node,
    namespace: NamespaceId,
    request: wire::LeaseRequest,
    hold: Duration,
) -> Result<wire::LeaseResponse, Problem> {
    let id = LeaseId::from_wire(request.id)?;
    if request.keys.len() > LEASE_BLOCKS_MAX {
        let got = request.keys.len();
        let why = format!("{got} blocks, the limit of one lease is {LEASE_BLOCKS_MAX}");
        return Err(Problem::invalid("keys", why));
    }
    if !node.consensus.lease_valid() {
        let why = "this node has not heard from its leader for a while: ask again";
        return Err(Problem::unavailable(why));
    }
    let keys: Vec<BlockKey> = all(request.keys)?;
    let listed = keys.iter().map(|key| {
        let name = BlockName {
            namespace,
            hash: key.hash,
            part: key.part,
        };
        node.listed(&name).map(|(_, copy)| copy)
    });
    let wished: Vec<_> = listed.collect();
    let granted = node.store.lease((namespace, id), &wished, hold);
    if let (0, Some(limit)) = (granted.copies, granted.limit) {
        return Err(Problem::Exhausted {
            limit: limit.to_owned(),
            retry_after: RETRY_AFTER,
        });
    }
    for copy in granted.missing.iter().filter_map(|at| wished[*at]) {
        if !node.store.holds(copy) {
            node.stale_claim(copy);
        }
    }
    Ok(wire::LeaseResponse {
        lease: id.to_wire(),
        blocks: count(granted.copies),
        hold_ms: millis(hold),
        missing: granted.missing.into_iter().map(count).collect(),
        ..Default::default()
    })
}

fn renew(
    node: &Node,
    lease: (NamespaceId, LeaseId),
    hold: Duration,
) -> Result<wire::LeaseResponse, Problem> {
    let blocks = node.store.renew_lease(lease, hold);
    Ok(wire::LeaseResponse {
        lease: lease.1.to_wire(),
        blocks: count(blocks.ok_or(Problem::UnknownLease)?),
        hold_ms: millis(hold),
        ..Default::default()
    })
}

fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

fn millis(hold: Duration) -> u32 {
    u32::try_from(hold.as_millis()).unwrap_or(u32::MAX)
}
