//! Asks the holders of a block that is here already whether they still have it.
//!
//! What the directory lists may be gone: a duplicate is acknowledged only for what holders
//! say themselves. They renew the copy's time and recency meanwhile, all of them, also those
//! whose answers are not waited for.

use std::collections::BTreeSet;

use kvmesh_directory::{BlockName, NodeId, state::Entry};
use tokio::{
    sync::mpsc,
    time::{Instant, timeout_at},
};
use tracing::debug;

use super::{Terms, spread::owner_timeout};
use crate::{Settings, node::Node, rpc::copy_client, store::CopyKey};

/// The holders that have the block as the terms want it, this node included; waits until
/// they are enough, each other one as long as an owner may take.
pub(super) async fn holders(
    node: &Node,
    name: BlockName,
    entry: &Entry,
    terms: &Terms,
    deadline: Instant,
) -> BTreeSet<NodeId> {
    let (enough, durable) = (terms.needed(), terms.durable());
    let (mut sure, mut own) = (BTreeSet::new(), None);
    let patience = match durable {
        // It may have to be written first.
        true => owner_timeout(&node.settings.now(), u64::from(entry.bytes)),
        false => Settings::millis(node.settings.now().owner_timeout_ms),
    };
    let until = deadline.min(Instant::now() + patience);
    let (told, mut tells) = mpsc::channel(entry.holders.len().max(1));
    for &copy in &entry.holders {
        if copy.node == node.me {
            own = Some(CopyKey { name, copy });
            continue;
        }
        let member = node.directory.with(|state| {
            let member = state.topology().member(copy.node)?;
            Some(member.address.clone())
        });
        let Some(address) = member else { continue };
        let (environment, told) = (node.environment.clone(), told.clone());
        node.tasks.spawn(async move {
            let has =
                copy_client::confirm(&environment, &address, name, (copy, durable), until).await;
            match has {
                Ok(true) => {
                    let _ = told.send(copy.node).await;
                }
                Ok(false) => debug!(node = %copy.node, "a holder does not have its copy"),
                Err(error) => debug!(node = %copy.node, %error, "a holder did not confirm"),
            }
        });
    }
    drop(told);
    // The others are asked by now.
    if let Some(key) = own.filter(|key| node.has(*key))
        && (!durable || node.store.make_durable(key, until).await.is_ok())
    {
        sure.insert(node.me);
    }
    while sure.len() < enough {
        match timeout_at(until, tells.recv()).await {
            Ok(Some(holder)) => sure.insert(holder),
            Ok(None) | Err(_) => break,
        };
    }
    sure
}
