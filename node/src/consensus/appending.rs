//! Entries on their way to one member whose disk may be slow.
//!
//! Raft gives a call up that is not answered within a heartbeat, and sends its entries again.
//! Where a disk takes longer than that, no answer would ever be in time, and the member would
//! append the same entries again and again. So a call with entries goes on when Raft has given
//! it up, and the next one waits for it; then that one sends what the member lacks, which may
//! be nothing.
//!
//! An answer is never handed to a later call: Raft takes a member to have heard of its leader
//! when the answered call began, and leases depend on it.

use std::{
    future::Future,
    pin::Pin,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use kvmesh_proto::v1 as wire;
use openraft::{
    error::Infallible,
    raft::{AppendEntriesRequest, AppendEntriesResponse},
};
use tokio::time::{Instant, timeout, timeout_at};

use super::{
    convert,
    network::Failure,
    raft::{LogId, TypeConfig, Vote},
};

/// How long a call goes on, at most.
const CALL_MAX: Duration = Duration::from_secs(5);

type Answer = Result<AppendEntriesResponse<u64>, Failure<Infallible>>;

/// A call that Raft has given up. None: it took too long.
struct UnderWay {
    vote: Vote,
    prev: Option<LogId>,
    last: LogId,
    answer: Pin<Box<dyn Future<Output = Option<Answer>> + Send>>,
}

/// See the module.
#[derive(Default)]
pub(super) struct Appending {
    /// For one call at a time; the lock is what makes a future shareable.
    under_way: Mutex<Option<UnderWay>>,
    /// What the member told a call that was given up.
    told: Option<(Vote, Told)>,
}

#[derive(Debug, Clone, Copy)]
enum Told {
    /// Up to here its log is the leader's.
    Has(LogId),
    /// It does not have this entry: entries behind it are no use.
    Lacks(Option<LogId>),
}

impl Appending {
    /// Sends a request by `ask`, which is called once at most; none: not answered by `until`.
    pub(super) async fn append<F>(
        &mut self,
        mut request: AppendEntriesRequest<TypeConfig>,
        until: Instant,
        ask: impl FnOnce(wire::AppendEntriesRequest) -> F,
    ) -> Option<Answer>
    where
        F: Future<Output = Answer> + Send + 'static,
    {
        if request.entries.is_empty() {
            let answer = ask(convert::append_to_wire(&request));
            return timeout_at(until, answer).await.ok();
        }
        if !self.wait(&request.vote, until).await {
            return None;
        }
        let known = self.shorten(&mut request);
        let (vote, prev) = (request.vote, request.prev_log_id);
        let last = request.entries.last().map(|entry| entry.log_id);
        let answer = timeout(CALL_MAX, ask(convert::append_to_wire(&request)));
        let mut answer = Box::pin(async { answer.await.ok() });
        let Ok(answered) = timeout_at(until, &mut answer).await else {
            *self.under_way() = last.map(|last| UnderWay {
                vote,
                prev,
                last,
                answer,
            });
            return None;
        };
        match (known, answered) {
            // Its log is not what it said it is: everything is sent again.
            (Some(Told::Has(_)), Some(Ok(AppendEntriesResponse::Conflict)))
            | (Some(Told::Lacks(_)), Some(Ok(AppendEntriesResponse::Success))) => {
                self.told = None;
                None
            }
            (_, answered) => answered,
        }
    }

    fn under_way(&mut self) -> &mut Option<UnderWay> {
        let under_way = self.under_way.get_mut();
        under_way.unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the call that was given up, where it is of this leadership; whether none is
    /// under way any more.
    async fn wait(&mut self, vote: &Vote, until: Instant) -> bool {
        let under_way = self.under_way();
        let Some(call) = under_way.as_mut().filter(|call| call.vote == *vote) else {
            *under_way = None;
            return true;
        };
        let Ok(answer) = timeout_at(until, &mut call.answer).await else {
            return false;
        };
        let (vote, prev, last) = (call.vote, call.prev, call.last);
        *under_way = None;
        // What else it may have said it says again.
        let told = match answer {
            Some(Ok(AppendEntriesResponse::Success)) => Some(Told::Has(last)),
            Some(Ok(AppendEntriesResponse::PartialSuccess(has))) => has.map(Told::Has),
            Some(Ok(AppendEntriesResponse::Conflict)) => Some(Told::Lacks(prev)),
            _ => None,
        };
        self.told = told.map(|told| (vote, told)).or(self.told);
        true
    }

    /// Leaves out what the member is known to have, or cannot take; says what is known of it,
    /// where anything was left out.
    fn shorten(&self, request: &mut AppendEntriesRequest<TypeConfig>) -> Option<Told> {
        let (_, told) = self.told.filter(|(vote, _)| *vote == request.vote)?;
        match told {
            Told::Has(has) => {
                let had = request.entries.iter().map(|entry| entry.log_id);
                let prev = had.take_while(|id| *id <= has).last()?;
                request.entries.retain(|entry| entry.log_id > prev);
                request.prev_log_id = Some(prev);
            }
            Told::Lacks(prev) if prev == request.prev_log_id => request.entries.clear(),
            Told::Lacks(_) => return None,
        }
        Some(told)
    }
}

#[cfg(test)]
#[path = "appending_test.rs"]
mod tests;
