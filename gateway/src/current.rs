//! Whether the region's view shows every delete that was acknowledged before a moment.
//!
//! A delete is acknowledged without waiting for gateways, so a view may be behind it. Nodes
//! answer for themselves; what another region sends is only as deleted as the view knows.
//! A node that holds its serve lease has applied every acknowledged delete: its position,
//! asked for after the get began and reached by the view, is proof. The question travels
//! while the far region is asked and so costs no time.

use std::sync::Arc;

use kvmesh_directory::NamespaceId;
use tokio::{
    sync::oneshot,
    time::{Instant, timeout_at},
};

use crate::{
    context::Gateway,
    rpc::control::{self, Failure},
};

/// Nodes that are asked, one after the other.
const NODES_MAX: usize = 3;

/// A question under way; dropped, it ends.
pub(crate) enum Current {
    Asked(oneshot::Receiver<bool>),
    Known(bool),
}

impl Current {
    /// Asks the nodes of the region.
    pub(crate) fn ask(gateway: &Arc<Gateway>, namespace: NamespaceId, until: Instant) -> Self {
        let (mut answer, asked) = oneshot::channel();
        let shared = Arc::clone(gateway);
        gateway.tasks.spawn(async move {
            let shows = tokio::select! {
                shows = shows_all(&shared, namespace, until) => shows,
                () = answer.closed() => return,
            };
            // Whoever asked has gone.
            let _ = answer.send(shows);
        });
        Self::Asked(asked)
    }

    /// Whether the view shows all deletes that were acknowledged before [`Self::ask`].
    pub(crate) async fn holds(&mut self) -> bool {
        if let Self::Asked(asked) = self {
            let holds = asked.await.unwrap_or(false);
            *self = Self::Known(holds);
        }
        matches!(self, Self::Known(true))
    }
}

async fn shows_all(gateway: &Gateway, namespace: NamespaceId, until: Instant) -> bool {
    let addresses = gateway.views.node_addresses(&[]);
    for address in gateway.peers.in_turn(&addresses).iter().take(NODES_MAX) {
        let Ok(channel) = gateway.peers.channel(address) else {
            continue;
        };
        gateway.meters.outbound("Lookup");
        let patience = until.min(Instant::now() + gateway.owner_timeout(0));
        let asking = control::position(channel, namespace, patience);
        match timeout_at(patience, asking).await {
            Ok(Ok(Some(position))) => return gateway.views.at_least(&[position], until).await,
            // Without its serve lease it may be behind as well.
            Ok(Ok(None)) => {}
            Ok(Err(Failure::Unreachable(_))) | Err(_) => gateway.peers.failed(address),
            Ok(Err(Failure::Final(_) | Failure::Next(_))) => {}
        }
    }
    tracing::debug!("no node of the region says how far it is: other regions are not believed");
    false
}
