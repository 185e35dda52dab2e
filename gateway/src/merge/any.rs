//! Sends blocks as they become ready, to a client that takes them in any order.
//!
//! A block of this region is ready when its node begins to send it, one from afar when it has
//! wholly arrived: a slow link holds up no other block. What lies behind the first block that
//! does not come is of no use, and is not begun any more.

use std::collections::BTreeMap;

use futures::{StreamExt, future::BoxFuture, stream::FuturesUnordered};
use tokio::time::{Instant, timeout_at};

use super::{Feed, Merge, Run, Sent};
use crate::{
    flight::Ticket,
    frame::Outcome,
    local::{self, Call, CallFrame},
    read::{ROUND_BYTES, ROUND_SLOTS},
};

/// Who has something for the client.
enum Ready {
    /// A call and its number.
    Call(usize, Box<Call>, Heard),
    /// A block from afar has arrived, or does not come; none: not in time.
    Flight(usize, Option<Box<Ticket>>),
}

/// What a call brought.
enum Heard {
    Frame(CallFrame),
    /// It has ended.
    End,
    /// Nothing, for so long that other holders are asked.
    Silence,
    OutOfTime,
}

/// Where a slot stands.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    /// It counts for the rounds.
    InRound,
    Sent,
}

/// How far a get in any order is.
struct Progress {
    waits: FuturesUnordered<BoxFuture<'static, Ready>>,
    states: Vec<State>,
    /// First slot that does not come, and why; behind the last one: none.
    limit: (usize, Outcome),
    /// Slots before `limit` that are not sent.
    left: usize,
    /// Slots of rounds that are under way, and their bytes.
    under_way: (usize, u64),
    /// The slots of each call.
    places: BTreeMap<usize, Vec<usize>>,
}

impl Merge<'_> {
    /// As [`Merge::run`], in any order.
    pub(super) async fn run_any(mut self, cut: bool) -> Option<Run> {
        let all = self.slots.len();
        let mut progress = Progress {
            waits: FuturesUnordered::new(),
            states: vec![State::Open; all],
            limit: (all, Self::all_sent(cut)),
            left: all,
            under_way: (0, 0),
            places: BTreeMap::new(),
        };
        let afar = self.afar();
        self.ask(&mut progress, &afar);
        self.ask_rounds(&mut progress);
        self.touch_heads();
        while progress.left > 0 {
            let since = Instant::now();
            let patient = match self.next_from_afar(&progress) {
                Some(at) => self.patient_until(at),
                None => None,
            };
            let ready = match patient {
                Some(patient) => timeout_at(patient, progress.waits.next()).await,
                None => Ok(progress.waits.next().await),
            };
            if let Some(patience) = &mut self.patience {
                patience.waited(since);
            }
            let ready = match ready {
                Ok(Some(ready)) => ready,
                Ok(None) => {
                    progress.stop(Outcome::SourceFailed);
                    break;
                }
                // What it waited for comes so slowly that recomputing is faster.
                Err(_) => {
                    progress.stop(Outcome::Recompute);
                    break;
                }
            };
            let in_time = match ready {
                Ready::Call(number, call, heard) => {
                    self.hear(&mut progress, number, call, heard).await?
                }
                Ready::Flight(at, Some(ticket)) if progress.wants(at) => {
                    let sent = self.send_from_flight(at, *ticket).await;
                    self.settle(&mut progress, at, sent)?
                }
                Ready::Flight(at, None) if progress.wants(at) => {
                    progress.give_up(at, Outcome::OutOfTime);
                    true
                }
                Ready::Flight(..) => true,
            };
            if !in_time {
                progress.stop(Outcome::OutOfTime);
            }
            self.ask_rounds(&mut progress);
        }
        // What was sent behind the limit is no part of the run.
        let run = progress.states.iter().take(progress.limit.0);
        let whole = run.take_while(|state| **state == State::Sent).count();
        Some(self.finish(progress.limit.1, whole))
    }

    /// The first slot that is waited for and comes from afar.
    fn next_from_afar(&self, progress: &Progress) -> Option<usize> {
        let far = |at: &usize| matches!(self.feeds[*at], Feed::Flight(_));
        let mut open = (0..progress.limit.0).filter(|at| progress.wants(*at));
        open.find(far)
    }

    /// Asks nodes for the next rounds; two are under way at most.
    fn ask_rounds(&mut self, progress: &mut Progress) {
        while progress.under_way.0 <= ROUND_SLOTS && progress.under_way.1 <= ROUND_BYTES {
            let Some(round) = self.rounds.pop_front() else {
                return;
            };
            let unasked = |at: &usize| progress.wants(*at) && matches!(self.feeds[*at], Feed::None);
            let unasked: Vec<usize> = round.filter(unasked).collect();
            for &at in &unasked {
                progress.states[at] = State::InRound;
                progress.under_way.0 += 1;
                progress.under_way.1 += self.slots[at].asked;
            }
            self.pass_over_failing(&unasked);
            self.ask(progress, &unasked);
        }
    }

    /// Asks the front source of each slot, and waits for it.
    fn ask(&mut self, progress: &mut Progress, places: &[usize]) {
        let known = self.calls.len();
        self.launch(places);
        for &at in places {
            match &mut self.feeds[at] {
                Feed::Call(number) => progress.places.entry(*number).or_default().push(at),
                Feed::Flight(ticket) => {
                    let until = self.far_until.unwrap_or(self.want.deadline.at);
                    if let Some(mut ticket) = ticket.take() {
                        progress.waits.push(Box::pin(async move {
                            let arrived = timeout_at(until, ticket.arrived()).await;
                            Ready::Flight(at, arrived.is_ok().then_some(ticket))
                        }));
                    }
                }
                Feed::None => {
                    let why = self.end_without_source(at);
                    progress.give_up(at, why);
                }
            }
        }
        for number in known..self.calls.len() {
            if let Some(call) = self.calls[number].take() {
                self.listen(progress, number, Box::new(call));
            }
        }
    }

    /// Waits for the next frame of a call.
    fn listen(&self, progress: &mut Progress, number: usize, mut call: Box<Call>) {
        let deadline = self.want.deadline.at;
        let places = progress.places.get(&number);
        let open = places.into_iter().flatten();
        let silent_at: Option<Instant> = open
            .filter(|at| progress.wants(**at))
            .filter_map(|&at| local::silent_at(self.gateway, &self.slots[at]))
            .max();
        let until = silent_at.map_or(deadline, |at| at.min(deadline));
        progress.waits.push(Box::pin(async move {
            let heard = match timeout_at(until, call.next()).await {
                Ok(Some(frame)) => Heard::Frame(frame),
                Ok(None) => Heard::End,
                Err(_) if until == deadline => Heard::OutOfTime,
                Err(_) => Heard::Silence,
            };
            Ready::Call(number, call, heard)
        }));
    }

    /// Sends the block that a call begins. False: time is over; none: the client has gone.
    async fn hear(
        &mut self,
        progress: &mut Progress,
        number: usize,
        mut call: Box<Call>,
        heard: Heard,
    ) -> Option<bool> {
        let frame = match heard {
            Heard::Frame(frame) => frame,
            Heard::OutOfTime => return Some(false),
            Heard::Silence => {
                if let Some(address) = self.gateway.views.address(call.node) {
                    self.gateway.peers.failed(&address);
                }
                self.call_over(progress, number);
                return Some(true);
            }
            Heard::End => {
                self.call_over(progress, number);
                return Some(true);
            }
        };
        let at = frame.slot;
        let fed_by_it = matches!(self.feeds[at], Feed::Call(by) if by == number);
        if !progress.wants(at) || !fed_by_it {
            // The rest of a block that is not wanted, or not from here.
            self.listen(progress, number, call);
            return Some(true);
        }
        call.put_back(frame);
        let (sent, goes_on) = self.relay(at, &mut call).await;
        let in_time = self.settle(progress, at, sent)?;
        match goes_on {
            _ if !in_time => {}
            true => self.listen(progress, number, call),
            false => self.call_over(progress, number),
        }
        Some(in_time)
    }

    /// Notes how the sending of a block ended; asks its next source where there is one.
    /// False: time is over; none: the client has gone.
    fn settle(&mut self, progress: &mut Progress, at: usize, sent: Sent) -> Option<bool> {
        match sent {
            Sent::Whole { region, bytes } => {
                self.count_sent(region, bytes);
                progress.sent(at, self.slots[at].asked);
                return Some(true);
            }
            Sent::OutOfTime => return Some(false),
            Sent::TooSlow => {
                progress.stop(Outcome::Recompute);
                return Some(true);
            }
            Sent::Gone => return None,
            Sent::Refused(problem) => {
                self.refused = Some(problem);
                progress.give_up(at, Outcome::SourceFailed);
                return Some(true);
            }
            Sent::Missed => self.gateway.meters.stale_claim(),
            Sent::Failed => self.failed = true,
        }
        self.ask_others(progress, &[at]);
        Some(true)
    }

    /// The call brings nothing more: what it owes is asked of others.
    fn call_over(&mut self, progress: &mut Progress, number: usize) {
        let mut owed = progress.places.remove(&number).unwrap_or_default();
        let fed_by_it = |at: usize| matches!(self.feeds[at], Feed::Call(by) if by == number);
        owed.retain(|&at| progress.wants(at) && fed_by_it(at));
        self.failed |= !owed.is_empty();
        self.ask_others(progress, &owed);
    }

    fn ask_others(&mut self, progress: &mut Progress, places: &[usize]) {
        for &at in places {
            self.turn_from_source(at);
        }
        self.ask(progress, places);
    }
}

impl Progress {
    /// Whether a block is still to be sent.
    fn wants(&self, at: usize) -> bool {
        at < self.limit.0 && self.states[at] != State::Sent
    }

    fn sent(&mut self, at: usize, bytes: u64) {
        if self.states[at] == State::InRound {
            self.under_way.0 -= 1;
            self.under_way.1 -= bytes;
        }
        self.states[at] = State::Sent;
        self.left -= 1;
    }

    /// A block does not come: nothing behind it is wanted.
    fn give_up(&mut self, at: usize, why: Outcome) {
        if at < self.limit.0 {
            let behind = &self.states[at..self.limit.0];
            self.left -= behind.iter().filter(|it| **it != State::Sent).count();
            self.limit = (at, why);
        }
    }

    /// Nothing more is sent.
    fn stop(&mut self, why: Outcome) {
        if let Some(first) = self.states.iter().position(|it| *it != State::Sent) {
            self.give_up(first, why);
        }
    }
}
