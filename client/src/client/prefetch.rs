//! Prefetches, as the gateway that runs one tells of it.

use std::time::Duration;

use kvmesh_directory::{FeedPosition, RegionId};
use tokio::time::{Instant, timeout, timeout_at};

use super::{CallError, ChainQuery, Opened, attempts::Attempts};
use crate::{
    follow::SILENCE_MAX,
    rpc::{Prefetch, PrefetchAnswers},
};

/// What to prefetch beside the chains.
#[derive(Debug, Clone, Default)]
pub struct PrefetchOptions {
    /// The only region to fetch from. None: any.
    pub region: Option<RegionId>,
    /// How long the prefetch may take, whoever listens. None: the gateway's longest.
    pub limit: Option<Duration>,
}

/// How a prefetch ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PrefetchEnd {
    /// Everything is kept in the region.
    Complete,
    /// Everything was tried; some blocks failed.
    Partial,
    /// Somebody cancelled it.
    Cancelled,
    /// It took too long.
    OutOfTime,
}

/// How far a prefetch is; blocks are counted over all parts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PrefetchProgress {
    /// Names it at the gateway that runs it.
    pub handle: String,
    /// Blocks that are kept in the region now.
    pub done_blocks: u32,
    /// Blocks that the region lacked and another one had.
    pub total_blocks: u32,
    /// Bytes of the blocks that are kept.
    pub done_bytes: u64,
    /// Bytes of all.
    pub total_bytes: u64,
    /// Blocks that could not be fetched or not be kept.
    pub failed_blocks: u32,
    /// How it ended; none: it goes on.
    pub end: Option<PrefetchEnd>,
    /// Covers every block that was kept so far.
    pub position: Option<FeedPosition>,
}

/// A prefetch, followed. Dropping it does not end the prefetch.
pub struct PrefetchStream {
    opened: Opened,
    attempts: Attempts,
    answers: PrefetchAnswers,
    over: bool,
}

impl Opened {
    /// Brings what other regions hold of chains into this region. `deadline` bounds how long
    /// the gateway may take to begin.
    ///
    /// # Errors
    /// When the gateways refuse, cannot be reached, or do not answer in time.
    pub async fn prefetch(
        &self,
        queries: &[ChainQuery],
        options: PrefetchOptions,
        deadline: Duration,
    ) -> Result<PrefetchStream, CallError> {
        for query in queries {
            self.check("prefetch", &query.chain, &query.parts)?;
        }
        let wanted = Prefetch::New(queries.to_vec(), options);
        self.prefetch_as(wanted, deadline).await
    }

    /// Follows a prefetch that a gateway runs or ran a moment ago.
    ///
    /// # Errors
    /// As [`Self::prefetch`]; also when the gateway that answers does not run it.
    pub async fn prefetch_of(
        &self,
        handle: &str,
        deadline: Duration,
    ) -> Result<PrefetchStream, CallError> {
        let wanted = Prefetch::Known(handle.to_owned());
        self.prefetch_as(wanted, deadline).await
    }

    async fn prefetch_as(
        &self,
        wanted: Prefetch,
        deadline: Duration,
    ) -> Result<PrefetchStream, CallError> {
        let deadline = Instant::now() + deadline;
        let mut attempts = Attempts::new(self.shared(), "prefetch", deadline);
        let answers = loop {
            let rpc = attempts.begin()?.rpc;
            let asked = rpc.prefetch(self.namespace().id, &wanted);
            match timeout_at(deadline, attempts.watched(asked)).await {
                Ok(Ok(answers)) => break answers,
                Ok(Err(error)) => attempts.failed(error).await?,
                Err(_) => return Err(attempts.out_of_time()),
            }
        };
        Ok(PrefetchStream {
            opened: self.clone(),
            attempts,
            answers,
            over: false,
        })
    }
}

impl PrefetchStream {
    /// How far it is now; none: it has ended, and the last one said how.
    ///
    /// # Errors
    /// When the stream broke or went silent: follow the prefetch again by its handle.
    pub async fn next(&mut self) -> Result<Option<PrefetchProgress>, CallError> {
        if self.over {
            return Ok(None);
        }
        let progress = match timeout(SILENCE_MAX, self.answers.next()).await {
            Ok(Ok(Some(progress))) => progress,
            Ok(Ok(None)) => return Err(self.attempts.protocol("a stream without an end")),
            Ok(Err(error)) => return Err(self.attempts.explain(error)),
            Err(_) => return Err(self.attempts.out_of_time()),
        };
        self.over = progress.end.is_some();
        if let Some(position) = &progress.position {
            self.opened.client().observe(position);
        }
        Ok(Some(progress))
    }

    /// Ends a prefetch of this namespace, at the gateway that runs this one. The stream then
    /// tells the end.
    ///
    /// # Errors
    /// When the gateway cannot be reached, or does not answer in time.
    pub async fn cancel(&self, handle: &str, deadline: Duration) -> Result<(), CallError> {
        let rpc = self.attempts.rpc()?;
        let ended = Prefetch::Ended(handle.to_owned());
        let asked = rpc.prefetch(self.opened.namespace().id, &ended);
        match timeout(deadline, asked).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(self.attempts.explain(error)),
            Err(_) => Err(self.attempts.out_of_time()),
        }
    }
}
