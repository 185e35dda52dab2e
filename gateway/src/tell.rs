//! Tells region-sync what fetches showed of the links, so that all gateways of the region know it.

use std::{sync::Arc, time::Duration};

use futures::future::join_all;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::{context::Gateway, rpc};

/// How often it is told, where there is something to tell.
const TICK: Duration = Duration::from_secs(1);

/// Tells every region-sync of the region until `over`. What one of them does not take is not
/// told again: the next fetches show as much.
pub(crate) async fn run(gateway: Arc<Gateway>, over: CancellationToken) {
    let mut tick = interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while over.run_until_cancelled(tick.tick()).await.is_some() {
        let transfers = gateway.links.take_untold();
        if transfers.is_empty() {
            continue;
        }
        let settings = gateway.settings.now();
        let told = settings.region_syncs.iter().map(async |address| {
            let told = match gateway.peers.region_sync(address) {
                Ok(channel) => rpc::transferred::tell(channel, &transfers).await,
                Err(problem) => Err(problem.into()),
            };
            if let Err(status) = told {
                debug!(%address, %status, "region-sync was not told of the links");
            }
        });
        if over.run_until_cancelled(join_all(told)).await.is_none() {
            return;
        }
    }
}
