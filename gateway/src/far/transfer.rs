//! The calls of one fetch: to one gateway of the region after the other, each for what has not
//! come yet.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use kvmesh_client::{Ranges, block::Assembler, follow::Link};
use kvmesh_directory::{Part, RegionId};
use tokio::time::Instant;

use super::{
    Fetch, Led,
    by::By,
    hedge::{self, Way},
    visible,
};
use crate::{
    context::Gateway,
    fill::Job,
    frame::{Frame, Header, Outcome},
    lanes::Lanes,
    links::Timing,
    rpc::ask::{self, Ask},
};

/// What an answer may take over its round trips.
const MARGIN: Duration = Duration::from_millis(100);

/// A block of which a part came before its call broke. What came does not come again.
struct Rest<'a> {
    led: &'a Led,
    assembler: Assembler,
}

/// What a far gateway said in the end of the blocks that it did not send.
enum Told {
    Missing,
    Failed,
    /// It was given no more time, and waiters that came later have more.
    MoreTime,
}

/// What asking the gateways of a region in turn came to.
enum Turn {
    /// All is answered, or nobody answers.
    Over,
    /// Something came, and something else is worth asking for.
    Again,
}

/// Asks one gateway of the region after the other, until one has answered for everything.
pub(super) async fn all(gateway: &Gateway, fetch: &Fetch) {
    let mut rest = None;
    let mut first = Some(Arc::clone(&fetch.timing));
    let mut by = By::new(gateway, fetch);
    while let Turn::Again = ask_in_turn(gateway, fetch, &mut by, &mut first, &mut rest).await {}
}

async fn ask_in_turn<'a>(
    gateway: &Gateway,
    fetch: &'a Fetch,
    by: &mut By,
    first: &mut Option<Arc<Timing>>,
    rest: &mut Option<Rest<'a>>,
) -> Turn {
    let patience = Patience::new(gateway, &fetch.link);
    let (mut unreached, mut tried) = (true, BTreeSet::new());
    let mut last_error = None;
    for address in gateway.peers.in_turn(&fetch.link.gateways) {
        if tried.contains(&address) {
            continue;
        }
        let Some(limit) = patience.left() else { break };
        // The lanes are timed together only while none has to ask again.
        let timing = first.take();
        let timing = timing.unwrap_or_else(|| {
            Arc::new(
                gateway
                    .links
                    .time(&fetch.region, &fetch.link, 1, (fetch.class, 0)),
            )
        });
        let going_on = rest.take();
        let going_on = going_on.filter(|rest| rest.led.flight.arriving.ended().is_none());
        let resumed = going_on.as_ref().map(|rest| rest.led);
        let mut call = Call {
            gateway,
            fetch,
            way: Way {
                region: fetch.region.clone(),
                lane: by.lane,
                lanes: Lanes::to(gateway, &fetch.region, &address, by.lane),
                address,
                timing,
                limit,
            },
            rest: going_on,
            came: false,
            lives: false,
            tried: &mut tried,
        };
        let told = call.make().await;
        let (came, lives, way) = (call.came, call.lives, call.way);
        let elsewhere = way.region != fetch.region;
        *rest = call.rest;
        let again = match told {
            Ok(Told::MoreTime) => return Turn::Again,
            // What another region does not have, this one may.
            Ok(_) if elsewhere && came => {
                let begun = |led: &&Led| led.flight.header().is_some();
                return give_up(gateway, fetch, begun, false);
            }
            Ok(told) => {
                let asked = |led: &&Led| resumed.is_none_or(|resumed| std::ptr::eq(resumed, *led));
                let missing = matches!(told, Told::Missing);
                return give_up(gateway, fetch, asked, missing);
            }
            Err(failure) => {
                let (region, address) = (&way.region, &way.address);
                // Others bring blocks: the gateway lives, and one of them may bring these.
                let busiest = way.lanes.busiest().filter(|_| !elsewhere);
                let dead = failure.unreachable && busiest.is_none();
                if dead {
                    gateway.peers.failed(address);
                }
                unreached &= dead && !elsewhere && !lives;
                tracing::debug!(%region, address, error = %failure, "a far gateway failed");
                last_error = Some(failure.to_string());
                // It broke under way: the next try has all the time to connect and to begin again.
                came || failure.unreachable && busiest.is_some_and(|lane| by.again(lane))
            }
        };
        if unfinished(fetch).next().is_none() {
            return Turn::Over;
        }
        if again {
            return Turn::Again;
        }
    }
    if unreached {
        let (region, error) = (&fetch.region, last_error.unwrap_or_default());
        tracing::warn!(%region, error, "a region could not be reached: it is left out");
        gateway.reach.unreached(&fetch.region);
        gateway.meters.unreached(&fetch.region);
    }
    Turn::Over
}

/// Ends the flights that did not arrive, such as they are; others are asked for again.
fn give_up(gateway: &Gateway, fetch: &Fetch, such: impl Fn(&&Led) -> bool, missing: bool) -> Turn {
    for led in unfinished(fetch).filter(such) {
        gateway.flights.lose(&led.flight, missing);
    }
    match unfinished(fetch).next() {
        Some(_) => Turn::Again,
        None => Turn::Over,
    }
}

/// How long the gateways of a region may take to connect and answer: one connect timeout, over
/// all of them, and twice the round trip.
pub(super) struct Patience {
    until: Instant,
    /// What one of them may take of it.
    share: Duration,
    rtt: Duration,
}

impl Patience {
    pub(super) fn new(gateway: &Gateway, link: &Link) -> Self {
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
    pub(super) fn left(&self) -> Option<Duration> {
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

/// What a call asks for, by place.
pub(super) type Wanted<'a> = BTreeMap<(u32, Part), &'a Led>;

/// One call, and the second asking of it.
struct Call<'a, 'g> {
    gateway: &'g Gateway,
    fetch: &'a Fetch,
    /// Who is asked; then who answers.
    way: Way,
    /// What it is for, and nothing else; after it, what broke under way.
    rest: Option<Rest<'a>>,
    /// A piece came.
    came: bool,
    /// Another gateway of the region answered beside it.
    lives: bool,
    /// Gateways of the region that could not be reached beside others.
    tried: &'g mut BTreeSet<String>,
}

impl<'a> Call<'a, '_> {
    /// An answer begins within the limit. It may take longer than the first waiter does: others
    /// join.
    async fn make(&mut self) -> Result<Told, ask::Failure> {
        let (gateway, fetch) = (self.gateway, self.fetch);
        let usual = Duration::from_millis(gateway.settings.now().get_deadline_ms);
        let until = longest(fetch).max(Some(Instant::now() + usual));
        let until = until.unwrap_or(fetch.ask.until);
        let wanted = self.wanted();
        let ask = Ask {
            until,
            ..self.ask(&wanted)
        };
        let asked = hedge::ask(gateway, fetch, &self.way, ask, &wanted).await;
        self.tried.extend(asked.unreached);
        self.lives = asked.lives;
        if let Some(way) = asked.instead {
            self.way = way;
        }
        let mut stream = match asked.answer {
            Err(failure) if failure.is_not_found() => {
                wanted.values().for_each(|led| self.lacks(led));
                return Ok(Told::Missing);
            }
            stream => stream?,
        };
        let mut current: Option<Rest<'a>> = None;
        loop {
            let frame = match stream.next().await {
                Ok(Some(frame)) => frame,
                Ok(None) => return Ok(Told::Failed),
                Err(failure) => {
                    self.rest = current.or(self.rest.take());
                    // Of one that lacks its end only, nothing can be asked for.
                    if let Some(whole) = self.rest.take_if(|it| it.assembler.is_whole()) {
                        gateway.flights.lose(&whole.led.flight, false);
                    }
                    return Err(failure);
                }
            };
            match frame {
                Frame::Summary(summary) => {
                    let more = Instant::now() >= until && longest(fetch) > Some(until);
                    return Ok(match summary.outcome {
                        Outcome::Complete | Outcome::Miss => {
                            self.ends_before(&wanted);
                            Told::Missing
                        }
                        Outcome::OutOfTime if more => Told::MoreTime,
                        _ => Told::Failed,
                    });
                }
                Frame::Aborted(place) => {
                    let named = place.and_then(|place| wanted.get(&place).copied());
                    let under_way = current.take().map(|rest| rest.led);
                    if let Some(led) = under_way.or(named) {
                        let begun = led.flight.header().is_some();
                        if !begun {
                            self.lacks(led);
                        }
                        gateway.flights.lose(&led.flight, !begun);
                    }
                }
                block @ Frame::Block { .. } => {
                    current = self.take(current, block, &wanted).await;
                }
            }
        }
    }

    /// The region does not have it.
    fn lacks(&self, led: &Led) {
        let (gateway, fetch) = (self.gateway, self.fetch);
        let name = led.flight.name;
        gateway.absent.told(name, &self.way.region, fetch.asked);
    }

    /// The region's run ended: it lacks the first place that did not come, and says nothing of
    /// those behind. Of several parts it does not say which.
    fn ends_before(&self, wanted: &Wanted<'_>) {
        let open = |led: &&&Led| led.flight.arriving.ended().is_none();
        let mut left = wanted.values().filter(open);
        if let Some(first) = left.next()
            && left.next().is_none_or(|next| next.index > first.index)
        {
            self.lacks(first);
        }
    }

    /// By place. What came of a call before this one need not come again.
    fn wanted(&self) -> Wanted<'a> {
        let place = |led: &'a Led| ((led.index, led.part), led);
        match &self.rest {
            Some(rest) => [place(rest.led)].into(),
            None => unfinished(self.fetch)
                .filter(|led| led.flight.header().is_none())
                .map(place)
                .collect(),
        }
    }

    fn ask(&self, wanted: &Wanted<'_>) -> Ask {
        let mut ask = self.fetch.ask.clone();
        ask.select = wanted.keys().map(|(index, _)| *index).collect();
        ask.select.dedup();
        if let Some(rest) = &self.rest {
            let bytes = rest.assembler.meta().bytes;
            ask.parts = vec![rest.led.part];
            let lacking = Ranges::new(std::iter::once(rest.assembler.taken()..bytes));
            ask.ranges = lacking.unwrap_or_default();
        }
        ask
    }

    /// Takes a frame of a block; returns the block that is under way after it.
    async fn take(
        &mut self,
        mut current: Option<Rest<'a>>,
        frame: Frame,
        wanted: &Wanted<'a>,
    ) -> Option<Rest<'a>> {
        let Frame::Block {
            header,
            piece,
            encoding,
            whole,
        } = frame
        else {
            return current;
        };
        let (gateway, fetch) = (self.gateway, self.fetch);
        // As they come off the wire: of an encoded piece, the encoded bytes.
        let came = piece.as_ref().map_or(0, Bytes::len);
        self.way.timing.came(came);
        gateway.meters.fetched(&self.way.region, came);
        if let Some(header) = header {
            let led = wanted.get(&(header.index, header.part)).copied();
            let before = Instant::now();
            current = match (self.rest.take(), led) {
                (Some(rest), Some(_)) => goes_on(gateway, rest, &header),
                (None, Some(led)) => begin(gateway, fetch, &self.way.region, led, header).await,
                (_, None) => None,
            };
            self.way.timing.paused(before.elapsed());
        }
        if let (Some(Rest { led, assembler }), Some(piece)) = (&mut current, piece) {
            let bytes = assembler.next_len();
            let lossy = encoding.filter(|it| it.is_lossy());
            if lossy.is_some() && lossy != assembler.meta().transcoded {
                gateway.meters.lossy_refused();
                gateway.flights.lose(&led.flight, false);
                return None;
            }
            if let Some(asked) = fetch.ask.encodings.first() {
                gateway.coding.note(*asked, bytes, piece.len());
            }
            let piece = gateway.coding.decode(encoding, piece, bytes).await;
            if assembler.push(piece.clone()).is_err() {
                gateway.flights.lose(&led.flight, false);
                return None;
            }
            self.came = true;
            led.flight.arriving.push(piece);
        }
        if whole && let Some(Rest { led, assembler }) = current.take() {
            end(gateway, fetch, led, assembler);
        }
        current
    }
}

/// The rest of a block comes, if it is the same block and what is lacking of it.
fn goes_on<'a>(gateway: &Gateway, rest: Rest<'a>, header: &Header) -> Option<Rest<'a>> {
    let came = rest.assembler.pieces() as u32;
    let all = rest.assembler.meta().pieces.len() as u32;
    if header.meta != *rest.assembler.meta() || !header.pieces.iter().copied().eq(came..all) {
        gateway.flights.lose(&rest.led.flight, false);
        return None;
    }
    gateway.meters.resumed(rest.assembler.taken());
    Some(rest)
}

/// Announces a block to its waiters, unless it was deleted here.
async fn begin<'a>(
    gateway: &Gateway,
    fetch: &Fetch,
    region: &RegionId,
    led: &'a Led,
    header: Header,
) -> Option<Rest<'a>> {
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
    led.flight.announce(region.clone(), header.meta, share);
    Some(Rest { led, assembler })
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
