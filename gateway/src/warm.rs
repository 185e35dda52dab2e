//! Keeps connections to the other regions' gateways open, so that a far hit costs one round
//! trip, and not a handshake's as well; and tries those that failed, so that no client has to.
//! New connections find out how fast they may send by `measure`.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use futures::{StreamExt, future::join_all, stream::FuturesUnordered};
use kvmesh_directory::RegionId;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tracing::warn;

use crate::{
    context::Gateway,
    lanes::{self, Lanes},
    rpc::{self, touch::TOUCH_TIMEOUT},
};

/// How soon a gateway that was just heard of is connected to.
const TICK: Duration = Duration::from_millis(100);
/// An open connection is probed by HTTP/2 itself; this notices one that broke.
const TOUCH_EVERY: Duration = Duration::from_secs(5);
/// One that failed is tried so often. Under `failure_memory_ms`, it stays behind the others.
const RETRY_EVERY: Duration = Duration::from_millis(500);
/// Gateways of one region that are kept warm.
const GATEWAYS_MAX: usize = 4;

/// A gateway, and its region.
pub(crate) type Known = (RegionId, String);

/// Touches the gateways of reachable regions until `over`.
pub(crate) async fn run(gateway: Arc<Gateway>, over: CancellationToken) {
    // Bounded by the regions of a mesh and `GATEWAYS_MAX`: rebuilt from the links each time.
    let mut next: BTreeMap<Known, Instant> = BTreeMap::new();
    let mut under_way: BTreeSet<Known> = BTreeSet::new();
    // Those that did not answer when they were touched last.
    let mut silent: BTreeSet<Known> = BTreeSet::new();
    let mut touches = FuturesUnordered::new();
    let mut tick = interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = tick.tick() => {
                let known = known(&gateway);
                next.retain(|at, _| known.contains(at));
                silent.retain(|at| known.contains(at));
                let now = Instant::now();
                let doubted = gateway.peers.take_doubted(&under_way);
                for at in known.into_iter().chain(doubted.clone()) {
                    let lost = gateway.reach.is_lost(&at.0);
                    let due = next.get(&at).is_none_or(|&due| due <= now);
                    let due = due || doubted.contains(&at);
                    if (due || lost && soon(&next, &at, now)) && under_way.insert(at.clone()) {
                        touches.push(touch(&gateway, at));
                    }
                }
            }
            Some((at, answers)) = touches.next() => {
                under_way.remove(&at);
                let hold = Duration::from_millis(gateway.settings.now().failure_memory_ms);
                let again = match answers {
                    Ok(()) => {
                        silent.remove(&at);
                        gateway.reach.answers(&at.0, hold);
                        TOUCH_EVERY
                    }
                    Err(status) => {
                        silent.insert(at.clone());
                        gateway.peers.failed(&at.1);
                        give_up(&gateway, &at, &silent, &status);
                        RETRY_EVERY
                    }
                };
                next.insert(at, Instant::now() + again);
            }
            () = over.cancelled() => return,
        }
    }
}

/// A region none of whose gateways answers is lost before a client's call finds it so.
fn give_up(
    gateway: &Gateway,
    (region, address): &Known,
    silent: &BTreeSet<Known>,
    status: &Status,
) {
    let mut gateways = known(gateway).into_iter().filter(|at| at.0 == *region);
    if gateways.all(|at| silent.contains(&at)) && !gateway.reach.is_lost(region) {
        warn!(%region, address, error = %status, "a region does not answer: it is left out");
        gateway.reach.unreached(region);
        gateway.meters.unreached(region);
    }
}

/// Of a region that was lost since it was touched: it is not left until the next turn.
fn soon(next: &BTreeMap<Known, Instant>, at: &Known, now: Instant) -> bool {
    let due = next.get(at);
    due.is_none_or(|&due| due <= now + TOUCH_EVERY - RETRY_EVERY)
}

/// The gateways of reachable regions that are kept warm.
pub(crate) fn known(gateway: &Gateway) -> Vec<Known> {
    let links = gateway.views.mesh.links().into_iter();
    let reachable = links.filter(|(_, link)| link.reachable);
    let known = reachable.flat_map(|(region, link)| {
        let gateways = link.gateways.into_iter().take(GATEWAYS_MAX);
        gateways.map(move |address| (region.clone(), address))
    });
    known.collect()
}

/// Whether it answers; if it does, the lanes that fill its link are kept warm as well.
async fn touch(gateway: &Gateway, (region, address): Known) -> (Known, Result<(), Status>) {
    let one = async |lane| match gateway.peers.far(&region, &address, lane) {
        Ok(channel) => rpc::touch::touch(channel).await,
        Err(problem) => Err(problem.into()),
    };
    let lanes = Lanes::to(gateway, &region, &address, 0);
    let answers = one(0).await;
    // On a full link an answer, or a new connection, may take longer.
    let answers = answers.or_else(|status| lanes.busiest().map(drop).ok_or(status));
    if let (Ok(()), Some(link)) = (&answers, gateway.views.mesh.link(&region)) {
        if lanes::may_be_several(&link)
            && let Ok(channel) = gateway.peers.far(&region, &address, 0)
            && let Some(bytes) = rpc::measure::ask_sent_at_once(channel, TOUCH_TIMEOUT).await
        {
            gateway.links.sends_at_once(&region, bytes);
        }
        let lanes = lanes::of_link(gateway, &region, &link);
        join_all((1..lanes).map(one)).await;
    }
    ((region, address), answers)
}
