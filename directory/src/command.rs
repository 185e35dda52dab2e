//! What a region's log says, and what comes of it.

use crate::{
    namespace::Namespace,
    topology::Member,
    words::{
        BlockKey, BlockName, Checksum, Copy, FeedPosition, Hlc, Incarnation, LogIncarnation,
        NamespaceId, NodeId, RegionId, RingEpoch,
    },
};

/// One entry of a region's log.
#[allow(
    clippy::large_enum_variant,
    reason = "most entries carry vectors of many changes; few commands are held at once"
)]
#[derive(Debug, Clone, PartialEq)]
pub enum Command {
    /// Makes the region; refused when there is one.
    InitRegion {
        /// Its name.
        region: RegionId,
        /// Random number of the log.
        log_incarnation: LogIncarnation,
        /// Members, in any order.
        members: Vec<Member>,
        /// Format of commands that all members understand.
        feature_level: u32,
    },
    /// A node has started: its older claims are void.
    BeginIncarnation {
        /// Which node.
        node: NodeId,
        /// Random at each start; makes a repeated proposal harmless.
        nonce: u64,
        /// Random number of the node's Raft store: a voter that lost it must not come back
        /// under its number. 0: not known.
        store: u64,
        /// The highest feature level that its program knows. 0: it does not say.
        level: u32,
    },
    /// The leader gives a node up: its claims are lost.
    MarkDead {
        /// Which node.
        node: NodeId,
        /// Which start of it; ignored when it is not the current one.
        incarnation: Incarnation,
    },
    /// A node becomes a member and takes its part of the ring. The very same member again
    /// changes nothing. It is to vote when it asks to, or while too few do.
    JoinNode {
        /// How it is reached, and whether it asks to vote.
        member: Member,
    },
    /// A member goes.
    LeaveNode {
        /// Which one.
        node: NodeId,
        /// At once: its copies are lost. If not, it leaves the ring, and is a member until
        /// its blocks have moved.
        forget: bool,
    },
    /// No block is left where only the ring of before had it: members that were leaving are
    /// gone. Ignored unless that is so.
    FinishMove {
        /// The ring to which blocks moved; ignored when it is not the current one.
        epoch: RingEpoch,
    },
    /// Claims and evictions, at most [`crate::limits::ENTRY_CHANGES_MAX`].
    Blocks(Vec<BlockChange>),
    /// Makes a namespace known; by an id that is known, at most its policy changes
    /// (last writer by clock, ties by region).
    OpenNamespace(Namespace),
    /// Leaves tombstones, also for names that are not present.
    Delete(Deletion),
    /// Makes every older block of a namespace invisible.
    RaiseGeneration {
        /// Which namespace.
        namespace: NamespaceId,
        /// Up to when.
        hlc: Hlc,
    },
    /// All members know more than they did when the region was made: commands of this feature
    /// level are proposed from now on. Never goes back.
    RaiseFeatureLevel {
        /// The new one; the present one or a lower one changes nothing.
        level: u32,
    },
    /// Forgets tombstones of this clock and older, and raises the floor.
    DropTombstones {
        /// Up to when.
        up_to: Hlc,
    },
    /// Takes over what another region did, with where this region stands there.
    RemoteEffects {
        /// Covers all of the effects.
        position: FeedPosition,
        /// Opened or changed there.
        namespaces: Vec<Namespace>,
        /// Deleted there.
        deletes: Vec<Deletion>,
        /// Raised there.
        raises: Vec<(NamespaceId, Hlc)>,
    },
}

impl Command {
    /// The feature level from which on all members understand it.
    #[must_use]
    pub fn feature_level(&self) -> u32 {
        match self {
            Self::OpenNamespace(namespace) => namespace.policy.feature_level(),
            Self::InitRegion { .. }
            | Self::BeginIncarnation { .. }
            | Self::MarkDead { .. }
            | Self::JoinNode { .. }
            | Self::LeaveNode { .. }
            | Self::FinishMove { .. }
            | Self::RaiseFeatureLevel { .. }
            | Self::Blocks(_)
            | Self::Delete(_)
            | Self::RaiseGeneration { .. }
            | Self::DropTombstones { .. }
            | Self::RemoteEffects { .. } => 1,
        }
    }
}

/// Names deleted at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deletion {
    /// Their namespace.
    pub namespace: NamespaceId,
    /// At most [`crate::limits::DELETE_NAMES_MAX`].
    pub keys: Vec<BlockKey>,
    /// Blocks put at or before it are deleted.
    pub hlc: Hlc,
}

/// What happened to one block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockChange {
    /// Which block.
    pub name: BlockName,
    /// What happened.
    pub kind: ChangeKind,
}

/// What happened to a block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChangeKind {
    /// Nodes hold it.
    Claim(Claim),
    /// A holder let a copy go on purpose: it is not repaired.
    Evict(Copy),
    /// A holder does not have a copy that it is said to have: it is lost, and repaired.
    Retract(Copy),
    /// A holder lets a copy go that others make up for, because the ring changed. It may not
    /// while that would leave fewer copies than wanted on nodes that stay.
    Release(Copy),
}

/// Copies of one content of one block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// Stamped at the first put.
    pub put_hlc: Hlc,
    /// Over the pieces.
    pub checksum: Checksum,
    /// Size, at most [`crate::limits::BLOCK_BYTES_MAX`].
    pub bytes: u32,
    /// Position in the chain.
    pub depth: u32,
    /// Copies that the namespace wants.
    pub replicas: u32,
    /// The copies; those of a past incarnation are ignored.
    pub copies: Vec<Copy>,
}

/// What became of one change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChangeOutcome {
    /// It took effect, or had already.
    Accepted,
    /// Another content of this name was first; the copies are to be dropped.
    Conflict,
    /// Older than a tombstone or the generation; the copies are to be dropped.
    Deleted,
    /// No copy that it names is current, or it may not be released yet.
    Stale,
    /// Its namespace is not known here.
    UnknownNamespace,
}

/// What became of a command.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Outcome {
    /// One per change of [`Command::Blocks`], in order.
    pub changes: Vec<ChangeOutcome>,
    /// Of [`Command::BeginIncarnation`].
    pub incarnation: Option<Incarnation>,
    /// Of [`Command::OpenNamespace`]: as it stands now.
    pub namespace: Option<Namespace>,
    /// Of [`Command::Delete`]: names that were present.
    pub deleted: u32,
    /// The whole command was refused.
    pub refused: Option<Refusal>,
}

/// Why a whole command was refused; the state is as before.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// A second initialisation.
    #[error("region {0} is initialised already")]
    Initialised(RegionId),
    /// Anything before the first initialisation.
    #[error("the region is not initialised: run `meshctl region init`")]
    NotInitialised,
    /// A node that the topology does not list.
    #[error("node {0} is not a member of the region")]
    NotMember(NodeId),
    /// The alias belongs to another description.
    #[error("name {name:?} belongs to a namespace whose description differs in {}", fields.join(", "))]
    NameTaken {
        /// The alias.
        name: String,
        /// Fields that differ.
        fields: Vec<String>,
    },
    /// A bound was reached.
    #[error("the region has {limit} {what} already")]
    Full {
        /// Of what.
        what: String,
        /// How many at most.
        limit: usize,
    },
    /// The namespace is not known here.
    #[error("namespace {0} is not known here: open it first")]
    UnknownNamespace(NamespaceId),
    /// Effects of a position that is covered already.
    #[error("the position is covered already")]
    Covered,
    /// The namespace cannot be opened as it is.
    #[error("the namespace cannot be opened: {0}")]
    Namespace(String),
    /// The members cannot form a region.
    #[error("the members cannot form a region: {0}")]
    Members(String),
    /// The node cannot become a member as it is.
    #[error("the node cannot join: {0}")]
    Join(String),
    /// The ring may not change yet.
    #[error(
        "blocks still move to ring epoch {0}: wait until `meshctl node list` shows that they have"
    )]
    Moving(RingEpoch),
    /// The node's copies are gone already, so they cannot move.
    #[error(
        "node {0} is dead or has never begun, and has no copies to move: use `meshctl node leave {0} --forget`"
    )]
    Gone(NodeId),
    /// Nobody would be left to hold blocks.
    #[error("node {0} is the last one that holds blocks: let another one join first")]
    LastMember(NodeId),
    /// A voter came back without what it had promised.
    #[error(
        "the Raft store of node {node} is not the one it had: run `meshctl node leave {node} --forget` and join with a new number"
    )]
    StoreLost {
        /// Which node.
        node: NodeId,
    },
    /// A node's program does not know what the log may say.
    #[error(
        "the program of node {node} knows feature level {knows}, not {level}: install a newer one and start it again"
    )]
    LevelUnknown {
        /// Which node.
        node: NodeId,
        /// What it knows; 0: it has not said.
        knows: u32,
        /// The region's, or the one that it is to have.
        level: u32,
    },
}

/// What others may want to know about an applied command, in order.
#[allow(
    clippy::large_enum_variant,
    reason = "namespaces change seldom, and few events are held at once"
)]
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// The ring changed.
    EpochChanged(RingEpoch),
    /// A node's claims of before are void.
    IncarnationBegan {
        /// Which node.
        node: NodeId,
        /// Its new incarnation.
        incarnation: Incarnation,
    },
    /// A node was given up.
    NodeDied(NodeId),
    /// A node is a member no more.
    NodeRemoved(NodeId),
    /// Blocks are where the ring of this epoch has them.
    MoveFinished(RingEpoch),
    /// The block has its first copy here.
    Appeared {
        /// Which block.
        name: BlockName,
        /// Its size.
        bytes: u32,
    },
    /// The block's last copy here went.
    Vanished {
        /// Which block.
        name: BlockName,
    },
    /// A copy was committed.
    Claimed {
        /// Which block.
        name: BlockName,
        /// Which copy.
        copy: Copy,
        /// The block's clock here: of the first put of this content.
        put_hlc: Hlc,
    },
    /// A copy is not, or no longer, committed: its holder drops it. Not sent for evictions and
    /// retractions: the holder has dropped it already.
    Dropped {
        /// Which block.
        name: BlockName,
        /// Which copy.
        copy: Copy,
    },
    /// A namespace was opened or its policy changed.
    Namespace(Namespace),
    /// Names were deleted.
    Deleted(Deletion),
    /// A namespace's generation was raised.
    Raised {
        /// Which namespace.
        namespace: NamespaceId,
        /// Its generation now.
        generation: Hlc,
    },
}
