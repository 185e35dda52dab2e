//! Getting blocks: over several streams if need be, inside of one deadline.

use std::{sync::Arc, time::Duration};

use kvmesh_directory::{FeedPosition, Namespace, Part, RegionId};
use tokio::time::{Instant, sleep, timeout_at};

use super::{
    CallError, Chain, Shared,
    attempts::Attempts,
    gathering::{Gathering, Step},
    opened::VIEW_BEHIND_WAIT,
};
use crate::{
    block::Block,
    rpc::{GetFrames, GetRequest, RpcError},
};

/// Bounds a get whose deadline is left to the gateway.
const DEADLINE_MAX: Duration = Duration::from_secs(30);
/// What the gateway is given is shorter than the deadline by at most so much, so that a
/// prefix that it answers at its own deadline still arrives.
const RETURN_MAX: Duration = Duration::from_millis(100);
/// Blocks that were lost on the way are asked for again so often.
const LOSSES_MAX: u32 = 2;

/// What to get of a chain, and how.
#[derive(Debug, Clone, Default)]
pub struct GetOptions {
    /// Bounds the whole get, and overrides the gateway's own bounds. None: the gateway's.
    pub deadline: Option<Duration>,
    /// First block that is wanted.
    pub start: u32,
    /// Blocks that are wanted; 0: to the end of the chain.
    pub count: u32,
    /// Parts of each block; none named: (0, 0).
    pub parts: Vec<Part>,
    /// A run shorter than this is not worth sending. 0: any.
    pub blocks_min: u32,
    /// End only when what was fetched from afar is kept in the region.
    pub await_fill: bool,
    /// Blocks may come in any order.
    pub any_order: bool,
}

/// A whole block, every byte of it verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FetchedBlock {
    /// Position in the chain.
    pub index: u32,
    /// Slice of the block.
    pub part: Part,
    /// Its bytes.
    pub block: Block,
    /// Region that they came from.
    pub region: RegionId,
}

/// How a get ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GetOutcome {
    /// Everything that was wanted came.
    Complete,
    /// A block is nowhere in the mesh: the run before it came.
    Miss,
    /// Time ran out: what had arrived came.
    OutOfTime,
    /// What the client wrote was not visible in time: nothing came.
    ViewBehind,
    /// The run was shorter than `blocks_min`: nothing came.
    TooShort,
    /// A source failed or sent wrong bytes: the run before it came.
    SourceFailed,
    /// Recomputing the rest is expected to be faster than fetching it: what the region itself
    /// has came.
    Recompute,
}

/// Blocks of one region.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceCount {
    /// Which region.
    pub region: RegionId,
    /// Blocks, counted over all parts.
    pub blocks: u32,
    /// Their bytes.
    pub bytes: u64,
}

/// What a get came to.
#[derive(Debug, Clone, PartialEq)]
pub struct GetSummary {
    /// How it ended.
    pub outcome: GetOutcome,
    /// Where the blocks that came were from.
    pub sources: Vec<SourceCount>,
    /// Length of the run from the wanted start, in chain positions.
    pub blocks: u32,
    /// Tokens of that run.
    pub tokens: u64,
    /// What the fetch was expected to take, when another region was asked, milliseconds.
    pub estimated_fetch_ms: Option<f64>,
    /// What recomputing the same blocks was expected to take, where a prefill rate is known.
    pub estimated_recompute_ms: Option<f64>,
    /// What the fetch took, milliseconds.
    pub fetch_ms: Option<f64>,
    /// The local view that answered.
    pub position: Option<FeedPosition>,
    /// Covers every block that the get's fetches kept in the region.
    pub fill_position: Option<FeedPosition>,
    /// Fetched blocks that could not be kept.
    pub fill_failures: u32,
    /// Blocks that were aborted or had wrong bytes; counted again each time that they came so.
    pub lost: u32,
}

/// All of a get.
#[derive(Debug, Clone, PartialEq)]
pub struct Fetched {
    /// As they came: in chain order, unless any order was allowed or a stream broke.
    pub blocks: Vec<FetchedBlock>,
    /// How it ended.
    pub summary: GetSummary,
}

/// A get on its way.
pub struct GetStream {
    shared: Arc<Shared>,
    request: GetRequest,
    deadline: Instant,
    block_tokens: u32,
    gathering: Gathering,
    attempts: Attempts,
    frames: Option<GetFrames>,
    lost: u32,
    losses_left: u32,
    summary: Option<GetSummary>,
}

impl GetStream {
    pub(super) fn new(
        shared: Arc<Shared>,
        namespace: &Namespace,
        chain: &Chain,
        options: GetOptions,
    ) -> Self {
        let deadline = Instant::now() + options.deadline.unwrap_or(DEADLINE_MAX);
        let end = match options.count {
            0 => chain.len(),
            count => options.start + count,
        };
        let request = GetRequest {
            namespace: namespace.id,
            chain: chain.clone(),
            start: options.start,
            count: end - options.start,
            parts: options.parts.clone(),
            at_least: Vec::new(),
            blocks_min: options.blocks_min,
            any_order: options.any_order,
            await_fill: options.await_fill,
            overrides: options.deadline.is_some(),
            left: Duration::ZERO,
        };
        Self {
            attempts: Attempts::new(Arc::clone(&shared), "get", deadline),
            gathering: Gathering::new(options.start, end, options.parts),
            block_tokens: namespace.description.block_tokens,
            shared,
            request,
            deadline,
            frames: None,
            lost: 0,
            losses_left: LOSSES_MAX,
            summary: None,
        }
    }

    /// The next block; none: the get has ended, and [`Self::summary`] says how. Safe to cancel.
    ///
    /// # Errors
    /// When the gateways refuse, cannot be reached, or do not answer in time, and no block came.
    pub async fn next(&mut self) -> Result<Option<FetchedBlock>, CallError> {
        while self.summary.is_none() {
            let Ok(frame) = timeout_at(self.deadline, self.frame()).await else {
                self.end_early(self.attempts.out_of_time())?;
                break;
            };
            match frame {
                Ok(Step::Nothing) => {}
                Ok(Step::Block(block)) => return Ok(Some(block)),
                Ok(Step::Lost) => self.lose(),
                Ok(Step::Summary(summary)) => self.on_summary(summary).await,
                Err(error) => {
                    self.frames = None;
                    if let Err(error) = self.attempts.retry(error).await {
                        self.end_early(error)?;
                    }
                }
            }
        }
        Ok(None)
    }

    /// How the get ended; none while it goes on.
    #[must_use]
    pub fn summary(&self) -> Option<&GetSummary> {
        self.summary.as_ref()
    }

    /// How the get ended, or what came so far when it has not: out of time.
    #[must_use]
    pub fn into_summary(mut self) -> GetSummary {
        match self.summary.take() {
            Some(summary) => summary,
            None => self.own_summary(GetOutcome::OutOfTime),
        }
    }

    /// One frame of the stream, which is opened when there is none.
    async fn frame(&mut self) -> Result<Step, CallError> {
        if self.frames.is_none() {
            let opened = self.open().await?;
            self.gathering.restart();
            self.frames = Some(opened);
        }
        let next = match &mut self.frames {
            Some(frames) => frames.next().await,
            None => Ok(None),
        };
        let explain = |error: RpcError| self.attempts.explain(error);
        let frame = next
            .map_err(explain)?
            .ok_or_else(|| self.attempts.protocol("it ended without a summary"))?;
        let step = self.gathering.on_frame(frame);
        step.map_err(|what| self.attempts.protocol(what))
    }

    async fn open(&mut self) -> Result<GetFrames, CallError> {
        let attempt = self.attempts.begin()?;
        let left = attempt.left;
        let (start, count) = self.gathering.rest();
        let request = GetRequest {
            start,
            count,
            at_least: self.shared.positions.all(),
            // Of a run that has begun, every further block is worth sending.
            blocks_min: match self.gathering.is_empty() {
                true => self.request.blocks_min,
                false => 0,
            },
            left: left.saturating_sub((left / 10).min(RETURN_MAX)),
            ..self.request.clone()
        };
        let opened = attempt.rpc.get(&request).await;
        opened.map_err(|error| self.attempts.explain(error))
    }

    fn lose(&mut self) {
        self.lost += 1;
        metrics::counter!(
            "kvmesh_client_lost_blocks_total",
            "instance" => self.shared.instance.clone()
        )
        .increment(1);
    }

    /// The gateway's end: the get's own, or there is reason and time to ask again.
    async fn on_summary(&mut self, summary: GetSummary) {
        self.frames = None;
        if let Some(position) = &summary.fill_position {
            self.shared.positions.note(position);
        }
        let complete = self.gathering.is_complete();
        let again = match summary.outcome {
            _ if complete || self.shared.once => false,
            GetOutcome::ViewBehind => Instant::now() + VIEW_BEHIND_WAIT < self.deadline,
            GetOutcome::SourceFailed | GetOutcome::Complete if self.losses_left > 0 => {
                self.losses_left -= 1;
                true
            }
            _ => false,
        };
        if again {
            self.attempts.succeeded();
            sleep(VIEW_BEHIND_WAIT).await;
            return;
        }
        let outcome = match summary.outcome {
            _ if complete => GetOutcome::Complete,
            // Not everything came whole, whatever the gateway thinks.
            GetOutcome::Complete => GetOutcome::SourceFailed,
            other => other,
        };
        self.summary = Some(GetSummary {
            estimated_fetch_ms: summary.estimated_fetch_ms,
            estimated_recompute_ms: summary.estimated_recompute_ms,
            fetch_ms: summary.fetch_ms,
            position: summary.position,
            fill_position: summary.fill_position,
            fill_failures: summary.fill_failures,
            ..self.own_summary(outcome)
        });
    }

    /// Time ran out, or the last gateway failed: what came before stays.
    fn end_early(&mut self, error: CallError) -> Result<(), CallError> {
        if self.gathering.is_empty() {
            return Err(error);
        }
        let outcome = match (self.gathering.is_complete(), &error) {
            (true, _) => GetOutcome::Complete,
            (false, CallError::OutOfTime { .. }) => GetOutcome::OutOfTime,
            (false, _) => GetOutcome::SourceFailed,
        };
        self.summary = Some(self.own_summary(outcome));
        Ok(())
    }

    fn own_summary(&self, outcome: GetOutcome) -> GetSummary {
        let blocks = self.gathering.run();
        GetSummary {
            outcome,
            sources: self.gathering.sources(),
            blocks,
            tokens: u64::from(blocks) * u64::from(self.block_tokens),
            estimated_fetch_ms: None,
            estimated_recompute_ms: None,
            fetch_ms: None,
            position: None,
            fill_position: None,
            fill_failures: 0,
            lost: self.lost,
        }
    }
}
