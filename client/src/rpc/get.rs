//! The frames of a get.

use std::time::Duration;

use bytes::Bytes;
use kvmesh_directory::{FeedPosition, NamespaceId, Part, RegionId};
use kvmesh_proto::v1 as wire;
use tonic::Streaming;

use super::RpcError;
use crate::{
    block::BlockMeta,
    bulk,
    client::{Chain, GetOutcome, GetSummary, SourceCount},
    convert::{FromWire, ToWire, WireError, all, each, optional, ranges_of, region, required},
    ranges::Ranges,
};

/// One attempt of a get.
#[derive(Debug, Clone)]
pub(crate) struct GetRequest {
    pub(crate) namespace: NamespaceId,
    pub(crate) chain: Chain,
    pub(crate) start: u32,
    pub(crate) count: u32,
    pub(crate) parts: Vec<Part>,
    pub(crate) at_least: Vec<FeedPosition>,
    pub(crate) blocks_min: u32,
    pub(crate) any_order: bool,
    pub(crate) await_fill: bool,
    /// The gateway is to override its own deadline.
    pub(crate) overrides: bool,
    /// Of a call to a node: only these places of its chain.
    pub(crate) select: Vec<u32>,
    /// Of a call to a node: places that are only touched.
    pub(crate) touch: Vec<u32>,
    /// Of each block only the pieces that they touch.
    pub(crate) ranges: Ranges,
    /// Time that is left.
    pub(crate) left: Duration,
}

impl GetRequest {
    pub(super) fn to_wire(&self) -> wire::GetRequest {
        wire::GetRequest {
            namespace_id: self.namespace.to_wire(),
            chain: Some(self.chain.to_wire()),
            start: self.start,
            count: self.count,
            parts: each(&self.parts),
            at_least: each(&self.at_least),
            blocks_min: self.blocks_min,
            any_order: self.any_order,
            await_fill: self.await_fill,
            deadline_ms: if self.overrides { millis(self.left) } else { 0 },
            select: self.select.clone(),
            touch: self.touch.clone(),
            ranges: ranges_of(&self.ranges),
            // Who reads blocks here sees `BlockMeta::transcoded`.
            lossy: true,
            ..Default::default()
        }
    }
}

/// At least 1: 0 would mean the server's default.
pub(super) fn millis(left: Duration) -> u32 {
    u32::try_from(left.as_millis()).unwrap_or(u32::MAX).max(1)
}

/// One frame: any of a block's header, piece and end, or the summary.
#[derive(Debug, Default)]
pub(crate) struct GetFrame {
    pub(crate) header: Option<Header>,
    pub(crate) piece: Option<Bytes>,
    /// The block ended; whether it is whole.
    pub(crate) end: Option<bool>,
    pub(crate) summary: Option<GetSummary>,
}

/// What comes before a block's pieces.
#[derive(Debug)]
pub(crate) struct Header {
    pub(crate) index: u32,
    pub(crate) part: Part,
    /// None: the block is aborted at once.
    pub(crate) meta: Option<BlockMeta>,
    pub(crate) region: Option<RegionId>,
    /// Which pieces come; none named: all.
    pub(crate) pieces: Vec<u32>,
}

/// The frames as they come.
pub(crate) struct GetFrames {
    stream: Streaming<wire::GetResponse>,
}

impl GetFrames {
    pub(super) fn new(stream: Streaming<wire::GetResponse>) -> Self {
        Self { stream }
    }

    /// The next frame; none: the stream ended. Safe to cancel.
    pub(crate) async fn next(&mut self) -> Result<Option<GetFrame>, RpcError> {
        match self.stream.message().await? {
            Some(raw) => Ok(Some(GetFrame::from_wire(raw)?)),
            None => Ok(None),
        }
    }

    /// Everything came; see [`bulk::end`].
    pub(crate) async fn end(self) {
        bulk::end(self.stream).await;
    }
}

impl FromWire for GetFrame {
    type Wire = wire::GetResponse;
    fn from_wire(wire: wire::GetResponse) -> Result<Self, WireError> {
        let end = match wire::BlockEnd::try_from(wire.end) {
            Ok(wire::BlockEnd::Unspecified) => None,
            Ok(wire::BlockEnd::Complete) => Some(true),
            Ok(wire::BlockEnd::Aborted) => Some(false),
            Err(why) => return Err(WireError::field("end", why)),
        };
        if wire.encoding != 0 {
            return Err(WireError::field("encoding", "nobody asked for one"));
        }
        Ok(Self {
            header: optional(wire.header)?,
            piece: Some(wire.piece).filter(|piece| !piece.is_empty()),
            end,
            summary: optional(wire.summary)?,
        })
    }
}

impl FromWire for Header {
    type Wire = wire::BlockHeader;
    fn from_wire(wire: wire::BlockHeader) -> Result<Self, WireError> {
        let from = Some(wire.region).filter(|name| !name.is_empty());
        Ok(Self {
            index: wire.index,
            part: required("part", wire.part)?,
            meta: optional(wire.meta)?,
            region: from
                .map(|name| region("header.region", &name))
                .transpose()?,
            pieces: wire.pieces,
        })
    }
}

impl FromWire for GetSummary {
    type Wire = wire::GetSummary;
    fn from_wire(wire: wire::GetSummary) -> Result<Self, WireError> {
        let outcome = match wire::GetOutcome::try_from(wire.outcome) {
            Ok(wire::GetOutcome::Complete) => GetOutcome::Complete,
            Ok(wire::GetOutcome::Miss) => GetOutcome::Miss,
            Ok(wire::GetOutcome::OutOfTime) => GetOutcome::OutOfTime,
            Ok(wire::GetOutcome::ViewBehind) => GetOutcome::ViewBehind,
            Ok(wire::GetOutcome::TooShort) => GetOutcome::TooShort,
            Ok(wire::GetOutcome::SourceFailed) => GetOutcome::SourceFailed,
            Ok(wire::GetOutcome::Recompute) => GetOutcome::Recompute,
            Ok(wire::GetOutcome::Unspecified) => return Err(WireError::Missing("outcome")),
            Err(why) => return Err(WireError::field("outcome", why)),
        };
        let source = |raw: wire::SourceCount| {
            Ok(SourceCount {
                region: region("sources.region", &raw.region)?,
                blocks: raw.blocks,
                bytes: raw.bytes,
            })
        };
        Ok(Self {
            outcome,
            sources: wire
                .sources
                .into_iter()
                .map(source)
                .collect::<Result<_, WireError>>()?,
            blocks: wire.blocks,
            tokens: wire.tokens,
            estimated_fetch_ms: wire.estimated_fetch_ms,
            estimated_recompute_ms: wire.estimated_recompute_ms,
            fetch_ms: wire.fetch_ms,
            matched_tokens: wire.matched_tokens,
            saved_ms: wire.saved_ms,
            position: optional(wire.position)?,
            fill_position: optional(wire.fill_position)?,
            fill_failures: wire.fill_failures,
            local_only: wire.local_only,
            left_out: all(wire.left_out)?,
            lost: 0,
        })
    }
}
