//! Makes one stream of many: blocks in chain order, whoever sends them, each from the next
//! source when one fails.
//!
//! Invariants: a block's frames have no other block's between them; after a failure in the
//! middle of a block the client is told to forget what came of it.

use std::{
    collections::{BTreeMap, VecDeque},
    ops::Range,
    sync::Arc,
};

use bytes::Bytes;
use kvmesh_directory::{DirectoryState, Hlc, NodeId, Part, RegionId};
use tokio::{
    sync::mpsc,
    time::{Instant, timeout_at},
};

use crate::{
    context::Gateway,
    current::Current,
    far,
    fill::Filled,
    flight::{Event, Ticket},
    frame::{Frame, Header, Outcome},
    local::{self, Call, FrameKind},
    read::{self, Slot, Source},
    request::Want,
};

/// Where a slot's frames come from.
enum Feed {
    /// Nobody was asked yet, or nobody is left.
    None,
    Call(usize),
    Flight(Box<Ticket>),
}

/// How the sending of one block ended.
enum Sent {
    Whole {
        region: RegionId,
        bytes: u64,
    },
    /// The source does not have it.
    Missed,
    /// The source broke.
    Failed,
    OutOfTime,
    /// The client does not take any more.
    Gone,
}

/// What a run came to.
pub(crate) struct Run {
    pub(crate) outcome: Outcome,
    pub(crate) blocks: u32,
    pub(crate) sources: Vec<(RegionId, u32, u64)>,
    pub(crate) estimated_fetch_ms: Option<f64>,
    pub(crate) fetch_ms: Option<f64>,
    /// Of the fetched blocks that are kept here.
    pub(crate) fills: Vec<Filled>,
}

/// One get under way.
pub(crate) struct Merge<'a> {
    gateway: &'a Arc<Gateway>,
    want: &'a Want,
    out: &'a mpsc::Sender<Frame>,
    slots: Vec<Slot>,
    feeds: Vec<Feed>,
    calls: Vec<Option<Call>>,
    rounds: VecDeque<Range<usize>>,
    /// Places of the unwanted head that are not touched yet.
    heads: BTreeMap<NodeId, Vec<u32>>,
    far_until: Option<Instant>,
    /// Begun with the first far fetch.
    current: Option<Current>,
    begun: Instant,
    sent: u64,
    failed: bool,
    sources: BTreeMap<RegionId, (u32, u64)>,
    estimated_fetch_ms: Option<f64>,
    fetch_ms: Option<f64>,
    fills: Vec<Filled>,
}

impl<'a> Merge<'a> {
    pub(crate) fn new(
        gateway: &'a Arc<Gateway>,
        want: &'a Want,
        slots: Vec<Slot>,
        far_until: Option<Instant>,
        out: &'a mpsc::Sender<Frame>,
    ) -> Self {
        Self {
            rounds: read::rounds(&slots),
            feeds: slots.iter().map(|_| Feed::None).collect(),
            heads: local::head_by_node(gateway, want),
            gateway,
            want,
            out,
            slots,
            calls: Vec::new(),
            far_until,
            current: None,
            begun: Instant::now(),
            sent: 0,
            failed: false,
            sources: BTreeMap::new(),
            estimated_fetch_ms: None,
            fetch_ms: None,
            fills: Vec::new(),
        }
    }

    /// Sends the slots; `cut`: more was wanted than they are. None: the client has gone.
    pub(crate) async fn run(mut self, cut: bool) -> Option<Run> {
        let far = |slot: &Slot| matches!(slot.sources.front(), Some(Source::Region(_)));
        let afar = (0..self.slots.len()).filter(|&at| far(&self.slots[at]));
        self.launch(&afar.collect::<Vec<_>>());
        self.launch_round();
        for (node, touch) in std::mem::take(&mut self.heads) {
            local::touch_only(self.gateway, self.want, node, &touch);
        }
        let (mut whole, mut next_round) = (0, 0);
        let mut outcome = if cut {
            Outcome::Miss
        } else {
            Outcome::Complete
        };
        for at in 0..self.slots.len() {
            if at >= next_round {
                next_round = self.launch_round().unwrap_or(usize::MAX);
            }
            if let Some(end) = self.send(at).await? {
                outcome = end;
                break;
            }
            whole += 1;
        }
        self.report();
        let sources = std::mem::take(&mut self.sources).into_iter();
        Some(Run {
            outcome,
            blocks: (whole / self.want.parts.len()) as u32,
            sources: sources
                .map(|(region, (blocks, bytes))| (region, blocks, bytes))
                .collect(),
            estimated_fetch_ms: self.estimated_fetch_ms,
            fetch_ms: self.fetch_ms,
            fills: self.fills,
        })
    }

    fn report(&self) {
        for (region, &(blocks, bytes)) in &self.sources {
            self.gateway.meters.served(region, blocks.into(), bytes);
        }
    }

    /// Asks nodes for the next round; says where it begins.
    fn launch_round(&mut self) -> Option<usize> {
        let round = self.rounds.pop_front()?;
        let begins = round.start;
        let unasked = round.filter(|&at| matches!(self.feeds[at], Feed::None));
        let unasked: Vec<usize> = unasked.collect();
        self.pass_over_failing(&unasked);
        self.launch(&unasked);
        Some(begins)
    }

    /// Puts holders that failed since the plan was made behind the others.
    fn pass_over_failing(&mut self, places: &[usize]) {
        let mut failing: BTreeMap<NodeId, bool> = BTreeMap::new();
        let gateway = self.gateway;
        let mut fails = |node: NodeId| {
            *failing.entry(node).or_insert_with(|| {
                let address = gateway.views.address(node);
                address.is_none_or(|address| gateway.peers.is_failing(&address))
            })
        };
        for &at in places {
            self.slots[at]
                .sources
                .make_contiguous()
                .sort_by_key(|source| match source {
                    Source::Node(node) => u8::from(fails(*node)),
                    Source::Region(_) => 2,
                });
        }
    }

    /// Asks the front source of each slot.
    fn launch(&mut self, places: &[usize]) {
        let mut nodes: BTreeMap<(NodeId, Part), Vec<usize>> = BTreeMap::new();
        let mut regions: BTreeMap<RegionId, Vec<usize>> = BTreeMap::new();
        for &at in places {
            match self.slots[at].sources.front() {
                Some(Source::Node(node)) => {
                    let part = self.slots[at].part;
                    nodes.entry((*node, part)).or_default().push(at);
                }
                Some(Source::Region(region)) => {
                    regions.entry(region.clone()).or_default().push(at);
                }
                None => {}
            }
        }
        for ((node, part), places) in nodes {
            let touch = match self.want.parts.len() {
                1 => self.heads.remove(&node).unwrap_or_default(),
                _ => Vec::new(),
            };
            for &at in &places {
                self.feeds[at] = Feed::Call(self.calls.len());
            }
            let (gateway, want) = (self.gateway, self.want);
            let call = local::start(gateway, want, &self.slots, node, part, places, &touch);
            self.calls.push(Some(call));
        }
        for (region, places) in regions {
            self.launch_far(&region, &places);
        }
    }

    fn launch_far(&mut self, region: &RegionId, places: &[usize]) {
        let Some(until) = self.far_until else { return };
        let namespace = self.want.namespace.id;
        self.current
            .get_or_insert_with(|| Current::ask(self.gateway, namespace, until));
        let wanted: Vec<&Slot> = places.iter().map(|&at| &self.slots[at]).collect();
        let (tickets, estimate) = far::join(self.gateway, self.want, region, &wanted, until);
        for (&at, ticket) in places.iter().zip(tickets) {
            self.feeds[at] = Feed::Flight(Box::new(ticket));
        }
        let before = self.estimated_fetch_ms.unwrap_or(0.0);
        self.estimated_fetch_ms = Some(before.max(estimate));
    }

    /// Sends one block from whoever has it. `Some(None)`: it was sent; `Some(end)`: the run
    /// ends before it.
    async fn send(&mut self, at: usize) -> Option<Option<Outcome>> {
        loop {
            let mut asked = None;
            let sent = match std::mem::replace(&mut self.feeds[at], Feed::None) {
                Feed::Call(call) => {
                    asked = Some(call);
                    self.send_from_call(at, call).await
                }
                Feed::Flight(ticket) => self.send_from_flight(at, *ticket).await,
                Feed::None => {
                    return Some(Some(self.end_without_source(at)));
                }
            };
            match sent {
                Sent::Whole { region, bytes } => {
                    let count = self.sources.entry(region).or_default();
                    count.0 += 1;
                    count.1 += bytes;
                    return Some(None);
                }
                Sent::Missed => self.gateway.meters.stale_claim(),
                Sent::Failed => self.failed = true,
                Sent::OutOfTime => return Some(Some(Outcome::OutOfTime)),
                Sent::Gone => return None,
            }
            self.ask_next(at, asked);
        }
    }

    /// A block that the view still shows is worth another call; one that it does not is gone.
    fn end_without_source(&self, at: usize) -> Outcome {
        let name = self.slots[at].name;
        let shown = |state: &DirectoryState| state.entry(&name).is_some();
        match self.failed || self.gateway.views.local.with(shown) {
            true => Outcome::SourceFailed,
            false => Outcome::Miss,
        }
    }

    /// Asks the next source for a slot, and for all later ones that waited for the same dead call.
    fn ask_next(&mut self, at: usize, asked: Option<usize>) {
        self.slots[at].sources.pop_front();
        let mut again = vec![at];
        let dead = |call: usize| self.calls[call].as_ref().is_none_or(Call::is_over);
        if let Some(dead) = asked.filter(|&call| dead(call)) {
            for later in at + 1..self.slots.len() {
                if matches!(self.feeds[later], Feed::Call(call) if call == dead) {
                    self.slots[later].sources.pop_front();
                    self.feeds[later] = Feed::None;
                    again.push(later);
                }
            }
        }
        self.launch(&again);
    }

    async fn send_from_call(&mut self, at: usize, number: usize) -> Sent {
        let Some(mut call) = self.calls[number].take() else {
            return Sent::Failed;
        };
        let (sent, goes_on) = self.relay(at, &mut call).await;
        if goes_on {
            self.calls[number] = Some(call);
        }
        sent
    }

    /// Relays one block of a call; also says whether the call is of further use.
    async fn relay(&mut self, at: usize, call: &mut Call) -> (Sent, bool) {
        let mut block = Relayed::default();
        loop {
            let silent = local::silent_at(self.gateway, &self.slots[at]);
            let until = silent.map_or(self.want.deadline.at, |at| at.min(self.want.deadline.at));
            let frame = match timeout_at(until, call.next()).await {
                Ok(Some(frame)) => frame,
                Ok(None) => return (self.take_back(&block, Sent::Failed).await, false),
                Err(_) if until == self.want.deadline.at => {
                    return (self.take_back(&block, Sent::OutOfTime).await, false);
                }
                Err(_) => {
                    if let Some(address) = self.gateway.views.address(call.node) {
                        self.gateway.peers.failed(&address);
                    }
                    return (self.take_back(&block, Sent::Failed).await, false);
                }
            };
            if frame.slot < at {
                continue; // of a block that was given up
            }
            if frame.slot > at {
                call.put_back(frame);
                return (self.take_back(&block, Sent::Missed).await, true);
            }
            let FrameKind::Block {
                header,
                piece,
                whole,
            } = frame.kind
            else {
                return (self.take_back(&block, Sent::Missed).await, true);
            };
            if !block.fits(header.as_ref(), piece.as_ref(), whole) {
                return (self.take_back(&block, Sent::Failed).await, true);
            }
            if let Some(end) = self.forward(at, header, piece, whole).await {
                return (self.take_back(&block, end).await, false);
            }
            block.forwarded = true;
            if whole {
                let region = self.gateway.region.clone();
                let bytes = block.bytes;
                return (Sent::Whole { region, bytes }, true);
            }
        }
    }

    async fn send_from_flight(&mut self, at: usize, mut ticket: Ticket) -> Sent {
        let until = self.far_until.unwrap_or(self.want.deadline.at);
        let mut block = Relayed::default();
        loop {
            let Ok(event) = timeout_at(until, ticket.next()).await else {
                return self.take_back(&block, Sent::OutOfTime).await;
            };
            let (header, piece, whole) = match event {
                Event::Header(region, meta) => {
                    match timeout_at(until, self.may_show(at, meta.put_hlc)).await {
                        Ok(Some(true)) => {}
                        Ok(Some(false)) => return Sent::Missed,
                        Ok(None) => return Sent::Failed,
                        Err(_) => return Sent::OutOfTime,
                    }
                    let (index, part) = (self.slots[at].index, self.slots[at].part);
                    let header = Header {
                        index,
                        part,
                        meta,
                        region,
                    };
                    (Some(header), None, false)
                }
                Event::Piece(piece) => (None, Some(piece), false),
                Event::Whole => (None, None, true),
                Event::Missing => return self.take_back(&block, Sent::Missed).await,
                Event::Lost => return self.take_back(&block, Sent::Failed).await,
            };
            let region = header.as_ref().map(|header| header.region.clone());
            if !block.fits(header.as_ref(), piece.as_ref(), whole) {
                return self.take_back(&block, Sent::Failed).await;
            }
            block.region = region.or(block.region);
            if let Some(end) = self.forward(at, header, piece, whole).await {
                return self.take_back(&block, end).await;
            }
            block.forwarded = true;
            if whole {
                self.fetch_ms = Some(self.begun.elapsed().as_secs_f64() * 1_000.0);
                self.fills.extend(ticket.filled());
                let region = block.region.unwrap_or_else(|| self.gateway.region.clone());
                let bytes = block.bytes;
                return Sent::Whole { region, bytes };
            }
        }
    }

    /// Whether no delete that was acknowledged before this get hides a fetched block; none:
    /// nobody can say.
    async fn may_show(&mut self, at: usize, put_hlc: Hlc) -> Option<bool> {
        let current = self.current.as_mut()?;
        if !current.holds().await {
            return None;
        }
        let name = &self.slots[at].name;
        let local = &self.gateway.views.local;
        Some(local.with(|state| state.visible(name, put_hlc)))
    }

    /// Passes a frame on; says how the block ended if it could not be.
    async fn forward(
        &mut self,
        at: usize,
        mut header: Option<Header>,
        piece: Option<Bytes>,
        whole: bool,
    ) -> Option<Sent> {
        if let Some(header) = &mut header {
            // Nodes are asked with a chain of only what is wanted of them.
            header.index = self.slots[at].index;
            header.part = self.slots[at].part;
        }
        if self.sent == 0 {
            self.gateway.meters.first_block(self.begun.elapsed());
        }
        self.sent += 1;
        let frame = Frame::Block {
            header,
            piece,
            whole,
        };
        match timeout_at(self.want.deadline.at, self.out.send(frame)).await {
            Ok(Ok(())) => None,
            Ok(Err(_)) => Some(Sent::Gone),
            Err(_) => Some(Sent::OutOfTime),
        }
    }

    /// Tells the client to forget what came of a block, if anything did.
    async fn take_back(&self, block: &Relayed, sent: Sent) -> Sent {
        if !block.forwarded {
            return sent;
        }
        let forget = self.out.send(Frame::Aborted(None));
        match tokio::time::timeout(read::FAREWELL, forget).await {
            Ok(Ok(())) => sent,
            Ok(Err(_)) | Err(_) => Sent::Gone,
        }
    }
}

/// What was relayed of one block.
#[derive(Default)]
struct Relayed {
    begun: bool,
    /// The client has some of it.
    forwarded: bool,
    announced: u64,
    bytes: u64,
    region: Option<RegionId>,
}

impl Relayed {
    /// Whether the frame can be the next one of a block.
    fn fits(&mut self, header: Option<&Header>, piece: Option<&Bytes>, whole: bool) -> bool {
        match (header, self.begun) {
            (Some(header), false) => self.announced = header.meta.bytes,
            (None, true) => {}
            _ => return false,
        }
        let bytes = self.bytes + piece.map_or(0, |piece| piece.len() as u64);
        if bytes > self.announced || (whole && bytes != self.announced) {
            return false;
        }
        self.bytes = bytes;
        self.begun = true;
        true
    }
}
