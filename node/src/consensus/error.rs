//! What can go wrong with a proposal, and at the start.

use std::{path::PathBuf, time::Duration};

use kvmesh_client::Problem;
use kvmesh_directory::{NodeId, RegionId, command::Refusal};

/// When to try again after an overload.
const OVERLOAD_RETRY: Duration = Duration::from_millis(50);

/// Why a command was not committed, or not known to be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// The region has no members yet. Nothing was done.
    #[error("the region is not initialised: run `meshctl region init`")]
    NotInitialised,
    /// The directory refused the command. Nothing changed.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// No leader is known right now; it may have been committed.
    #[error("no leader of the region's voters is known: try again")]
    NoLeader,
    /// This node does not lead, and was asked by one that thought so. Nothing was done.
    #[error("this node does not lead: ask again")]
    NotLeader,
    /// Too many changes wait already. Nothing was done.
    #[error("the leader has too many changes waiting: try again later")]
    Overloaded,
    /// The command does not fit a log entry. Nothing was done.
    #[error("the command has {bytes} bytes, a log entry holds {max}: split it")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The limit.
        max: usize,
    },
    /// What was asked for cannot be. Nothing was done.
    #[error("{0}")]
    Invalid(String),
    /// Not all nodes that are needed are up. Nothing was done that cannot be repeated.
    #[error("{0}")]
    NotReady(String),
    /// Some member does not know such commands yet. Nothing was done.
    #[error(
        "the region is at feature level {committed}, the command needs {needed}: update all nodes, then run `meshctl region upgrade`"
    )]
    FeatureLevel {
        /// Of the command.
        needed: u32,
        /// That all members have.
        committed: u32,
    },
    /// Time ran out; it may have been committed.
    #[error("the proposal took longer than the deadline")]
    OutOfTime,
    /// The node is shutting down; it may have been committed.
    #[error("the node is shutting down: ask another one")]
    Stopped,
}

impl From<ProposeError> for Problem {
    fn from(error: ProposeError) -> Self {
        match error {
            ProposeError::NotInitialised | ProposeError::Refused(Refusal::NotInitialised) => {
                Self::NotInitialised
            }
            ProposeError::Refused(refusal) => refused(refusal),
            ProposeError::NoLeader
            | ProposeError::NotLeader
            | ProposeError::NotReady(_)
            | ProposeError::Stopped => Self::unavailable(error.to_string()),
            ProposeError::Overloaded => Self::Exhausted {
                limit: "the leader's queue of block changes".to_owned(),
                retry_after: OVERLOAD_RETRY,
            },
            ProposeError::TooLarge { .. } | ProposeError::Invalid(_) => {
                Self::invalid("command", error)
            }
            ProposeError::FeatureLevel { .. } => Self::NotNow(error.to_string()),
            ProposeError::OutOfTime => Self::OutOfTime("the proposal"),
        }
    }
}

fn refused(refusal: Refusal) -> Problem {
    match refusal {
        Refusal::Initialised(_) => Problem::Exists(refusal.to_string()),
        Refusal::NameTaken { name, fields } => Problem::DescriptionDiffers { name, fields },
        Refusal::Full { what, limit } => Problem::Exhausted {
            limit: format!("the region's {limit} {what}"),
            retry_after: Duration::from_secs(60),
        },
        Refusal::UnknownNamespace(id) => Problem::UnknownNamespace(id.to_string()),
        Refusal::NotInitialised => Problem::NotInitialised,
        Refusal::Join(_) => Problem::invalid("member", refusal),
        // To be tried again only after something else has happened.
        Refusal::Moving(_)
        | Refusal::Gone(_)
        | Refusal::LastMember(_)
        | Refusal::StoreLost { .. }
        | Refusal::LevelUnknown { .. } => Problem::NotNow(refusal.to_string()),
        Refusal::NotMember(_) | Refusal::Covered | Refusal::Namespace(_) | Refusal::Members(_) => {
            Problem::invalid("command", refusal)
        }
    }
}

/// Why consensus could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The store belongs to somebody else.
    #[error(
        "{path:?} belongs to node {found_node} of region {found_region}, this is node {node} of {region}: use another raft_dir"
    )]
    Foreign {
        /// The directory.
        path: PathBuf,
        /// Whose it is.
        found_node: NodeId,
        /// Of which region it is.
        found_region: String,
        /// This node.
        node: NodeId,
        /// This region.
        region: RegionId,
    },
    /// The settings do not list this node.
    #[error("node {0} is not among the members that the settings list: add it")]
    NotListed(NodeId),
    /// The store could not be opened or read.
    #[error(
        "failed to open the raft store {path:?}; if it is missing or damaged, never start the node empty under its old number: run `meshctl node leave N --forget`, empty its raft_dir and let it join with a new number"
    )]
    Store {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The Raft settings contradict one another.
    #[error("the raft settings cannot be: {0}")]
    Settings(String),
    /// Raft did not start.
    #[error("raft did not start: {0}")]
    Raft(String),
}
