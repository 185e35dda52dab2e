//! Fetches from other regions: one call per region to one of its gateways, run by a task of
//! its own that ends when nobody waits any more or at the longest waiter's deadline.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use kvmesh_client::{Ranges, block::Assembler, follow::Link};
use kvmesh_directory::{BlockName, Hlc, Namespace, Part, RegionId, cost::Time};
use tokio::{
    sync::watch,
    time::{Instant, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;

use kvmesh_process::telemetry::{self, SPANS};
use tracing::{Instrument, info_span};

use crate::{
    coding,
    context::Gateway,
    fill::Job,
    flight::{Flight, Ticket},
    frame::{Frame, Header, Outcome},
    read::Slot,
    request::Want,
    rpc::ask::{self, Ask},
};

/// What an answer may take over its round trips.
const MARGIN: Duration = Duration::from_millis(100);

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
    /// A gateway of the region has begun to answer.
    answered: CancellationToken,
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
    let mut led: BTreeMap<u32, Vec<Led>> = BTreeMap::new();
    let visible = |name: &BlockName, put_hlc| visible(gateway, name, put_hlc);
    for slot in wanted {
        let (ticket, new) = gateway.flights.join(slot.name, until, &left, visible);
        if !want.aside {
            ticket.want();
        }
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
    let bytes: u64 = wanted.iter().map(|slot| slot.bytes).sum();
    let estimate = link.as_ref().map(|link| {
        let cost = coding::cost(gateway, &want.namespace, region, link);
        cost.fetch(bytes as f64)
    });
    // A call names indexes and parts apart: one for each set of parts.
    let mut by_parts: BTreeMap<Vec<Part>, Vec<Led>> = BTreeMap::new();
    for (_, blocks) in led {
        let parts = blocks.iter().map(|led| led.part).collect();
        by_parts.entry(parts).or_default().extend(blocks);
    }
    for (parts, led) in by_parts {
        let between = (&gateway.region, region);
        let fetch = fetch_of(want, between, link.clone(), parts, led, until, &left);
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

fn fetch_of(
    want: &Want,
    (own, region): (&RegionId, &RegionId),
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
    Ok(Fetch {
        region: region.clone(),
        link,
        namespace: Arc::clone(&want.namespace),
        ask,
        led,
        left: left.subscribe(),
        answered: CancellationToken::new(),
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

/// What a far gateway said in the end of the blocks that it did not send.
enum Told {
    Missing,
    Failed,
    /// It was given no more time, and waiters that came later have more.
    MoreTime,
}

/// Asks one gateway of the region after the other, until one has answered for everything.
async fn transfer(gateway: &Gateway, fetch: &Fetch) {
    while let Some(true) = ask_in_turn(gateway, fetch).await {}
}

/// None: all is answered. Otherwise whether it is worth asking again.
async fn ask_in_turn(gateway: &Gateway, fetch: &Fetch) -> Option<bool> {
    let patience = Patience::new(gateway, &fetch.link);
    let mut unreached = true;
    for address in gateway.peers.in_turn(&fetch.link.gateways) {
        let Some(limit) = patience.left() else { break };
        match call(gateway, fetch, &address, limit).await {
            Ok(Told::MoreTime) => return Some(true),
            Ok(told) => {
                for led in unfinished(fetch) {
                    let missing = matches!(told, Told::Missing);
                    gateway.flights.lose(&led.flight, missing);
                }
                return None;
            }
            Err(failure) => {
                if failure.unreachable {
                    gateway.peers.failed(&address);
                }
                unreached &= failure.unreachable;
                let region = &fetch.region;
                tracing::debug!(%region, address, error = %failure, "a far gateway failed");
            }
        }
        unfinished(fetch).next()?;
    }
    if unreached {
        gateway.reach.unreached(&fetch.region);
        gateway.meters.unreached(&fetch.region);
    }
    Some(false)
}

/// How long the gateways of a region may take to connect and answer: one connect timeout, over
/// all of them, and twice the round trip.
struct Patience {
    until: Instant,
    /// What one of them may take of it.
    share: Duration,
    rtt: Duration,
}

impl Patience {
    fn new(gateway: &Gateway, link: &Link) -> Self {
        let rtt = Duration::from_secs_f64((link.rtt_ms / 1e3).clamp(0.0, 60.0));
        let connect = Duration::from_millis(gateway.settings.now().connect_timeout_ms);
        let all = connect + rtt * 2;
        let each = all / u32::try_from(link.gateways.len().max(1)).unwrap_or(u32::MAX);
        Self {
            until: Instant::now() + all,
            // A handshake and an answer take three round trips.
            share: each.max(rtt * 4 + MARGIN),
            rtt,
        }
    }

    /// What the next one may take; none: there is no time for another one.
    fn left(&self) -> Option<Duration> {
        let left = self.until.saturating_duration_since(Instant::now());
        (left > self.rtt).then(|| self.share.min(left))
    }
}

/// The deadline of the longest waiter that there is now.
fn longest(fetch: &Fetch) -> Option<Instant> {
    unfinished(fetch).map(|led| led.flight.until()).max()
}

fn unfinished(fetch: &Fetch) -> impl Iterator<Item = &Led> {
    let led = fetch.led.iter();
    led.filter(|led| led.flight.arriving.ended().is_none())
}

/// One call; an answer begins within `limit`. It may take longer than the first waiter does:
/// others join.
async fn call(
    gateway: &Gateway,
    fetch: &Fetch,
    address: &str,
    limit: Duration,
) -> Result<Told, ask::Failure> {
    gateway.meters.outbound("Get");
    let channel = match gateway.peers.far(&fetch.region, address) {
        Ok(channel) => channel,
        Err(problem) => return Err(ask::Failure::from(problem)),
    };
    let mut ask = fetch.ask.clone();
    let usual = Duration::from_millis(gateway.settings.now().get_deadline_ms);
    ask.until = longest(fetch)
        .max(Some(Instant::now() + usual))
        .unwrap_or(ask.until);
    let until = ask.until;
    // What came of a call before this one need not come again.
    let wanted: BTreeMap<(u32, Part), &Led> = unfinished(fetch)
        .filter(|led| led.flight.header().is_none())
        .map(|led| ((led.index, led.part), led))
        .collect();
    ask.select = wanted.keys().map(|(index, _)| *index).collect();
    ask.select.sort_unstable();
    ask.select.dedup();
    let mut timing = gateway.links.time(&fetch.region, &fetch.link);
    let asking = timeout(limit, ask::get(channel, fetch.region.clone(), ask));
    let Ok(asked) = asking.await else {
        return Err(ask::Failure::silent(limit));
    };
    let mut stream = match asked {
        Err(failure) if failure.is_not_found() => return Ok(Told::Missing),
        stream => stream?,
    };
    fetch.answered.cancel();
    let mut current: Option<(&Led, Assembler)> = None;
    while let Some(frame) = stream.next().await? {
        match frame {
            Frame::Block {
                header,
                piece,
                encoding,
                whole,
            } => {
                // As they come off the wire: of an encoded piece, the encoded bytes.
                timing.came(piece.as_ref().map_or(0, Bytes::len));
                if let Some(header) = header {
                    let led = wanted.get(&(header.index, header.part)).copied();
                    let before = Instant::now();
                    current = match led {
                        Some(led) => begin(gateway, fetch, led, header).await,
                        None => None,
                    };
                    timing.paused(before.elapsed());
                }
                if let (Some((led, assembler)), Some(piece)) = (&mut current, piece) {
                    let bytes = assembler.next_len();
                    let lossy = encoding.filter(|it| it.is_lossy());
                    if lossy.is_some() && lossy != assembler.meta().transcoded {
                        gateway.meters.lossy_refused();
                        gateway.flights.lose(&led.flight, false);
                        current = None;
                        continue;
                    }
                    if let Some(asked) = fetch.ask.encodings.first() {
                        gateway.coding.note(*asked, bytes, piece.len());
                    }
                    let piece = gateway.coding.decode(encoding, piece, bytes).await;
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
                let more = Instant::now() >= until && longest(fetch) > Some(until);
                return Ok(match summary.outcome {
                    Outcome::Complete | Outcome::Miss => Told::Missing,
                    Outcome::OutOfTime if more => Told::MoreTime,
                    _ => Told::Failed,
                });
            }
        }
    }
    Ok(Told::Failed)
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
    // Whatever was asked for, and whoever sends it.
    let lossy = header.meta.transcoded.is_some();
    if lossy && !gateway.views.takes_lossy(fetch.namespace.id) {
        gateway.meters.lossy_refused();
        gateway.flights.lose(&led.flight, true);
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
    let policy = &fetch.namespace.policy;
    let hot = policy.hot_after(&gateway.region);
    let hot = hot.is_some_and(|after| gateway.hot.is_hot(&led.flight.name, after));
    if !(policy.keeps_fetched() || hot || led.flight.is_kept()) {
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
