//! Waits until every gateway's views show what a request did, so that counts can be foretold.

use std::time::Duration;

use anyhow::Context;
use kvmesh_client::client::Chain;
use kvmesh_directory::{FeedPosition, Namespace};
use tokio::time::{Instant, timeout};

use crate::rpc::Peer;

/// A mesh whose views do not follow in this time has broken its promise.
const SETTLE_WITHIN: Duration = Duration::from_secs(30);

/// Waits for all gateways at once. Each waits for the positions itself (`at_least`), for
/// as long as it is willing to, and is then asked again.
///
/// # Errors
/// When one does not get there in time, or refuses.
pub async fn settle(
    gateways: &[Peer],
    namespace: &Namespace,
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
    namespace: &Namespace,
    probe: &Chain,
    positions: &[FeedPosition],
) -> anyhow::Result<()> {
    let cache = gateway.cache(namespace, positions)?;
    while cache.lookup(probe, 0).await?.view_behind {}
    Ok(())
}
