//! Why this node's part in the group is over for good.

use std::sync::{Mutex, PoisonError};

use kvmesh_directory::NodeId;
use tokio_util::sync::CancellationToken;
use tracing::error;

/// See the module. `Left` is as it should be; all others are failures.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Ended {
    /// It left the region, and its blocks have moved.
    #[error("node {0} has left the region: stop starting it")]
    Left(NodeId),
    /// It was removed without its doing.
    #[error(
        "node {0} is no member of the region any more: let it join with a new number and an empty raft_dir"
    )]
    Removed(NodeId),
    /// It asked to join, and never will as it is.
    #[error("node {node} cannot join: {why}: mend its settings and start it again")]
    Refused {
        /// Who asked.
        node: NodeId,
        /// Whom it asked, and what was said.
        why: String,
    },
    /// A voter came back without what it had promised.
    #[error(
        "the Raft store of node {0} is not the one it had, and it would vote twice: run `meshctl node leave {0} --forget`, empty its raft_dir and let it join with a new number"
    )]
    StoreLost(NodeId),
    /// The region's log may say what this build does not know.
    #[error(
        "the region is at feature level {level}, and the program of node {node} knows {}: install the build that the other nodes run",
        kvmesh_directory::limits::FEATURE_LEVEL
    )]
    TooOld {
        /// Which node.
        node: NodeId,
        /// The region's.
        level: u32,
    },
    /// The log has what this build does not know.
    #[error(
        "entry {index} of the log is of a later version than this build knows: install the build that the other nodes run"
    )]
    UnknownCommand {
        /// Which entry.
        index: u64,
    },
    /// Raft cannot go on.
    #[error("raft has failed: {0}")]
    Raft(String),
}

/// Told once why, and stops everything then.
#[derive(Debug)]
pub(super) struct Ending {
    why: Mutex<Option<Ended>>,
    stop: CancellationToken,
}

impl Ending {
    /// Not over.
    pub(super) fn new(stop: CancellationToken) -> Self {
        Self {
            why: Mutex::new(None),
            stop,
        }
    }

    /// It is over. The first reason counts.
    pub(super) fn end(&self, why: Ended) {
        let mut slot = self.why.lock().unwrap_or_else(PoisonError::into_inner);
        if slot.is_none() && !self.stop.is_cancelled() {
            error!(%why, "the node stops");
            *slot = Some(why);
        }
        drop(slot);
        self.stop.cancel();
    }

    /// Why, when it is.
    pub(super) fn why(&self) -> Option<Ended> {
        let why = self.why.lock().unwrap_or_else(PoisonError::into_inner);
        why.clone()
    }
}
