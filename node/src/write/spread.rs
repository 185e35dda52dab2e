//! Copies a block to further owners: down the preference list, past those that fail.

use std::{sync::Arc, time::Duration};

use futures::{StreamExt, stream::FuturesUnordered};
use kvmesh_client::Block;
use kvmesh_directory::{BlockName, Copy, NodeId};
use kvmesh_process::telemetry::SPANS;
use tokio::time::{Instant, timeout_at};
use tracing::{Instrument, debug, info_span};

use crate::{
    Settings,
    node::Node,
    rpc::copy_client::{self, CopyError},
};

/// Copies a block to `count` more living nodes of its preference list, but to none of
/// `except`. Returns the copies that were taken, which may be fewer; when they are to be
/// `durable`, those that are on disk.
pub(crate) async fn spread(
    node: &Node,
    name: BlockName,
    block: &Arc<Block>,
    (count, durable): (usize, bool),
    except: &[NodeId],
    deadline: Instant,
) -> Vec<Copy> {
    // Bounds the copies that leave this node at a time; a deadline bounds the wait.
    let Ok(Ok(_turn)) = timeout_at(deadline, node.copying.acquire()).await else {
        return Vec::new();
    };
    let mut candidates = node.placement.candidates(&name, except).into_iter();
    let timeout = owner_timeout(&node.settings.now(), block.meta.bytes);
    let send = |(owner, address): (NodeId, String)| async move {
        let until = deadline.min(Instant::now() + timeout);
        let span = info_span!(
            target: SPANS,
            "copy",
            otel.kind = "client",
            kvmesh.node = %owner,
        );
        let sending = copy_client::send(&node.environment, &address, name, (block, durable), until);
        (owner, sending.instrument(span).await)
    };
    let mut sending: FuturesUnordered<_> = candidates.by_ref().take(count).map(send).collect();
    let mut copies = Vec::with_capacity(count);
    while let Some((owner, sent)) = sending.next().await {
        let silent = matches!(sent, Err(CopyError::OutOfTime | CopyError::Call(_)));
        node.placement.answered(owner, !silent);
        match sent {
            Ok(copy) if copy.node == owner => copies.push(copy),
            Ok(copy) => {
                debug!(%owner, got = %copy.node, "another node answers at an owner's address")
            }
            Err(error) => debug!(%owner, %error, "an owner did not take a copy"),
        }
        while copies.len() + sending.len() < count {
            match candidates.next() {
                Some(next) => sending.push(send(next)),
                None => break,
            }
        }
    }
    copies
}

/// How long another owner may take for a block.
pub(super) fn owner_timeout(settings: &Settings, bytes: u64) -> Duration {
    let for_bytes = bytes.saturating_mul(1_000) / settings.owner_rate.max(1);
    Settings::millis(settings.owner_timeout_ms + for_bytes)
}
