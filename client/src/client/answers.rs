//! What gateways answer, in words.

use std::{sync::Arc, time::Duration};

use kvmesh_directory::{FeedPosition, Namespace, NodeId, Part, RegionId, RingEpoch};

use super::Chain;

/// A chain that a lookup asks about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChainQuery {
    /// From the root on.
    pub chain: Chain,
    /// First block that is asked about.
    pub start: u32,
    /// A block counts only when all of these parts of it do; none named: (0, 0).
    pub parts: Vec<Part>,
}

impl From<Chain> for ChainQuery {
    fn from(chain: Chain) -> Self {
        Self {
            chain,
            start: 0,
            parts: Vec::new(),
        }
    }
}

/// A namespace as a gateway opened it.
#[derive(Debug, Clone, PartialEq)]
pub struct OpenAnswer {
    /// As it stands now.
    pub namespace: Namespace,
    /// Of the gateway's region; 0: its nodes do not serve this client, which is of another region.
    pub ring_epoch: RingEpoch,
    /// The gateway's region.
    pub region: RegionId,
    /// A view at this position knows the namespace.
    pub position: Option<FeedPosition>,
    /// Version of the wire protocol that the gateway speaks.
    pub protocol_version: u32,
}

/// How much of each chain is present.
#[derive(Debug, Clone, PartialEq)]
pub struct LookupAnswer {
    /// One per chain, in order; empty when `view_behind`.
    pub matches: Vec<ChainMatch>,
    /// The local view that answered.
    pub position: Option<FeedPosition>,
    /// Time since that view last heard from its feed.
    pub age: Duration,
    /// The mesh view that answered, one entry per other region.
    pub regions: Vec<RemoteView>,
    /// What the client wrote was not visible in time: nothing is answered.
    pub view_behind: bool,
    /// No other region is spoken of, though there are some.
    pub local_only: bool,
    /// Regions that are not spoken of.
    pub left_out: Vec<LeftOut>,
}

/// Another region that is not asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeftOut {
    /// Which region.
    pub region: RegionId,
    /// Why.
    pub reason: LeftOutReason,
}

/// Why another region is not asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeftOutReason {
    /// It does not answer, or only came back.
    State,
    /// What is known of it is older than the gateway's `view_age_max`.
    ViewOld,
    /// The gateway could not reach it a moment ago.
    Unreached,
    /// Too many requests turn to other regions already (`failover_share_max`).
    FailoverShare,
}

/// How much of one chain is present.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ChainMatch {
    /// Blocks from the start on that the region holds without a hole, in all parts.
    pub local_blocks: u32,
    /// Their bytes.
    pub local_bytes: u64,
    /// Blocks that follow them and are being put or fetched right now.
    pub pending_blocks: u32,
    /// Blocks from the start on that the region and the others hold together without a hole.
    pub mesh_blocks: u32,
    /// What other regions hold without a hole from the start on.
    pub remote: Vec<RemoteRun>,
    /// Of the local blocks, those from the start on that are leased without a hole.
    pub leased_blocks: u32,
}

/// What another region holds of a chain.
#[derive(Debug, Clone, PartialEq)]
pub struct RemoteRun {
    /// Which region.
    pub region: RegionId,
    /// Blocks from the start on, in all parts.
    pub blocks: u32,
    /// Bytes that a get would bring from there.
    pub fetch_bytes: u64,
    /// What that is expected to take, milliseconds.
    pub estimated_fetch_ms: f64,
    /// Last round trip seen, milliseconds.
    pub rtt_ms: f64,
    /// What recomputing is expected to take, milliseconds; none: the prefill rate is unknown.
    pub estimated_recompute_ms: Option<f64>,
    /// None: the prefill rate is unknown.
    pub advice: Option<Advice>,
    /// 19 times of 20 the fetch takes less, milliseconds.
    pub estimated_fetch_p95_ms: f64,
    /// Where doing both is faster than either: compute the blocks before this one, counted from
    /// the start, and fetch those from it on.
    pub split_at: Option<u32>,
    /// What that is expected to take, milliseconds.
    pub estimated_split_ms: Option<f64>,
    /// What fetching costs, where the link's price is known.
    pub fetch_dollars: Option<f64>,
    /// What recomputing costs, where the GPUs' price is known.
    pub recompute_dollars: Option<f64>,
}

/// What the mesh would do about a remote run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Advice {
    /// Fetch it.
    Fetch,
    /// Recompute it.
    Recompute,
    /// Recompute the head, fetch the tail: see [`RemoteRun::split_at`].
    Split,
}

/// The mesh view of one other region.
#[derive(Debug, Clone, PartialEq)]
pub struct RemoteView {
    /// Which region.
    pub region: RegionId,
    /// None: nothing was heard of it yet.
    pub position: Option<FeedPosition>,
    /// Time since it was last heard.
    pub age: Duration,
    /// It answered lately.
    pub reachable: bool,
    /// Last round trip seen, milliseconds.
    pub rtt_ms: f64,
}

/// What became of a delete.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deleted {
    /// A view at this position does not show the blocks.
    pub position: FeedPosition,
    /// Names that were present.
    pub names: u32,
}

/// Which nodes own each block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Located {
    /// By which the owners were chosen.
    pub ring_epoch: RingEpoch,
    /// Nodes that are named below; none: they do not serve this client, which is of another region.
    pub nodes: Arc<[NodeEndpoint]>,
    /// One per block and part, in chain order, parts innermost.
    pub blocks: Vec<BlockOwners>,
}

/// Where a node is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeEndpoint {
    /// Its number.
    pub node: NodeId,
    /// `host:port`.
    pub address: String,
    /// Failure domain.
    pub zone: String,
}

/// Owners and holders of one block, as indexes into [`Located::nodes`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockOwners {
    /// The preference list, the primary first.
    pub owners: Vec<usize>,
    /// Who holds it now.
    pub holders: Vec<usize>,
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
    /// Tokens of the wanted run that some region had; 0 where no gateway was asked.
    pub matched_tokens: u64,
    /// What recomputing the blocks that came from afar would have taken, less what they took.
    pub saved_ms: Option<f64>,
    /// The local view that answered.
    pub position: Option<FeedPosition>,
    /// Covers every block that the get's fetches kept in the region.
    pub fill_position: Option<FeedPosition>,
    /// Fetched blocks that could not be kept.
    pub fill_failures: u32,
    /// No other region was asked, though there are some.
    pub local_only: bool,
    /// Regions that were not asked.
    pub left_out: Vec<LeftOut>,
    /// Blocks that were aborted or had wrong bytes; counted again each time that they came so.
    pub lost: u32,
}
