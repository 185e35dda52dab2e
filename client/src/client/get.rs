//! Getting blocks: over several streams if need be, inside of one deadline.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use kvmesh_directory::{BlockHash, BlockKey, Namespace, Part, RegionId};
use tokio::time::{Instant, sleep, timeout_at};
use tonic::Code;

use super::{
    CallError, Chain, GetOutcome, GetSummary, Path, Shared,
    attempts::Attempts,
    from_nodes::FromNodes,
    gathering::{Came, Gathering, Step},
    opened::VIEW_BEHIND_WAIT,
};
use crate::{
    block::Block,
    convert::WireError,
    local::Wanted,
    ranges::Ranges,
    rpc::{GetFrames, GetRequest},
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
    /// Which way they came.
    pub path: Path,
}

/// All of a get.
#[derive(Debug, Clone, PartialEq)]
pub struct Fetched {
    /// As they came: in chain order, unless any order was allowed or a stream broke.
    pub blocks: Vec<FetchedBlock>,
    /// How it ended.
    pub summary: GetSummary,
}

/// Where frames come from.
enum Source {
    Gateway(GetFrames),
    Nodes(FromNodes),
}

/// A get on its way.
pub struct GetStream {
    shared: Arc<Shared>,
    request: GetRequest,
    deadline: Instant,
    block_tokens: u32,
    replicas: u32,
    gathering: Gathering,
    attempts: Attempts,
    source: Option<Source>,
    /// Nodes were not asked yet.
    from_nodes: bool,
    lost: u32,
    /// A node on this host had some.
    mapped: bool,
    /// Blocks of nodes on this host that are to be returned. None: they were not asked yet.
    local: Option<VecDeque<Came>>,
    losses_left: u32,
    summary: Option<GetSummary>,
}

impl GetStream {
    pub(super) fn new(
        shared: Arc<Shared>,
        namespace: &Namespace,
        chain: &Chain,
        ranges: Ranges,
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
            select: Vec::new(),
            touch: Vec::new(),
            ranges: ranges.clone(),
            left: Duration::ZERO,
        };
        Self {
            attempts: Attempts::new(Arc::clone(&shared), "get", deadline),
            gathering: Gathering::new(options.start, end, options.parts, ranges),
            block_tokens: namespace.description.block_tokens,
            replicas: namespace.policy.replicas,
            from_nodes: shared.nodes.is_some(),
            shared,
            request,
            deadline,
            source: None,
            lost: 0,
            mapped: false,
            local: None,
            losses_left: LOSSES_MAX,
            summary: None,
        }
    }

    /// The next block; none: the get has ended, and [`Self::summary`] says how. Safe to cancel.
    ///
    /// # Errors
    /// When the gateways refuse, cannot be reached, or do not answer in time, and no block came.
    pub async fn next(&mut self) -> Result<Option<FetchedBlock>, CallError> {
        while let Some(came) = self.next_pieces().await? {
            // All of its pieces were wanted.
            if let Some(block) = came.pieces.into_block() {
                return Ok(Some(FetchedBlock {
                    index: came.index,
                    part: came.part,
                    block,
                    region: came.region,
                    path: came.path,
                }));
            }
        }
        Ok(None)
    }

    /// As [`Self::next`], of what is wanted of each block.
    pub(super) async fn next_pieces(&mut self) -> Result<Option<Came>, CallError> {
        if let Some(block) = self.next_local().await {
            return Ok(Some(block));
        }
        while self.summary.is_none() {
            let (silent, deadline) = (self.attempts.silent(), self.deadline);
            let frame = tokio::select! {
                biased;
                frame = timeout_at(deadline, self.frame()) => frame,
                silent = silent => Ok(Err(self.attempts.explain(silent))),
            };
            let Ok(frame) = frame else {
                self.end_early(self.attempts.out_of_time())?;
                break;
            };
            match frame {
                Ok(Step::Nothing) => {}
                Ok(Step::Block(block)) => return Ok(Some(block)),
                Ok(Step::Lost) => self.lose(),
                Ok(Step::Short(short)) => {
                    let (call, source) = ("get", WireError::from(short));
                    return Err(CallError::Request { call, source });
                }
                Ok(Step::Summary(summary)) => self.on_summary(summary).await,
                Err(error) => {
                    self.source = None;
                    if let Err(error) = self.attempts.retry(error).await {
                        self.end_early(error)?;
                    }
                }
            }
        }
        Ok(None)
    }

    /// Blocks that are wanted, counted over all parts.
    pub(super) fn wanted(&self) -> u32 {
        self.request.count * self.gathering.parts().len() as u32
    }

    /// Place of a block that came among those wanted: chain order, parts ascending within.
    pub(super) fn place(&self, index: u32, part: Part) -> usize {
        let parts = self.gathering.parts();
        let at = parts.binary_search(&part).unwrap_or(0);
        (index - self.request.start) as usize * parts.len() + at
    }

    /// The next block that a node on this host has, from the wanted start on. Safe to cancel.
    async fn next_local(&mut self) -> Option<Came> {
        if self.local.is_none() {
            let ready = self.read_here().await;
            self.local = Some(ready.into());
        }
        let next = self.local.as_mut()?.pop_front();
        if next.is_none() && self.mapped && self.gathering.is_complete() {
            let whole = self.own_summary(GetOutcome::Complete);
            self.summary.get_or_insert(whole);
        }
        next
    }

    /// What nodes on this host have of the wanted run, without a hole.
    async fn read_here(&mut self) -> Vec<Came> {
        let Some((local, region)) = self
            .shared
            .local
            .get()
            .and_then(|local| Some((local, local.region()?.clone())))
        else {
            return Vec::new();
        };
        let (start, count) = self.gathering.rest();
        let parts = self.gathering.parts().to_vec();
        let keys = |indexes: std::ops::Range<u32>| -> Option<Vec<BlockKey>> {
            let key = |index: u32, part: Part| {
                let hash = BlockHash::from_engine(&self.request.chain.hash(index)).ok()?;
                Some(BlockKey { hash, part })
            };
            let indexes = indexes.flat_map(|index| parts.iter().map(move |part| (index, *part)));
            indexes.map(|(index, part)| key(index, part)).collect()
        };
        let (Some(wanted), Some(touch)) = (keys(start..start + count), keys(0..start)) else {
            return Vec::new();
        };
        let at_least = self.shared.at_least();
        let asked = Wanted {
            namespace: self.request.namespace,
            node: None,
            keys: &wanted,
            touch: &touch,
            ranges: &self.request.ranges,
            at_least: &at_least,
            verify: true,
            until: self.deadline,
        };
        let blocks = local.get(&asked).await;
        let run = (blocks.len() / parts.len()) as u32;
        if run < self.request.blocks_min.min(count) {
            return Vec::new();
        }
        let place = |at: usize| (start + (at / parts.len()) as u32, parts[at % parts.len()]);
        let taken = blocks.into_iter().enumerate().filter_map(|(at, block)| {
            let (index, part) = place(at);
            let from = (&region, Path::Mapped);
            self.gathering.take(index, part, from, block)
        });
        let taken: Vec<Came> = taken.collect();
        self.mapped = !taken.is_empty();
        taken
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
        if self.source.is_none() {
            let opened = self.open().await?;
            self.gathering.restart(match opened {
                Source::Gateway(_) => Path::Gateway,
                Source::Nodes(_) => Path::Node,
            });
            self.source = Some(opened);
        }
        let frame = match &mut self.source {
            Some(Source::Nodes(nodes)) => match nodes.next().await {
                Some(frame) => frame,
                None => return Ok(self.after_nodes()),
            },
            Some(Source::Gateway(frames)) => {
                let next = frames.next().await;
                next.map_err(|error| self.attempts.explain(error))?
                    .ok_or_else(|| self.attempts.protocol("it ended without a summary"))?
            }
            None => return Ok(Step::Nothing),
        };
        let step = self.gathering.on_frame(frame);
        if let (Err(_) | Ok(Step::Lost), Some(Source::Nodes(_))) = (&step, &self.source) {
            self.source = None;
            return Ok(step.unwrap_or(Step::Lost));
        }
        step.map_err(|what| self.attempts.protocol(what))
    }

    /// The nodes have sent what they could: a gateway is asked for the rest, if there is any.
    fn after_nodes(&mut self) -> Step {
        self.source = None;
        match self.gathering.is_complete() {
            true => Step::Summary(self.own_summary(GetOutcome::Complete)),
            false => Step::Nothing,
        }
    }

    async fn open(&mut self) -> Result<Source, CallError> {
        let attempt = self.attempts.begin()?;
        let left = attempt.left;
        let (start, count) = self.gathering.rest();
        let mut request = GetRequest {
            start,
            count,
            at_least: self.shared.at_least(),
            // Of a run that has begun, every further block is worth sending.
            blocks_min: match self.gathering.is_empty() {
                true => self.request.blocks_min,
                false => 0,
            },
            left: left.saturating_sub((left / 10).min(RETURN_MAX)),
            ..self.request.clone()
        };
        if self.from_nodes {
            let gateway = (self.attempts.at(), attempt.rpc.clone());
            let nodes = FromNodes::open(
                &self.shared,
                &request,
                self.replicas,
                gateway,
                self.deadline,
            );
            let nodes = nodes.await;
            self.from_nodes = false;
            if let Some(nodes) = nodes {
                return Ok(Source::Nodes(nodes));
            }
            let left = self.deadline.saturating_duration_since(Instant::now());
            request.left = left.saturating_sub((left / 10).min(RETURN_MAX));
        }
        let opened = attempt.rpc.get(&request).await;
        let opened = opened.map_err(|error| self.attempts.explain(error))?;
        Ok(Source::Gateway(opened))
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
        let source = self.source.take();
        // Without a position it is of the nodes' own.
        if let Some(position) = &summary.position {
            let at = self.attempts.answered();
            self.shared.gateways.resides(at, &position.region);
        }
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
            matched_tokens: summary.matched_tokens,
            saved_ms: summary.saved_ms,
            position: summary.position,
            fill_position: summary.fill_position,
            fill_failures: summary.fill_failures,
            local_only: summary.local_only,
            left_out: summary.left_out,
            ..self.own_summary(outcome)
        });
        if let Some(Source::Gateway(frames)) = source {
            frames.end().await;
        }
    }

    /// Time ran out, or the last gateway failed: what came before stays.
    fn end_early(&mut self, error: CallError) -> Result<(), CallError> {
        // What cannot be asked for is the caller's to know, whatever came before.
        if self.gathering.is_empty() || error.code() == Some(Code::InvalidArgument) {
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
            matched_tokens: 0,
            saved_ms: None,
            position: None,
            fill_position: None,
            fill_failures: 0,
            local_only: false,
            left_out: Vec::new(),
            lost: self.lost,
        }
    }
}
