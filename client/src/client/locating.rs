//! Where blocks are, as the ring or a gateway says before nodes are asked themselves.

use std::time::Duration;

use kvmesh_directory::{NamespaceId, Part, RingEpoch};
use tokio::time::{Instant, timeout_at};

use super::{Chain, Located, Shared};
use crate::rpc::{CacheRpc, Range};

/// Names that are located at a time: calls about more go through a gateway.
const LOCATED_MAX: usize = 4_096;
/// How long a gateway may take to locate blocks; it does so from memory.
const LOCATE_MAX: Duration = Duration::from_millis(250);

/// Whose blocks are located.
#[derive(Debug, Clone, Copy)]
pub(super) struct Of {
    pub(super) namespace: NamespaceId,
    /// As its policy was when it was opened.
    pub(super) replicas: u32,
}

/// Owners and holders of each block and part, parts innermost. By the ring, where `guess` says
/// that holders may be guessed, it was said before, and it is not old; else by `gateway`. None:
/// they are too many, not known in time, or not for this client, which is of another region than
/// they; that is not the way for this call.
pub(super) async fn locate(
    shared: &Shared,
    (gateway, rpc): (usize, CacheRpc),
    (of, guess): (Of, bool),
    (chain, parts): (&Chain, &[Part]),
    deadline: Instant,
) -> Option<Located> {
    if chain.len() as usize * parts.len() > LOCATED_MAX || shared.ring.is_closed(gateway) {
        return None;
    }
    let by_ring = || shared.ring.locate(gateway, of, chain, parts);
    if let Some(located) = guess.then(by_ring).flatten() {
        return Some(located);
    }
    let range = Range {
        namespace: of.namespace,
        chain: chain.clone(),
        start: 0,
        count: 0,
        parts: parts.to_vec(),
    };
    let until = deadline.min(Instant::now() + LOCATE_MAX);
    let left = until.saturating_duration_since(Instant::now());
    let known = Some(shared.ring.epoch(gateway));
    let located = timeout_at(until, rpc.locate(range, RingEpoch(0), known, left)).await;
    let (located, members) = located.ok()?.ok()?;
    if located.nodes.is_empty() {
        shared.ring.closed(gateway);
        return None;
    }
    shared.ring.heard(gateway, located.ring_epoch, members);
    Some(located)
}
