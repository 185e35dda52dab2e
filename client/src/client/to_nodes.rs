//! The first try of a put: each block straight to the node that owns it, through its memory where
//! it is on this host.
//!
//! What is not answered for good this way goes through a gateway after it.

use std::{
    collections::{BTreeMap, BTreeSet},
    future::Future,
    sync::Arc,
    time::Duration,
};

use futures::{FutureExt, future::join_all};
use kvmesh_directory::{NodeId, Part};
use tokio::time::{Instant, timeout_at};

use super::{
    Chain, Located, Path, PutBlock, PutResult, Shared,
    locating::{self, Of},
    put::Results,
    put_attempt::{self, AttemptError, Way},
    through_memory,
};
use crate::{
    refusal::RefusalReason,
    rpc::{CacheRpc, PutOpen, RpcError},
};

/// A node has so long, and the time of its bytes at so many a second, before it is given up.
const PATIENCE: Duration = Duration::from_secs(3);
const BYTES_PER_S_MIN: u64 = 33_000_000;

/// The blocks that one node is to get.
pub(super) struct Share {
    pub(super) node: NodeId,
    address: String,
    rpc: CacheRpc,
    /// Places among the put's blocks.
    pub(super) blocks: Vec<usize>,
    pub(super) results: Results,
    /// It has all of their bytes.
    pub(super) given: BTreeSet<usize>,
    /// It had them before, and did not say what became of them.
    pub(super) perhaps: BTreeSet<usize>,
}

/// Puts what can be put this way. `results` are those that stand; of what is in `perhaps`, a
/// node was given all bytes and did not say what became of it.
pub(super) async fn put(
    shared: &Arc<Shared>,
    gateway: (usize, CacheRpc),
    (open, replicas): (&PutOpen, u32),
    blocks: &[PutBlock],
    (deadline, silent): (Instant, impl Future<Output = RpcError> + Send + 'static),
    results: &mut Results,
    perhaps: &mut BTreeSet<usize>,
) {
    let of = Of {
        namespace: open.namespace,
        replicas,
    };
    let Some(located) = locate(shared, gateway, of, blocks, deadline).await else {
        return;
    };
    // Nodes that say nothing while their gateway is silent, too, are not waited for.
    let silent = silent.map(|_| ()).boxed().shared();
    let epoch = located.0.ring_epoch;
    let mut shares = shares(shared, &located, blocks);
    let putting = shares.iter_mut().map(|share| {
        let bytes: u64 = share
            .blocks
            .iter()
            .map(|at| blocks[*at].block.meta.bytes)
            .sum();
        let patience = PATIENCE + Duration::from_secs(bytes / BYTES_PER_S_MIN);
        let left = deadline.saturating_duration_since(Instant::now());
        // Enough is left for a gateway to try it.
        let patience = patience.min(left / 2);
        let open = PutOpen {
            epoch,
            left: patience,
            overrides: true,
            ..open.clone()
        };
        let silent = silent.clone();
        async move {
            let until = Instant::now() + patience;
            let here = through_memory::put(shared, share, &open, blocks, until);
            let pending = tokio::select! {
                biased;
                pending = here => pending,
                () = silent.clone() => return,
            };
            if pending.is_empty() {
                return;
            }
            let attempt = put_attempt::run(
                Way::Rpc(share.rpc.clone()),
                open,
                blocks,
                &pending,
                &mut share.results,
                &mut share.given,
            );
            let nodes = shared.nodes.as_ref();
            let failed = |why: &dyn std::fmt::Display| {
                nodes.inspect(|nodes| nodes.failed(&share.address, why));
            };
            let attempt = timeout_at(until, attempt);
            let ended = tokio::select! {
                biased;
                ended = attempt => ended,
                () = silent => return,
            };
            match ended {
                Ok(Ok(())) => {
                    nodes.inspect(|nodes| nodes.answered(&share.address));
                }
                // Of another ring: the node is well.
                Ok(Err(AttemptError::Rpc(error))) if error.is_stale_epoch() => {
                    shared.ring.misled();
                }
                Ok(Err(AttemptError::Rpc(error))) => failed(&error),
                Ok(Err(AttemptError::Protocol(what))) => failed(&what),
                Err(_) => failed(&"it did not answer a put in time"),
            }
        }
    });
    join_all(putting).await;
    for mut share in shares {
        perhaps.append(&mut share.perhaps);
        for at in share.blocks {
            match &share.results[at] {
                None if share.given.contains(&at) => {
                    perhaps.insert(at);
                }
                // A gateway finds another owner.
                Some(PutResult::Refused(refused)) if passing(refused.reason) => {
                    if refused.reason == RefusalReason::StaleEpoch {
                        shared.ring.misled();
                    }
                }
                result => results[at].clone_from(result),
            }
            if let Some(PutResult::Acked(acked)) = &mut results[at]
                && acked.path == Path::Gateway
            {
                acked.path = Path::Node;
            }
        }
    }
}

fn passing(reason: RefusalReason) -> bool {
    matches!(
        reason,
        RefusalReason::StaleEpoch | RefusalReason::Unavailable | RefusalReason::OutOfTime
    )
}

/// Owners of each block: where `Located` has it, by hash and part.
type Places<'a> = BTreeMap<(&'a [u8], Part), usize>;

async fn locate<'a>(
    shared: &Shared,
    gateway: (usize, CacheRpc),
    of: Of,
    blocks: &'a [PutBlock],
    deadline: Instant,
) -> Option<(Located, Places<'a>)> {
    shared.nodes.as_ref()?;
    let hashes: BTreeSet<&[u8]> = blocks.iter().map(|block| &block.hash[..]).collect();
    let parts: BTreeSet<Part> = blocks.iter().map(|block| block.part).collect();
    let chain = Chain::new(&hashes).ok()?;
    let each: Vec<Part> = parts.iter().copied().collect();
    let located = locating::locate(shared, gateway, (of, true), (&chain, &each), deadline).await?;
    let names = hashes
        .iter()
        .flat_map(|hash| parts.iter().map(|part| (*hash, *part)));
    let places = names.enumerate().map(|(at, name)| (name, at)).collect();
    Some((located, places))
}

fn shares(
    shared: &Shared,
    (located, places): &(Located, Places<'_>),
    blocks: &[PutBlock],
) -> Vec<Share> {
    let Some(nodes) = &shared.nodes else {
        return Vec::new();
    };
    let mut shares: Vec<Share> = Vec::new();
    for (at, block) in blocks.iter().enumerate() {
        let owners = places.get(&(&block.hash[..], block.part));
        let owners = owners.and_then(|place| located.blocks.get(*place));
        let in_turn = owners.iter().flat_map(|owners| &owners.owners);
        let mut addresses = in_turn.filter_map(|node| located.nodes.get(*node));
        // The next owner would do, but a gateway knows better who lives.
        let primary = addresses
            .next()
            .filter(|node| nodes.is_usable(&node.address));
        let Some(node) = primary else { continue };
        match shares
            .iter_mut()
            .find(|share| share.address == node.address)
        {
            Some(share) => share.blocks.push(at),
            None => shares.extend(nodes.rpc(&node.address).map(|rpc| Share {
                node: node.node,
                address: node.address.clone(),
                rpc,
                blocks: vec![at],
                results: vec![None; blocks.len()],
                given: BTreeSet::new(),
                perhaps: BTreeSet::new(),
            })),
        }
    }
    shares
}

#[cfg(test)]
#[path = "to_nodes_test.rs"]
mod to_nodes_test;
