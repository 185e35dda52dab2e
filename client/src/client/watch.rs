//! Watches: what appears and vanishes in a namespace of the region.

use std::time::Duration;

use kvmesh_directory::{BlockName, FeedPosition};
use tokio::time::{Instant, timeout, timeout_at};

use super::{CallError, Opened, attempts::Attempts};
use crate::{follow::SILENCE_MAX, rpc::WatchAnswers};

/// Changes up to a position, what appeared first; comes also when nothing changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Watched {
    /// Watch from here to go on.
    pub position: FeedPosition,
    /// The region has its first copy.
    pub appeared: Vec<BlockName>,
    /// The region's last copy is gone.
    pub vanished: Vec<BlockName>,
}

/// A watch, until dropped.
pub struct WatchStream {
    attempts: Attempts,
    answers: WatchAnswers,
}

/// What an engine measured of one request; 0: not measured.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct RequestReport {
    /// Tokens that were computed, without those whose KV was fetched.
    pub tokens: u32,
    /// How long computing them took, milliseconds.
    pub prefill_ms: f64,
    /// Time in the queue, milliseconds.
    pub queue_ms: f64,
    /// Time to the first token, milliseconds.
    pub ttft_ms: f64,
    /// Tokens before them whose KV was there: what attends to them takes longer.
    pub prefix_tokens: u32,
}

impl Opened {
    /// Follows what appears and vanishes; `after` none: from now. `deadline` bounds how long
    /// the gateway may take to begin.
    ///
    /// # Errors
    /// When the gateways refuse, cannot be reached, or do not answer in time.
    pub async fn watch(
        &self,
        after: Option<&FeedPosition>,
        deadline: Duration,
    ) -> Result<WatchStream, CallError> {
        let deadline = Instant::now() + deadline;
        let mut attempts = Attempts::new(self.shared(), "watch", deadline);
        let answers = loop {
            let rpc = attempts.begin()?.rpc;
            let asked = rpc.watch(self.namespace().id, after);
            match timeout_at(deadline, attempts.watched(asked)).await {
                Ok(Ok(answers)) => break answers,
                Ok(Err(error)) => attempts.failed(error).await?,
                Err(_) => return Err(attempts.out_of_time()),
            }
        };
        Ok(WatchStream { attempts, answers })
    }

    /// Tells what was measured, so that the gateway learns how fast engines prefill; gives
    /// the tokens per second by which it estimates, if it knows them.
    ///
    /// # Errors
    /// When the gateways refuse, cannot be reached, or do not answer in time.
    pub async fn report(
        &self,
        reports: &[RequestReport],
        deadline: Duration,
    ) -> Result<Option<f64>, CallError> {
        let deadline = Instant::now() + deadline;
        let (shared, id) = (self.shared(), self.namespace().id);
        let rate = shared.ask("report", deadline, |rpc, left| {
            rpc.report(id, reports, left)
        });
        rate.await
    }
}

impl WatchStream {
    /// The next changes, or the position alone after a moment without any.
    ///
    /// # Errors
    /// When the stream ended, broke or went silent: watch again from the last position. Where
    /// the problem is a gap, that position is too old: watch from now.
    pub async fn next(&mut self) -> Result<Watched, CallError> {
        match timeout(SILENCE_MAX, self.answers.next()).await {
            Ok(Ok(Some(watched))) => Ok(watched),
            Ok(Ok(None)) => Err(self.attempts.protocol("a watch that ended by itself")),
            Ok(Err(error)) => Err(self.attempts.explain(error)),
            Err(_) => Err(self.attempts.out_of_time()),
        }
    }
}
