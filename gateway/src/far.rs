//! Fetches from other regions: one call per region to one of its gateways, run by a task of
//! its own that ends when nobody waits any more or at the longest waiter's deadline.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use kvmesh_client::{block::Assembler, follow::Link};
use kvmesh_directory::{BlockName, Hlc, Namespace, Part, RegionId, namespace::ReplicationMode};
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};

use kvmesh_process::telemetry::{self, SPANS};
use tracing::{Instrument, info_span};

use crate::{
    context::Gateway,
    fill::Job,
    flight::{Flight, Ticket},
    frame::{Frame, Header, Outcome},
    read::Slot,
    request::Want,
    rpc::ask::{self, Ask},
};

/// Kept back from the deadline, so that what has arrived there still comes here.
const ANSWER_ROOM: Duration = Duration::from_millis(20);

/// A block that this fetch leads.
struct Led {
    index: u32,
    part: Part,
    hash: bytes::Bytes,
    flight: Arc<Flight>,
}

struct Fetch {
    region: RegionId,
    link: Link,
    namespace: Arc<Namespace>,
    ask: Ask,
    led: Vec<Led>,
    left: watch::Receiver<()>,
}

/// Joins the flights of `wanted`, all of which `region` has, and begins those that nobody
/// flies. Also gives the estimate in milliseconds: last RTT seen + bytes / bandwidth.
pub(crate) fn join(
    gateway: &Arc<Gateway>,
    want: &Want,
    region: &RegionId,
    wanted: &[&Slot],
    until: Instant,
) -> (Vec<Ticket>, f64) {
    let left = Arc::new(watch::Sender::new(()));
    let mut tickets = Vec::with_capacity(wanted.len());
    let mut led: BTreeMap<u32, Vec<Led>> = BTreeMap::new();
    let visible = |name: &BlockName, put_hlc| visible(gateway, name, put_hlc);
    for slot in wanted {
        let (ticket, new) = gateway.flights.join(slot.name, until, &left, visible);
        tickets.push(ticket);
        match new {
            Some(flight) => led.entry(slot.index).or_default().push(Led {
                index: slot.index,
                part: slot.part,
                hash: want.chain.engine_hash(slot.index),
                flight,
            }),
            None => gateway.meters.flight_shared(),
        }
    }
    let link = gateway.views.mesh.link(region);
    let bytes = wanted.iter().map(|slot| slot.bytes).sum();
    let estimate = link.as_ref().map_or(0.0, |link| estimate_ms(link, bytes));
    // A call names indexes and parts apart: one for each set of parts.
    let mut by_parts: BTreeMap<Vec<Part>, Vec<Led>> = BTreeMap::new();
    for (_, blocks) in led {
        let parts = blocks.iter().map(|led| led.part).collect();
        by_parts.entry(parts).or_default().extend(blocks);
    }
    for (parts, led) in by_parts {
        let fetch = fetch_of(want, region, link.clone(), parts, led, until, &left);
        match fetch {
            Ok(fetch) => {
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
            Err(led) => led
                .iter()
                .for_each(|led| gateway.flights.lose(&led.flight, false)),
        }
    }
    (tickets, estimate)
}

/// Last RTT seen + bytes / bandwidth, in milliseconds.
pub(crate) fn estimate_ms(link: &Link, bytes: u64) -> f64 {
    let transfer = match link.bandwidth {
        bandwidth if bandwidth > 0.0 => bytes as f64 / bandwidth * 1_000.0,
        _ => 0.0,
    };
    link.rtt_ms + transfer
}

fn fetch_of(
    want: &Want,
    region: &RegionId,
    link: Option<Link>,
    parts: Vec<Part>,
    led: Vec<Led>,
    until: Instant,
    left: &watch::Sender<()>,
) -> Result<Fetch, Vec<Led>> {
    let Some(link) = link else { return Err(led) };
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
        hop: 1,
        until: until - ANSWER_ROOM,
    };
    Ok(Fetch {
        region: region.clone(),
        link,
        namespace: Arc::clone(&want.namespace),
        ask,
        led,
        left: left.subscribe(),
    })
}

async fn run(gateway: Arc<Gateway>, fetch: Fetch) {
    let mut left = fetch.left.clone();
    let flights: Vec<Arc<Flight>> = fetch
        .led
        .iter()
        .map(|led| Arc::clone(&led.flight))
        .collect();
    let transfer = transfer(&gateway, &fetch);
    tokio::pin!(transfer);
    loop {
        let longest = flights.iter().map(|flight| flight.until()).max();
        let longest = longest.unwrap_or_else(Instant::now);
        tokio::select! {
            () = &mut transfer => break,
            // The flights keep the other end.
            _ = left.changed() => {
                if gateway.flights.abandon(&flights) {
                    break;
                }
            }
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

/// Asks one gateway of the region after the other, until one has answered for everything.
async fn transfer(gateway: &Gateway, fetch: &Fetch) {
    for address in gateway.peers.in_turn(&fetch.link.gateways) {
        match call(gateway, fetch, &address).await {
            Ok(missing) => {
                for led in unfinished(fetch) {
                    gateway.flights.lose(&led.flight, missing);
                }
                return;
            }
            Err(failure) => {
                if failure.unreachable {
                    gateway.peers.failed(&address);
                }
                let region = &fetch.region;
                tracing::debug!(%region, address, error = %failure, "a far gateway failed");
            }
        }
        if unfinished(fetch).next().is_none() {
            return;
        }
    }
}

fn unfinished(fetch: &Fetch) -> impl Iterator<Item = &Led> {
    let led = fetch.led.iter();
    led.filter(|led| led.flight.arriving.ended().is_none())
}

/// One call; says whether what did not come is missing there.
async fn call(gateway: &Gateway, fetch: &Fetch, address: &str) -> Result<bool, ask::Failure> {
    gateway.meters.outbound("Get");
    let channel = match gateway.peers.far(&fetch.region, address) {
        Ok(channel) => channel,
        Err(problem) => return Err(ask::Failure::from(problem)),
    };
    let mut ask = fetch.ask.clone();
    // What came of a call before this one need not come again.
    let wanted: BTreeMap<(u32, Part), &Led> = unfinished(fetch)
        .filter(|led| led.flight.header().is_none())
        .map(|led| ((led.index, led.part), led))
        .collect();
    ask.select = wanted.keys().map(|(index, _)| *index).collect();
    ask.select.sort_unstable();
    ask.select.dedup();
    let mut stream = match ask::get(channel, fetch.region.clone(), ask).await {
        Err(failure) if failure.is_not_found() => return Ok(true),
        stream => stream?,
    };
    let mut current: Option<(&Led, Assembler)> = None;
    while let Some(frame) = stream.next().await? {
        match frame {
            Frame::Block {
                header,
                piece,
                whole,
            } => {
                if let Some(header) = header {
                    let led = wanted.get(&(header.index, header.part)).copied();
                    current = match led {
                        Some(led) => begin(gateway, fetch, led, header).await,
                        None => None,
                    };
                }
                if let (Some((led, assembler)), Some(piece)) = (&mut current, piece) {
                    if assembler.push(piece.clone()).is_err() {
                        gateway.flights.lose(&led.flight, false);
                        current = None;
                        continue;
                    }
                    led.flight.arriving.push(piece);
                }
                if whole && let Some((led, assembler)) = current.take() {
                    end(gateway, fetch, led, assembler);
                }
            }
            Frame::Aborted(place) => {
                let named = place.and_then(|place| wanted.get(&place).copied());
                let under_way = current.take().map(|(led, _)| led);
                if let Some(led) = under_way.or(named) {
                    let begun = led.flight.header().is_some();
                    gateway.flights.lose(&led.flight, !begun);
                }
            }
            Frame::Summary(summary) => {
                let missing = matches!(summary.outcome, Outcome::Complete | Outcome::Miss);
                return Ok(missing);
            }
        }
    }
    Ok(false)
}

/// Whether no delete or newer generation of this region hides the block.
fn visible(gateway: &Gateway, name: &BlockName, put_hlc: Hlc) -> bool {
    let local = &gateway.views.local;
    local.with(|state| state.visible(name, put_hlc))
}

/// Announces a block to its waiters, unless it was deleted here.
async fn begin<'a>(
    gateway: &Gateway,
    fetch: &Fetch,
    led: &'a Led,
    header: Header,
) -> Option<(&'a Led, Assembler)> {
    if led.flight.arriving.ended().is_some() {
        return None;
    }
    let visible = visible(gateway, &led.flight.name, header.meta.put_hlc);
    let assembler = Assembler::new(header.meta.clone(), false);
    let (true, Ok(assembler)) = (visible, assembler) else {
        gateway.flights.lose(&led.flight, true);
        return None;
    };
    let share = gateway
        .fetch_bytes
        .take(header.meta.bytes, led.flight.until());
    let Ok(share) = share.await else {
        gateway.flights.lose(&led.flight, false);
        return None;
    };
    let region = fetch.region.clone();
    led.flight.announce(region, header.meta, share);
    Some((led, assembler))
}

/// The block's end has come: it is kept here, too, if the namespace says so.
fn end(gateway: &Gateway, fetch: &Fetch, led: &Led, assembler: Assembler) {
    let Ok(block) = assembler.finish() else {
        gateway.flights.lose(&led.flight, false);
        return;
    };
    if fetch.namespace.policy.replication != ReplicationMode::OnDemand {
        gateway.flights.land(&led.flight);
        led.flight.complete(None);
        return;
    }
    let filled = gateway.fills.offer(
        &gateway.meters,
        Job::new(
            &gateway.environment.span,
            Arc::clone(&fetch.namespace),
            led.hash.clone(),
            led.flight.clone(),
            block,
        ),
    );
    if filled.is_over() {
        gateway.flights.land(&led.flight);
    }
    led.flight.complete(Some(filled));
}
