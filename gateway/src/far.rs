//! Fetches from other regions: one call per region to one of its gateways, or some where one
//! connection would not fill the link, each run by a task of its own that ends when nobody waits
//! any more or at the longest waiter's deadline.

mod by;
mod hedge;
mod transfer;

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use kvmesh_client::{Ranges, follow::Link};
use kvmesh_directory::{
    BlockName, Hlc, MeshView, Namespace, Part, RegionId, cost::Time, view::Moment,
};
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use kvmesh_process::telemetry::{self, SPANS};
use tracing::{Instrument, info_span};

pub(crate) use hedge::Hedges;

use crate::{
    coding,
    context::Gateway,
    flight::{Flight, Ticket},
    lanes,
    links::Timing,
    read::Slot,
    request::Want,
    rpc::ask::Ask,
    way::Class,
};

/// Of the bytes that may be fetched at once, the part that blocks which one fetch brings together
/// take: it may be that none but the first of them is read yet.
const TOGETHER: u64 = 8;

/// A block that this fetch leads.
struct Led {
    index: u32,
    part: Part,
    hash: Bytes,
    flight: Arc<Flight>,
}

struct Fetch {
    region: RegionId,
    link: Link,
    namespace: Arc<Namespace>,
    ask: Ask,
    led: Vec<Led>,
    left: watch::Receiver<()>,
    /// What the view had heard when the region was asked.
    asked: Moment,
    /// A gateway of the region has begun to answer.
    answered: CancellationToken,
    class: Class,
    /// Which of the connections to the region.
    lane: usize,
    /// Shared with the other lanes.
    timing: Arc<Timing>,
}

/// Joins the flights of `wanted`, all of which `region` has, and begins those that nobody
/// flies. Also gives what that is expected to take, where the link is known.
pub(crate) fn join(
    gateway: &Arc<Gateway>,
    want: &Want,
    region: &RegionId,
    wanted: &[&Slot],
    until: Instant,
) -> (Vec<Ticket>, Option<Time>) {
    let left = Arc::new(watch::Sender::new(()));
    let mut tickets = Vec::with_capacity(wanted.len());
    let (mut led, mut own): (BTreeMap<u32, Vec<Led>>, u64) = (BTreeMap::new(), 0);
    let visible = |name: &BlockName, put_hlc| visible(gateway, name, put_hlc);
    for slot in wanted {
        let (ticket, new) = gateway.flights.join(slot.name, until, &left, visible);
        if !want.aside {
            ticket.want();
        }
        tickets.push(ticket);
        match new {
            Some(flight) => {
                own += slot.bytes;
                led.entry(slot.index).or_default().push(Led {
                    index: slot.index,
                    part: slot.part,
                    hash: want.chain.engine_hash(slot.index),
                    flight,
                });
            }
            None => gateway.meters.flight_shared(),
        }
    }
    let link = gateway.views.mesh.link(region);
    let bytes: u64 = wanted.iter().map(|slot| slot.bytes).sum();
    let estimate = link.as_ref().map(|link| {
        let cost = coding::cost(gateway, &want.namespace, region, link);
        cost.fetch(bytes as f64)
    });
    let Some(link) = link else {
        for led in led.values().flatten() {
            gateway.flights.lose(&led.flight, false);
        }
        return (tickets, estimate);
    };
    let largest = wanted.iter().map(|slot| slot.bytes).max().unwrap_or(0);
    let room = gateway.settings.now().inflight_bytes_max / TOGETHER;
    let travel = coding::travel(gateway, &want.namespace, &link, bytes);
    let filling = lanes::of_link(gateway, region, &link);
    let lanes = lanes::of_fetch(filling, travel, largest, room);
    // What is pushed has connections of its own: nothing that is waited for is behind it there.
    let (first, lanes) = match want.class {
        Class::Demand => (0, lanes),
        Class::Pushed => (lanes::LANES_MAX, lanes.div_ceil(2)),
    };
    let to_come = coding::travel(gateway, &want.namespace, &link, own);
    let timed = (want.class, to_come);
    let timing = Arc::new(gateway.links.time(region, &link, lanes, timed));
    let asked = gateway.views.mesh.with(MeshView::now);
    for ((lane, parts), led) in dealt(led, lanes) {
        let between = (&gateway.region, region);
        let way = (link.clone(), first + lane, Arc::clone(&timing), asked);
        let fetch = fetch_of(want, between, way, parts, led, until, &left);
        let shared = Arc::clone(gateway);
        // Whoever comes first has it in its trace; others who share it have not.
        let span = telemetry::apart(info_span!(
            target: SPANS,
            parent: &gateway.environment.span,
            "fetch",
            otel.kind = "client",
            kvmesh.region = %region,
            kvmesh.blocks = fetch.led.len(),
        ));
        gateway.tasks.spawn(run(shared, fetch).instrument(span));
    }
    (tickets, estimate)
}

/// Gives each lane its blocks, by turns, so that they come in about the order of the chain. A call
/// names indexes and parts apart: there is one for each set of parts.
fn dealt(led: BTreeMap<u32, Vec<Led>>, lanes: usize) -> BTreeMap<(usize, Vec<Part>), Vec<Led>> {
    let mut dealt: BTreeMap<(usize, Vec<Part>), Vec<Led>> = BTreeMap::new();
    for (turn, blocks) in led.into_values().enumerate() {
        let parts = blocks.iter().map(|led| led.part).collect();
        let call = dealt.entry((turn % lanes, parts)).or_default();
        call.extend(blocks);
    }
    dealt
}

fn fetch_of(
    want: &Want,
    (own, region): (&RegionId, &RegionId),
    (link, lane, timing, asked): (Link, usize, Arc<Timing>, Moment),
    parts: Vec<Part>,
    led: Vec<Led>,
    until: Instant,
    left: &watch::Sender<()>,
) -> Fetch {
    let mut select: Vec<u32> = led.iter().map(|led| led.index).collect();
    select.dedup();
    let len = select.last().map_or(0, |&last| last as usize + 1);
    let ask = Ask {
        namespace: want.namespace.id,
        hashes: want.chain.head(len),
        width: want.chain.width(),
        select,
        touch: Vec::new(),
        parts,
        // A shared fetch brings whole blocks, which are kept here; each waiter is sent what it wants.
        ranges: Ranges::default(),
        encodings: coding::that_pay(&want.namespace, &link),
        lossy: want.namespace.policy.lossy,
        hop: 1,
        from: Some(own.clone()),
        any_order: want.any_order,
        aside: want.aside,
        until,
    };
    Fetch {
        region: region.clone(),
        link,
        namespace: Arc::clone(&want.namespace),
        ask,
        led,
        left: left.subscribe(),
        asked,
        answered: CancellationToken::new(),
        class: want.class,
        lane,
        timing,
    }
}

async fn run(gateway: Arc<Gateway>, fetch: Fetch) {
    let mut left = fetch.left.clone();
    let flights: Vec<Arc<Flight>> = fetch
        .led
        .iter()
        .map(|led| Arc::clone(&led.flight))
        .collect();
    let transfer = transfer::all(&gateway, &fetch);
    tokio::pin!(transfer);
    let mut abandoned = false;
    loop {
        let longest = flights.iter().map(|flight| flight.until()).max();
        let longest = longest.unwrap_or_else(Instant::now);
        tokio::select! {
            () = &mut transfer => break,
            // The flights keep the other end.
            _ = left.changed(), if !abandoned => {
                abandoned = gateway.flights.abandon(&flights);
            }
            // Whether anybody answers is found out, though nobody waits for it: gets that are
            // less patient than `Patience` would else ask a dead region again and again.
            () = fetch.answered.cancelled(), if abandoned => break,
            () = sleep_until(longest) => {
                if flights.iter().all(|flight| flight.until() <= longest) {
                    break;
                }
            }
        }
    }
    for flight in flights.iter().filter(|it| it.arriving.ended().is_none()) {
        gateway.flights.lose(flight, false);
    }
}

/// Whether no delete or newer generation of this region hides the block.
fn visible(gateway: &Gateway, name: &BlockName, put_hlc: Hlc) -> bool {
    let local = &gateway.views.local;
    local.with(|state| state.visible(name, put_hlc))
}
