//! Where blocks are, as a gateway says before nodes are asked themselves.

use std::time::Duration;

use kvmesh_directory::{NamespaceId, Part, RingEpoch};
use tokio::time::{Instant, timeout_at};

use super::{Chain, Located};
use crate::rpc::{CacheRpc, Range};

/// Names that are located at a time: calls about more go through a gateway.
const LOCATED_MAX: usize = 4_096;
/// How long a gateway may take to locate blocks; it does so from memory.
const LOCATE_MAX: Duration = Duration::from_millis(250);

/// Owners and holders of each block and part, parts innermost. None: they are too many, or not
/// known in time; that is not the way for this call.
pub(super) async fn locate(
    rpc: CacheRpc,
    namespace: NamespaceId,
    chain: Chain,
    parts: Vec<Part>,
    deadline: Instant,
) -> Option<Located> {
    if chain.len() as usize * parts.len() > LOCATED_MAX {
        return None;
    }
    let range = Range {
        namespace,
        chain,
        start: 0,
        count: 0,
        parts,
    };
    let until = deadline.min(Instant::now() + LOCATE_MAX);
    let left = until.saturating_duration_since(Instant::now());
    let located = timeout_at(until, rpc.locate(range, RingEpoch(0), left)).await;
    located.ok()?.ok()
}
