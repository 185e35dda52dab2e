//! What streams of blocks are made of, between the wire's edges.

use bytes::Bytes;
use kvmesh_client::{BlockMeta, Encoding, client::LeftOut};
use kvmesh_directory::{FeedPosition, Part, RegionId};

/// Announces a block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Header {
    /// In the chain of the call.
    pub(crate) index: u32,
    pub(crate) part: Part,
    pub(crate) meta: BlockMeta,
    /// Where the bytes came from.
    pub(crate) region: RegionId,
    /// Which pieces come; none named: all.
    pub(crate) pieces: Vec<u32>,
}

/// One message of a get: of one block, or the summary.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Frame {
    /// A block's header, one of its pieces, its end: any of them, in this order.
    Block {
        header: Option<Header>,
        piece: Option<Bytes>,
        /// Of the piece, where it comes from another region.
        encoding: Option<Encoding>,
        whole: bool,
    },
    /// The rest of the block under way does not come; with a place, that block does not come at all.
    Aborted(Option<(u32, Part)>),
    /// The last one.
    Summary(Summary),
}

/// How a get ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    Complete,
    Miss,
    OutOfTime,
    ViewBehind,
    TooShort,
    SourceFailed,
    /// Recomputing the rest is expected to be faster than fetching it.
    Recompute,
}

impl Outcome {
    /// As metrics call it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::Miss => "miss",
            Self::OutOfTime => "out_of_time",
            Self::ViewBehind => "view_behind",
            Self::TooShort => "too_short",
            Self::SourceFailed => "source_failed",
            Self::Recompute => "recompute",
        }
    }
}

/// What came from one region.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct SourceCount {
    pub(crate) region: RegionId,
    /// Over all parts, as its bytes.
    pub(crate) blocks: u32,
    pub(crate) bytes: u64,
    pub(crate) tokens: u64,
}

/// What a get did.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Summary {
    pub(crate) outcome: Outcome,
    pub(crate) sources: Vec<SourceCount>,
    /// Chain positions.
    pub(crate) blocks: u32,
    pub(crate) tokens: u64,
    /// Of the wanted run that some region had.
    pub(crate) matched_tokens: u64,
    pub(crate) estimated_fetch_ms: Option<f64>,
    pub(crate) estimated_fetch_p95_ms: Option<f64>,
    pub(crate) estimated_recompute_ms: Option<f64>,
    pub(crate) fetch_ms: Option<f64>,
    /// Of recomputing what came from afar.
    pub(crate) saved_ms: Option<f64>,
    pub(crate) position: Option<FeedPosition>,
    pub(crate) fill_position: Option<FeedPosition>,
    pub(crate) fill_failures: u32,
    /// There are other regions, and none was asked.
    pub(crate) local_only: bool,
    pub(crate) left_out: Vec<LeftOut>,
}

impl Summary {
    /// Of a get that sent nothing.
    pub(crate) fn nothing(outcome: Outcome, position: Option<FeedPosition>) -> Self {
        Self {
            outcome,
            sources: Vec::new(),
            blocks: 0,
            tokens: 0,
            matched_tokens: 0,
            estimated_fetch_ms: None,
            estimated_fetch_p95_ms: None,
            estimated_recompute_ms: None,
            fetch_ms: None,
            saved_ms: None,
            position,
            fill_position: None,
            fill_failures: 0,
            local_only: false,
            left_out: Vec::new(),
        }
    }
}
