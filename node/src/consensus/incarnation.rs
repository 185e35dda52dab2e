//! This node's incarnation: committed at each start, and again whenever it was given up.

use std::{sync::Arc, time::Duration};

use kvmesh_client::random;
use kvmesh_directory::{Command, Incarnation, NodeId, command::Refusal, limits::FEATURE_LEVEL};
use tokio::{
    sync::watch,
    time::{self, Instant},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{
    PROPOSAL_MAX,
    ended::{Ended, Ending},
    group::Group,
};
use crate::directory::SharedDirectory;

/// Before a proposal that failed is made again.
const RETRY_AFTER: Duration = Duration::from_millis(200);

/// Which incarnation is this start's.
pub(super) struct Begun {
    directory: SharedDirectory,
    node: NodeId,
    /// Random at each start; the directory notes whose incarnation it is.
    nonce: u64,
    /// Of the Raft store.
    store: u64,
    ending: Arc<Ending>,
}

impl Begun {
    /// A start that no other start is mistaken for.
    pub(super) fn new(
        directory: SharedDirectory,
        node: NodeId,
        store: u64,
        ending: Arc<Ending>,
    ) -> Self {
        Self {
            directory,
            node,
            nonce: random::in_range(1..=u64::MAX),
            store,
            ending,
        }
    }

    /// The incarnation of this start, while the node is not given up.
    pub(super) fn incarnation(&self) -> Option<Incarnation> {
        self.directory.with(|state| {
            let record = state.node(self.node)?;
            (record.alive && record.nonce == self.nonce).then_some(record.incarnation)
        })
    }

    /// Whether the region lists this node, and so it should have an incarnation.
    fn is_due(&self) -> bool {
        let listed = |state: &kvmesh_directory::DirectoryState| state.node(self.node).is_some();
        self.directory.with(listed) && self.incarnation().is_none()
    }

    /// Commits an incarnation whenever one is due, until `stop`.
    pub(super) async fn run(
        self: Arc<Self>,
        group: Group,
        mut applied: watch::Receiver<u64>,
        stop: CancellationToken,
    ) {
        let begin = async {
            loop {
                if self.is_due() {
                    self.begin(&group).await;
                } else if applied.changed().await.is_err() {
                    return;
                }
            }
        };
        stop.run_until_cancelled(begin).await;
    }

    async fn begin(&self, group: &Group) {
        let command = Command::BeginIncarnation {
            node: self.node,
            nonce: self.nonce,
            store: self.store,
            level: FEATURE_LEVEL,
        };
        let deadline = Instant::now() + PROPOSAL_MAX;
        match group.propose(command, deadline).await {
            Ok((_, outcome)) if let Some(ended) = ended_by(outcome.refused.as_ref()) => {
                self.ending.end(ended);
            }
            Ok((index, outcome)) => {
                info!(node = %self.node, index, incarnation = ?outcome.incarnation, "began");
                // Due until this node has applied it, which it does shortly.
                let mut applied = self.directory.applied();
                let caught_up = applied.wait_for(|applied| *applied >= index);
                let _ = time::timeout(PROPOSAL_MAX, caught_up).await;
            }
            Err(error) => {
                warn!(node = %self.node, %error, "could not begin an incarnation yet");
                time::sleep(RETRY_AFTER).await;
            }
        }
    }
}

/// A refusal that no repetition changes.
fn ended_by(refusal: Option<&Refusal>) -> Option<Ended> {
    match refusal {
        Some(Refusal::StoreLost { node }) => Some(Ended::StoreLost(*node)),
        Some(Refusal::LevelUnknown { node, level, .. }) => Some(Ended::TooOld {
            node: *node,
            level: *level,
        }),
        _ => None,
    }
}
