//! `Cache.Get`: a chain's blocks as they come, every byte verified.

use bytes::Bytes;
use kvmesh_client::{
    BlockMeta, FromWire, ToWire,
    block::{Assembler, Block},
};
use kvmesh_directory::{FeedPosition, NamespaceId};
use kvmesh_proto::v1 as wire;
use serde::Serialize;
use tokio::time::{Instant, timeout_at};

use super::{CallError, Peer, cache::wire_chain, position_text};
use crate::chain::Chain;

const WHAT: &str = "the get";

/// What to get.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// Namespace.
    pub namespace: NamespaceId,
    /// The whole chain.
    pub chain: &'a Chain,
    /// First block wanted.
    pub start: u32,
    /// Blocks wanted; 0: to the end.
    pub count: u32,
    /// Positions that the answering view covers.
    pub at_least: &'a [FeedPosition],
    /// End only when fetched blocks are kept in the region.
    pub await_fill: bool,
}

/// A verified block.
#[derive(Debug)]
pub struct Arrived {
    /// Position in the chain.
    pub index: u32,
    /// Region that the bytes came from.
    pub region: String,
    /// Its bytes, in order.
    pub pieces: Vec<Bytes>,
}

impl Arrived {
    /// Whole size.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.pieces.iter().map(|piece| piece.len() as u64).sum()
    }
}

/// How a get ended.
#[derive(Debug, Clone, Serialize)]
pub struct Summary {
    /// `complete`, `miss`, `out_of_time`, `view_behind`, `too_short` or `source_failed`.
    pub outcome: &'static str,
    /// Blocks sent, by region.
    pub sources: Vec<Source>,
    /// Length of the run from the wanted start.
    pub blocks: u32,
    /// Its tokens.
    pub tokens: u64,
    /// What a fetch from afar was expected to take.
    pub estimated_fetch_ms: Option<f64>,
    /// What it took.
    pub fetch_ms: Option<f64>,
    /// Of the local view that answered.
    #[serde(serialize_with = "position_text")]
    pub position: Option<FeedPosition>,
    /// Covers every block that was fetched and kept.
    #[serde(serialize_with = "position_text")]
    pub fill_position: Option<FeedPosition>,
    /// Fetched blocks that could not be kept.
    pub fill_failures: u32,
}

/// Blocks from one region.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Source {
    /// Its name.
    pub region: String,
    /// How many.
    pub blocks: u32,
    /// Their bytes.
    pub bytes: u64,
}

/// A block on its way.
struct Open {
    index: u32,
    region: String,
    assembler: Assembler,
}

impl Peer {
    /// Gets blocks in chain order and hands each to `on_block` once it is whole and verified.
    ///
    /// # Errors
    /// When the gateway refuses, does not answer in time, or sends what is not as announced;
    /// and whatever `on_block` says.
    pub async fn get(
        &self,
        wanted: Wanted<'_>,
        mut on_block: impl FnMut(Arrived) -> anyhow::Result<()>,
    ) -> anyhow::Result<Summary> {
        let until = Instant::now() + self.timeout;
        let late = |_| CallError::OutOfTime {
            what: WHAT,
            address: self.address.to_string(),
            limit: self.timeout,
        };
        let request = self.request(wire::GetRequest {
            namespace_id: wanted.namespace.0.to_vec().into(),
            chain: Some(wire_chain(wanted.chain)),
            start: wanted.start,
            count: wanted.count,
            at_least: wanted.at_least.iter().map(ToWire::to_wire).collect(),
            await_fill: wanted.await_fill,
            deadline_ms: self.timeout_ms(),
            ..Default::default()
        });
        let answer = timeout_at(until, self.cache().get(request)).await;
        let answer = answer.map_err(late)?.map_err(self.failed(WHAT))?;
        let (mut frames, mut open) = (answer.into_inner(), None);
        let mut next = wanted.start;
        loop {
            let frame = timeout_at(until, frames.message()).await.map_err(late)?;
            let Some(frame) = frame.map_err(self.failed(WHAT))? else {
                return Err(self.broken(WHAT, "it ended without a summary").into());
            };
            if let Some(summary) = frame.summary {
                return Ok(self.summary(summary)?);
            }
            if let Some((index, region, block)) = self.frame(&mut open, frame)? {
                if index < next {
                    let how = format!("block {index} came after block {next} was due");
                    return Err(self.broken(WHAT, how).into());
                }
                next = index + 1;
                let pieces = block.pieces;
                on_block(Arrived {
                    index,
                    region,
                    pieces,
                })?;
            }
        }
    }

    /// Takes one frame; gives the block that it completes.
    fn frame(
        &self,
        open: &mut Option<Open>,
        frame: wire::GetResponse,
    ) -> Result<Option<(u32, String, Block)>, CallError> {
        let end = frame.end();
        if end == wire::BlockEnd::Aborted {
            *open = None;
            return Ok(None);
        }
        if let Some(header) = frame.header {
            let meta = header
                .meta
                .ok_or_else(|| self.broken(WHAT, "a block header without its meta"))?;
            let meta = BlockMeta::from_wire(meta).map_err(self.unread(WHAT))?;
            *open = Some(Open {
                index: header.index,
                region: header.region,
                assembler: Assembler::new(meta, true).map_err(self.corrupt(WHAT))?,
            });
        }
        if !frame.piece.is_empty() {
            let block = open
                .as_mut()
                .ok_or_else(|| self.broken(WHAT, "a piece outside of a block"))?;
            block
                .assembler
                .push(frame.piece)
                .map_err(self.corrupt(WHAT))?;
        }
        match end {
            wire::BlockEnd::Unspecified | wire::BlockEnd::Aborted => Ok(None),
            wire::BlockEnd::Complete => {
                let block = open
                    .take()
                    .ok_or_else(|| self.broken(WHAT, "an end outside of a block"))?;
                let whole = block.assembler.finish().map_err(self.corrupt(WHAT))?;
                Ok(Some((block.index, block.region, whole)))
            }
        }
    }

    fn summary(&self, raw: wire::GetSummary) -> Result<Summary, CallError> {
        let outcome = match raw.outcome() {
            wire::GetOutcome::Complete => "complete",
            wire::GetOutcome::Miss => "miss",
            wire::GetOutcome::OutOfTime => "out_of_time",
            wire::GetOutcome::ViewBehind => "view_behind",
            wire::GetOutcome::TooShort => "too_short",
            wire::GetOutcome::SourceFailed => "source_failed",
            wire::GetOutcome::Unspecified => {
                return Err(self.broken(WHAT, "a summary without an outcome"));
            }
        };
        let position = raw.position.map(FeedPosition::from_wire).transpose();
        let fill_position = raw.fill_position.map(FeedPosition::from_wire).transpose();
        let sources = raw.sources.into_iter().map(|source| Source {
            region: source.region,
            blocks: source.blocks,
            bytes: source.bytes,
        });
        Ok(Summary {
            outcome,
            sources: sources.collect(),
            blocks: raw.blocks,
            tokens: raw.tokens,
            estimated_fetch_ms: raw.estimated_fetch_ms,
            fetch_ms: raw.fetch_ms,
            position: position.map_err(self.unread(WHAT))?,
            fill_position: fill_position.map_err(self.unread(WHAT))?,
            fill_failures: raw.fill_failures,
        })
    }
}
