//! What a node lets go by policy: copies past their namespace's TTL, and those that went through
//! a lossy encoding where the policy does not allow that any more. Also tells the store
//! which share of its memory each namespace has.

use kvmesh_directory::{DirectoryState, NamespaceId};
use tokio::time::Duration;

use crate::{node::Node, store::Sweep};

/// Copies that are looked at in one go.
const LOOKED_AT: usize = 4_096;
/// Goes between two looks at the shares: about a second.
const GOES_PER_SHARES: u64 = 10;

/// Where the sweep is.
#[derive(Default)]
pub(crate) struct Aging {
    sweep: Sweep,
    goes: u64,
}

impl Aging {
    /// One bounded go.
    pub(crate) async fn go(&mut self, node: &Node) {
        if self.goes.is_multiple_of(GOES_PER_SHARES) {
            let permille: Vec<(NamespaceId, u32)> = node.directory.with(|state| {
                let namespaces = state.namespaces();
                namespaces
                    .map(|namespace| (namespace.id, namespace.policy.quota_permille))
                    .collect()
            });
            node.store.set_shares(permille.into_iter());
        }
        self.goes += 1;
        // What cannot be reported now stays a little longer.
        if node.reports.is_full() {
            return;
        }
        let ttl = |id, lossy| node.directory.with(|state| ttl_of(state, id, lossy));
        let outlived = node.store.outlived(&mut self.sweep, LOOKED_AT, ttl);
        for key in &outlived {
            node.store.remove(*key).await;
        }
        node.reports.evicted(&outlived);
        node.metrics.outlived.increment(outlived.len() as u64);
    }
}

fn ttl_of(state: &DirectoryState, id: NamespaceId, lossy: bool) -> Option<Duration> {
    let ttl_ms = state.namespace(id)?.policy.ttl_ms;
    if lossy && !state.takes_lossy(id) {
        return Some(Duration::ZERO);
    }
    (ttl_ms > 0).then(|| Duration::from_millis(ttl_ms))
}
