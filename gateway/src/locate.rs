//! Which nodes own each block of a chain, and which hold it.

use std::time::Duration;

use kvmesh_client::Problem;
use kvmesh_directory::{Member, Namespace, NodeId, RingEpoch};
use tokio::time::Instant;

use crate::{context::Gateway, request::Query};

/// Where blocks belong and where they are; nodes by their place in `nodes`.
pub(crate) struct Located {
    pub(crate) epoch: RingEpoch,
    pub(crate) nodes: Vec<Member>,
    /// In chain order, parts innermost: owners, holders.
    pub(crate) blocks: Vec<(Vec<u32>, Vec<u32>)>,
    /// Who is on the ring; empty where that is known, or blocks move.
    pub(crate) ring: Vec<Member>,
}

/// Locates a chain by the ring of `epoch` (0: the current one). With `ring_known`, who is on a ring
/// of another epoch is said, too.
pub(crate) async fn locate(
    gateway: &Gateway,
    namespace: &Namespace,
    query: &Query,
    epoch: u64,
    ring_known: Option<u64>,
) -> Result<Located, Problem> {
    current_epoch(gateway, epoch).await?;
    let ring = gateway.views.ring();
    let current = ring.epoch();
    let replicas = namespace.policy.replicas as usize;
    Ok(gateway.views.local.with(|state| {
        let topology = state.topology();
        let nodes = topology.members.clone();
        // Topology and ring are read one after the other.
        let members = ring_known.map(|known| topology.ring_beside(RingEpoch(known), current));
        let place = |node: NodeId| {
            let at = nodes.binary_search_by_key(&node, |member| member.node);
            at.ok().and_then(|at| u32::try_from(at).ok())
        };
        let mut blocks = Vec::with_capacity(query.chain.len() * query.parts.len());
        for index in 0..query.chain.len() {
            for &part in &query.parts {
                let name = query.chain.name(namespace.id, index as u32, part);
                let owners = ring.preference(&name).iter().take(replicas);
                let entry = state.entry(&name);
                let holders = entry.iter().flat_map(|entry| &entry.holders);
                blocks.push((
                    owners.filter_map(|&node| place(node)).collect(),
                    holders.filter_map(|copy| place(copy.node)).collect(),
                ));
            }
        }
        Located {
            epoch: current,
            ring: members.into_iter().flatten().cloned().collect(),
            nodes,
            blocks,
        }
    }))
}

/// To a caller whom nodes do not serve: no node is named, and there is no ring to go by.
pub(crate) fn nowhere(query: &Query) -> Located {
    let blocks = query.chain.len() * query.parts.len();
    Located {
        epoch: RingEpoch(0),
        nodes: Vec::new(),
        blocks: vec![Default::default(); blocks],
        ring: Vec::new(),
    }
}

/// Refuses a call that goes by another ring than that of the current epoch; one that is ahead
/// is waited for. 0: whatever is current.
pub(crate) async fn current_epoch(gateway: &Gateway, epoch: u64) -> Result<(), Problem> {
    if epoch > gateway.views.ring().epoch().0 {
        let wait = Duration::from_millis(gateway.settings.now().epoch_wait_ms);
        let until = Instant::now() + wait;
        if !gateway.views.epoch(|current| current >= epoch, until).await {
            let what = format!("this gateway has not heard of ring epoch {epoch} yet: ask again");
            return Err(Problem::unavailable(what));
        }
    }
    match gateway.views.ring().epoch().0 {
        current if epoch != 0 && epoch != current => Err(Problem::StaleEpoch {
            current,
            named: epoch,
        }),
        _ => Ok(()),
    }
}
