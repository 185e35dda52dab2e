//! One call's attempts: which gateway comes next, and how long to wait before it.

use std::{future::Future, sync::Arc, time::Duration};

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use tokio::time::{Instant, sleep};
use tracing::debug;

use super::{CallError, Shared};
use crate::rpc::{CacheRpc, RpcError};

const RETRY_MIN: Duration = Duration::from_millis(10);
const RETRY_MAX: Duration = Duration::from_secs(1);

/// One attempt.
pub(super) struct Attempt {
    pub(super) rpc: CacheRpc,
    /// Time that is left.
    pub(super) left: Duration,
}

/// The attempts of one call.
pub(super) struct Attempts {
    shared: Arc<Shared>,
    call: &'static str,
    deadline: Instant,
    /// Which gateway is asked.
    at: usize,
    waits: ExponentialBackoff,
    last: Option<String>,
}

impl Attempts {
    pub(super) fn new(shared: Arc<Shared>, call: &'static str, deadline: Instant) -> Self {
        Self {
            at: shared.gateways.first(),
            shared,
            call,
            deadline,
            waits: backoff(),
            last: None,
        }
    }

    /// The next attempt, while there is time.
    pub(super) fn begin(&self) -> Result<Attempt, CallError> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(self.out_of_time());
        }
        Ok(Attempt {
            rpc: self.rpc()?,
            left,
        })
    }

    /// The gateway of the attempt that went well, whatever time is left.
    pub(super) fn rpc(&self) -> Result<CacheRpc, CallError> {
        Ok(CacheRpc::new(self.shared.gateways.channel(self.at)?))
    }

    /// An attempt, which fails as well when its gateway falls silent meanwhile.
    pub(super) async fn watched<T>(
        &self,
        attempt: impl Future<Output = Result<T, RpcError>>,
    ) -> Result<T, RpcError> {
        tokio::select! {
            biased;
            answer = attempt => answer,
            silent = self.silent() => Err(silent),
        }
    }

    /// Ends when the gateway of this attempt is silent from now on.
    pub(super) fn silent(&self) -> impl Future<Output = RpcError> + Send + use<> {
        Arc::clone(&self.shared.gateways).silent(self.at)
    }

    /// Which gateway this attempt asks.
    pub(super) fn at(&self) -> usize {
        self.at
    }

    /// The attempt was answered; says by which gateway.
    pub(super) fn answered(&self) -> usize {
        self.shared.gateways.answered(self.at);
        self.at
    }

    /// An attempt failed. Waits, and turns to the next gateway; the error, when no further
    /// attempt would help or there is no time for one.
    pub(super) async fn failed(&mut self, error: RpcError) -> Result<(), CallError> {
        let error = self.explain(error);
        self.retry(error).await
    }

    /// As [`Self::failed`], of an error in words.
    pub(super) async fn retry(&mut self, error: CallError) -> Result<(), CallError> {
        if self.shared.once || !error.is_retryable() {
            return Err(error);
        }
        debug!(call = self.call, address = self.address(), %error, "tried again elsewhere");
        let after = error.retry_after();
        self.last = Some(error.to_string());
        let gateways = &self.shared.gateways;
        // A call that its own deadline ends says nothing about the gateway.
        if error.is_away() && Instant::now() < self.deadline {
            gateways.lose(self.at, &error);
        }
        self.at = gateways.after(self.at);
        if self.pause(after).await {
            Ok(())
        } else {
            Err(error)
        }
    }

    /// Waits before the next attempt, at least as long as a server asked for; false: there is
    /// no time for another one.
    pub(super) async fn pause(&mut self, at_least: Option<Duration>) -> bool {
        metrics::counter!(
            "kvmesh_client_retries_total",
            "instance" => self.shared.instance.clone(), "call" => self.call
        )
        .increment(1);
        let wait = self.waits.next().unwrap_or(RETRY_MAX);
        let wait = at_least.map_or(wait, |at_least| wait.max(at_least));
        if Instant::now() + wait >= self.deadline {
            return false;
        }
        sleep(wait).await;
        true
    }

    /// The next failure is the first of its row again.
    pub(super) fn succeeded(&mut self) {
        self.waits = backoff();
    }

    pub(super) fn out_of_time(&self) -> CallError {
        CallError::OutOfTime {
            call: self.call,
            last: self.last.clone(),
        }
    }

    pub(super) fn explain(&self, error: RpcError) -> CallError {
        match error {
            RpcError::Status(status) => CallError::status(self.call, self.address(), *status),
            RpcError::Wire(source) => CallError::Answer {
                call: self.call,
                address: self.address().to_owned(),
                source,
            },
        }
    }

    pub(super) fn protocol(&self, what: &'static str) -> CallError {
        CallError::Protocol {
            call: self.call,
            address: self.address().to_owned(),
            what,
        }
    }

    fn address(&self) -> &str {
        self.shared.gateways.address(self.at)
    }
}

fn backoff() -> ExponentialBackoff {
    ExponentialBuilder::new()
        .with_min_delay(RETRY_MIN)
        .with_max_delay(RETRY_MAX)
        .without_max_times()
        .with_jitter()
        .with_jitter_seed(crate::random::word())
        .build()
}
