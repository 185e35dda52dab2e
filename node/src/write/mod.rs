//! The whole write policy of a node: what is done with a block that is offered to it as
//! the block's primary owner.
//!
//! `decide`: have it already, join a put in flight, or send it. `commit`: keep it, copy it
//! to the other owners, claim all copies at once. Invariant: what is refused is not stored.
//!
//! Not here: how blocks arrive (`rpc`), nor how copies travel (`rpc::copy_client`).

mod claim;
mod commit;
mod confirm;
mod decide;
mod flights;
mod spread;

use std::time::Duration;

pub(crate) use kvmesh_client::RefusalReason as Reason;
use kvmesh_client::{BlockMeta, Problem, block::BlockError};
use kvmesh_directory::{
    FeedPosition, Hlc, Namespace, NamespaceId, RingEpoch, namespace::AckLevel, state::Entry,
};
use tokio::time::Instant;

use crate::{
    consensus::ProposeError,
    receive::ReceiveError,
    store::{arena::NotCopied, disk::NotDurable},
};

pub(crate) use claim::{Claimed, claim, claim_of, claim_of_brief};
pub(crate) use commit::commit;
pub(crate) use decide::{Decision, decide};
pub(crate) use flights::{Flight, Flights};
pub(crate) use spread::spread;

/// When to try again after too few owners answered.
const RETRY_AFTER: Duration = Duration::from_millis(500);

/// What a put call asks for.
#[derive(Debug, Clone)]
pub(crate) struct Terms {
    pub(crate) namespace: NamespaceId,
    /// Copies that the namespace wants.
    pub(crate) replicas: u32,
    /// The level to reach.
    pub(crate) ack: AckLevel,
    /// The ring epoch by which the caller chose this node.
    pub(crate) epoch: RingEpoch,
    /// How long one block may take.
    pub(crate) deadline: Duration,
    /// The block keeps its `put_hlc`.
    pub(crate) fill: bool,
    /// Nobody here wants the block yet: nothing goes for it that was used since it was put.
    pub(crate) aside: bool,
    /// The caller understands that it is to wait.
    pub(crate) waits: bool,
}

impl Terms {
    pub(crate) fn new(
        namespace: &Namespace,
        ack: Option<AckLevel>,
        epoch: RingEpoch,
        deadline: Duration,
        fill: bool,
    ) -> Self {
        Self {
            namespace: namespace.id,
            replicas: namespace.policy.replicas,
            ack: ack.unwrap_or(namespace.policy.ack),
            epoch,
            deadline,
            fill,
            aside: false,
            waits: false,
        }
    }

    /// Distinct nodes that must hold a block before it is acknowledged.
    pub(crate) fn needed(&self) -> usize {
        match self.ack {
            AckLevel::Memory => 1,
            AckLevel::Replicated | AckLevel::Durable => self.replicas as usize,
        }
    }

    /// Whether the block must be on disk on all of them.
    pub(crate) fn durable(&self) -> bool {
        self.ack == AckLevel::Durable
    }

    /// What the committed entry says about a put that reached the level asked for.
    pub(crate) fn acked(&self, entry: &Entry, position: FeedPosition, existed: bool) -> Acked {
        let copies = entry.holders.len();
        let level = match copies >= self.replicas as usize {
            _ if self.durable() => AckLevel::Durable,
            true => AckLevel::Replicated,
            false => AckLevel::Memory,
        };
        Acked {
            level,
            position,
            copies: u32::try_from(copies).unwrap_or(u32::MAX),
            existed,
            put_hlc: entry.put_hlc,
        }
    }
}

/// A block that is held at the level asked for.
#[derive(Debug, Clone)]
pub(crate) struct Acked {
    pub(crate) level: AckLevel,
    pub(crate) position: FeedPosition,
    pub(crate) copies: u32,
    pub(crate) existed: bool,
    pub(crate) put_hlc: Hlc,
}

/// How a put failed.
#[derive(Debug, Clone)]
pub(crate) enum Failure {
    /// Nothing of the block was stored.
    Refused {
        reason: Reason,
        message: String,
        /// Zero: never as it is.
        retry_after: Duration,
    },
    /// Nobody knows whether it was committed; it is safe to repeat.
    Unknown(Problem),
}

impl Failure {
    /// The block cannot be put as it is.
    pub(crate) fn never(reason: Reason, message: impl ToString) -> Self {
        let (message, retry_after) = (message.to_string(), Duration::ZERO);
        Self::Refused {
            reason,
            message,
            retry_after,
        }
    }

    /// The block can be put again after a while.
    pub(crate) fn later(reason: Reason, message: impl ToString) -> Self {
        let (message, retry_after) = (message.to_string(), RETRY_AFTER);
        Self::Refused {
            reason,
            message,
            retry_after,
        }
    }

    /// The block's bytes or announcement are wrong.
    pub(crate) fn of_block(error: &BlockError) -> Self {
        let reason = match error {
            BlockError::TooLarge { .. } => Reason::TooLarge,
            BlockError::Piece { .. } | BlockError::Root { .. } => Reason::Checksum,
            BlockError::Truncated { .. } => Reason::Truncated,
            BlockError::Empty | BlockError::PieceCount { .. } | BlockError::PieceSize { .. } => {
                Reason::Invalid
            }
        };
        match reason {
            Reason::Truncated => Self::later(reason, error),
            _ => Self::never(reason, error),
        }
    }

    /// A piece of the block was not taken.
    pub(crate) fn of_piece(error: &ReceiveError) -> Self {
        match error {
            ReceiveError::Block(error) => Self::of_block(error),
            ReceiveError::NoRoom(_) | ReceiveError::Staged(NotCopied::NoRoom(_)) => {
                Self::later(Reason::NoSpace, error)
            }
            ReceiveError::Staged(NotCopied::Outside { .. }) => Self::never(Reason::Invalid, error),
            ReceiveError::Staged(NotCopied::Io(_)) => Self::later(Reason::Unavailable, error),
        }
    }

    /// A claim was not committed, or nobody knows.
    pub(crate) fn of_claim(error: ProposeError) -> Self {
        match error {
            ProposeError::Overloaded => Self::later(Reason::NoSpace, error),
            ProposeError::NotInitialised | ProposeError::NotLeader | ProposeError::NotReady(_) => {
                Self::later(Reason::Unavailable, error)
            }
            ProposeError::Refused(_)
            | ProposeError::TooLarge { .. }
            | ProposeError::FeatureLevel { .. }
            | ProposeError::Invalid(_) => Self::never(Reason::Invalid, error),
            ProposeError::NoLeader | ProposeError::OutOfTime | ProposeError::Stopped => {
                Self::Unknown(error.into())
            }
        }
    }

    /// A copy is not on this node's disk.
    pub(crate) fn of_disk(error: NotDurable) -> Self {
        match error {
            NotDurable::NoDisk => Self::never(Reason::Invalid, error),
            NotDurable::Refused => Self::later(Reason::NoSpace, error),
            NotDurable::OutOfTime => Self::later(Reason::OutOfTime, error),
            NotDurable::Failed => Self::later(Reason::Unavailable, error),
        }
    }

    /// A copy could not be kept on this node.
    pub(crate) fn of_keeping(problem: &Problem) -> Self {
        match problem {
            Problem::Exhausted { .. } => Self::later(Reason::NoSpace, problem),
            _ => Self::later(Reason::Unavailable, problem),
        }
    }
}

/// When a block that is offered now must be settled.
pub(crate) fn due(terms: &Terms) -> Instant {
    Instant::now() + terms.deadline
}

/// Whether a fill says when its block was first put; and whether a block went through a lossy
/// encoding only where that may be.
pub(crate) fn check_fill(
    terms: &Terms,
    namespace: &Namespace,
    meta: &BlockMeta,
) -> Result<(), Failure> {
    if terms.fill && meta.put_hlc == Hlc(0) {
        let why = "field meta.put_hlc is 0: a fill keeps the clock of the first put";
        return Err(Failure::never(Reason::Invalid, why));
    }
    if meta.transcoded.is_some() && !(terms.fill && namespace.policy.lossy) {
        let why = "field meta.transcoded is set: only a fill has it, where the policy is lossy";
        return Err(Failure::never(Reason::Invalid, why));
    }
    Ok(())
}
