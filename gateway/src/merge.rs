//! Makes one stream of many: blocks in chain order (or in `any` order), whoever sends them,
//! each from the next source when one fails.
//!
//! Invariants: a block's frames have no other block's between them; after a failure in the
//! middle of a block the client is told to forget what came of it.

mod any;
mod block;

use std::{
    collections::{BTreeMap, VecDeque},
    ops::Range,
    sync::Arc,
};

use kvmesh_client::Problem;
use kvmesh_directory::{DirectoryState, NodeId, Part, RegionId, cost::Time};
use tokio::{sync::mpsc, time::Instant};

use crate::{
    context::Gateway,
    current::Current,
    far,
    fill::Filled,
    flight::Ticket,
    frame::{Frame, Outcome, SourceCount},
    local::{self, Call},
    patience::Patience,
    reach::Under,
    read::{self, Slot, Source},
    request::Want,
};

/// Where a slot's frames come from.
enum Feed {
    /// Nobody was asked yet, or nobody is left.
    None,
    Call(usize),
    /// None: it is waited for already.
    Flight(Option<Box<Ticket>>),
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
    /// It comes so slowly that recomputing the rest is faster.
    TooSlow,
    /// The client does not take any more.
    Gone,
    /// The block does not have the bytes that are wanted.
    Refused(Problem),
}

/// What a run came to.
pub(crate) struct Run {
    pub(crate) outcome: Outcome,
    pub(crate) blocks: u32,
    pub(crate) sources: Vec<SourceCount>,
    pub(crate) estimated_fetch: Option<Time>,
    pub(crate) fetch_ms: Option<f64>,
    /// Of the fetched blocks that are kept here.
    pub(crate) fills: Vec<Filled>,
    /// The call cannot be answered as it is, whoever is asked.
    pub(crate) refused: Option<Problem>,
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
    /// The get, as those that turn to other regions are counted.
    under: Under,
    /// Begun with the first far fetch.
    current: Option<Current>,
    begun: Instant,
    sent: u64,
    failed: bool,
    refused: Option<Problem>,
    sources: BTreeMap<RegionId, (u32, u64)>,
    estimated_fetch: Option<Time>,
    /// None: it is waited for as long as the call may.
    patience: Option<Patience>,
    fetch_ms: Option<f64>,
    fills: Vec<Filled>,
}

impl<'a> Merge<'a> {
    pub(crate) fn new(
        gateway: &'a Arc<Gateway>,
        want: &'a Want,
        slots: Vec<Slot>,
        far_until: Option<Instant>,
        patience: Option<Patience>,
        out: &'a mpsc::Sender<Frame>,
        under: Under,
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
            under,
            current: None,
            begun: Instant::now(),
            sent: 0,
            failed: false,
            refused: None,
            sources: BTreeMap::new(),
            estimated_fetch: None,
            patience,
            fetch_ms: None,
            fills: Vec::new(),
        }
    }

    /// Sends the slots; `cut`: more was wanted than they are. None: the client has gone.
    pub(crate) async fn run(self, cut: bool) -> Option<Run> {
        match self.want.any_order {
            true => self.run_any(cut).await,
            false => self.run_in_order(cut).await,
        }
    }

    async fn run_in_order(mut self, cut: bool) -> Option<Run> {
        let afar = self.afar();
        self.launch(&afar);
        self.launch_round();
        self.touch_heads();
        let (mut whole, mut next_round) = (0, 0);
        let mut outcome = Self::all_sent(cut);
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
        Some(self.finish(outcome, whole))
    }

    /// The slots that only other regions have.
    fn afar(&self) -> Vec<usize> {
        let far = |slot: &Slot| matches!(slot.sources.front(), Some(Source::Region(_)));
        let all = 0..self.slots.len();
        all.filter(|&at| far(&self.slots[at])).collect()
    }

    fn touch_heads(&mut self) {
        for (node, touch) in std::mem::take(&mut self.heads) {
            local::touch_only(self.gateway, self.want, node, &touch);
        }
    }

    /// How a run ends of which everything was sent.
    fn all_sent(cut: bool) -> Outcome {
        match cut {
            true => Outcome::Miss,
            false => Outcome::Complete,
        }
    }

    /// `whole`: slots that were sent without a hole.
    fn finish(self, outcome: Outcome, whole: usize) -> Run {
        self.report();
        let sources = self.sources.into_iter();
        let block_tokens = u64::from(self.want.namespace.description.block_tokens);
        Run {
            outcome,
            blocks: (whole / self.want.parts.len()) as u32,
            sources: sources
                .map(|(region, (blocks, bytes))| SourceCount {
                    region,
                    blocks,
                    bytes,
                    tokens: u64::from(blocks) * block_tokens / self.want.parts.len() as u64,
                })
                .collect(),
            estimated_fetch: self.estimated_fetch,
            fetch_ms: self.fetch_ms,
            fills: self.fills,
            refused: self.refused,
        }
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
            self.feeds[at] = Feed::Flight(Some(Box::new(ticket)));
        }
        let longer = estimate.filter(|new| {
            let before = self.estimated_fetch;
            before.is_none_or(|before| before.p50 < new.p50)
        });
        self.estimated_fetch = longer.or(self.estimated_fetch);
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
                Feed::Flight(Some(ticket)) => self.send_from_flight(at, *ticket).await,
                Feed::None | Feed::Flight(None) => {
                    return Some(Some(self.end_without_source(at)));
                }
            };
            match sent {
                Sent::Whole { region, bytes } => {
                    self.count_sent(region, bytes);
                    return Some(None);
                }
                Sent::Missed => self.gateway.meters.stale_claim(),
                Sent::Failed => self.failed = true,
                Sent::OutOfTime => return Some(Some(Outcome::OutOfTime)),
                Sent::TooSlow => return Some(Some(Outcome::Recompute)),
                Sent::Gone => return None,
                Sent::Refused(problem) => {
                    self.refused = Some(problem);
                    return Some(Some(Outcome::SourceFailed));
                }
            }
            self.ask_next(at, asked);
        }
    }

    /// Until when it is worth waiting for a slot from afar, if nothing comes.
    fn patient_until(&self, at: usize) -> Option<Instant> {
        let patience = self.patience.as_ref()?;
        Some(patience.until(at / self.want.parts.len()))
    }

    fn count_sent(&mut self, region: RegionId, bytes: u64) {
        let count = self.sources.entry(region).or_default();
        count.0 += 1;
        count.1 += bytes;
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
        self.turn_from_source(at);
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

    /// The front source of a slot did not bring it: the next one is in front, unless the get may
    /// not turn to it.
    fn turn_from_source(&mut self, at: usize) {
        let lost = self.slots[at].sources.pop_front();
        if matches!(lost, Some(Source::Region(_))) && self.failed && !self.may_turn() {
            self.slots[at].sources.clear();
        }
        self.feeds[at] = Feed::None;
    }

    /// Whether the get may go on with another region than the one that failed.
    fn may_turn(&mut self) -> bool {
        let share = self.gateway.settings.now().failover_share_max_permille;
        let may = self.under.may_turn(share);
        self.gateway.meters.turned(may);
        may
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
}
