//! Keeps connections to the other regions' gateways open, so that a far hit costs one round
//! trip, and not a handshake's as well.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use kvmesh_directory::RegionId;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::{context::Gateway, rpc};

/// How soon a gateway that was just heard of is connected to.
const TICK: Duration = Duration::from_millis(100);
/// An open connection is probed by HTTP/2 itself; this notices one that broke.
const TOUCH_EVERY: Duration = Duration::from_secs(5);
/// Gateways of one region that are kept warm.
const GATEWAYS_MAX: usize = 4;

/// A gateway, and its region.
type Known = (RegionId, String);

/// Touches the gateways of reachable regions until `over`.
pub(crate) async fn run(gateway: Arc<Gateway>, over: CancellationToken) {
    // Bounded by the regions of a mesh and `GATEWAYS_MAX`: rebuilt from the links each time.
    let mut touched: BTreeMap<Known, Instant> = BTreeMap::new();
    while !over.is_cancelled() {
        let now = Instant::now();
        let links = gateway.views.mesh.links().into_iter();
        let known = links
            .filter(|(_, link)| link.reachable)
            .flat_map(|(region, link)| {
                let gateways = link.gateways.into_iter().take(GATEWAYS_MAX);
                gateways.map(move |address| (region.clone(), address))
            });
        let known: Vec<Known> = known.collect();
        touched.retain(|known_at, at| known.contains(known_at) && *at + TOUCH_EVERY > now);
        let due = known.into_iter().filter(|at| !touched.contains_key(at));
        let due: Vec<Known> = due.collect();
        let touches = due.iter().map(|(region, address)| async {
            if let Ok(channel) = gateway.peers.far(region, address) {
                rpc::touch::touch(channel).await;
            }
        });
        tokio::select! {
            _ = futures::future::join_all(touches) => {}
            () = over.cancelled() => return,
        }
        touched.extend(due.into_iter().map(|at| (at, now)));
        tokio::select! {
            () = sleep(TICK) => {}
            () = over.cancelled() => return,
        }
    }
}
