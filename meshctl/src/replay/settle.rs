//! Waits until every gateway's views show what a request did, so that counts can be foretold.

use std::time::Duration;

use anyhow::Context;
use kvmesh_directory::{FeedPosition, NamespaceId};
use tokio::time::{Instant, timeout};

use crate::{chain::Chain, rpc::Peer};

/// A mesh whose views do not follow in this time has broken its promise.
const SETTLE_WITHIN: Duration = Duration::from_secs(30);

/// Waits for all gateways at once. Each waits for the positions itself (`at_least`), for
/// as long as it is willing to, and is then asked again.
///
/// # Errors
/// When one does not get there in time, or refuses.
pub async fn settle(
    gateways: &[Peer],
    namespace: NamespaceId,
    probe: &Chain,
    positions: &[FeedPosition],
) -> anyhow::Result<Duration> {
    let started = Instant::now();
    let all = gateways
        .iter()
        .map(|gateway| reach(gateway, namespace, probe, positions));
    timeout(SETTLE_WITHIN, futures::future::try_join_all(all))
        .await
        .with_context(|| {
            format!("a gateway's views did not reach {positions:?} in {SETTLE_WITHIN:?}")
        })??;
    Ok(started.elapsed())
}

async fn reach(
    gateway: &Peer,
    namespace: NamespaceId,
    probe: &Chain,
    positions: &[FeedPosition],
) -> anyhow::Result<()> {
    loop {
        let found = gateway.lookup(namespace, probe, 0, positions).await?;
        if !found.view_behind {
            return Ok(());
        }
    }
}
