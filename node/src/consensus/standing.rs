//! Whether this node still belongs to its region, and its store to this node.

use std::{io, sync::Arc};

use kvmesh_directory::{Command, DirectoryState, Event, NodeId};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{
    admission::Admission,
    ended::{Ended, Ending},
    group::Group,
};
use crate::directory::SharedDirectory;

/// Steps that are searched for what removed this node.
const STEPS_MAX: usize = 65_536;
/// So many steps are searched when the leader is the first to say that this node is removed.
const LATELY: u64 = 256;

/// See the module.
pub(super) struct Standing {
    pub(super) group: Group,
    pub(super) directory: SharedDirectory,
    pub(super) admission: Arc<Admission>,
    pub(super) ending: Arc<Ending>,
}

/// What the directory says about this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Listed {
    /// It is to go once its blocks have moved.
    leaving: bool,
    /// The store that it began with; 0: none yet.
    store: u64,
}

fn listed(state: &DirectoryState, node: NodeId) -> Option<Listed> {
    state.topology().member(node)?;
    Some(Listed {
        leaving: state.topology().leaving.contains(&node),
        store: state.node(node).map_or(0, |record| record.store),
    })
}

impl Standing {
    /// Looks after each applied entry, until `stop`.
    pub(super) async fn run(self, mut applied: watch::Receiver<u64>, stop: CancellationToken) {
        let look = async {
            let (mut before, mut seen) = (None, 0);
            loop {
                let index = *applied.borrow_and_update();
                let now = self.directory.with(|state| listed(state, self.group.node));
                if before.is_some() && now.is_none() {
                    let why = removal(&self.directory, self.group.node, seen);
                    let why = why.unwrap_or_else(|| was(self.group.node, before));
                    return self.ending.end(why);
                }
                (before, seen) = (now, index);
                if let Err(error) = self.admit(index, now).await {
                    let why = format!("the store cannot be written: {error}");
                    return self.ending.end(Ended::Raft(why));
                }
                if applied.changed().await.is_err() {
                    return;
                }
            }
        };
        stop.run_until_cancelled(look).await;
    }

    /// A store that is not admitted yet is, or never will be.
    async fn admit(&self, applied: u64, listed: Option<Listed>) -> io::Result<()> {
        if self.admission.is_admitted() {
            return Ok(());
        }
        let store = self.admission.store();
        if listed.is_some_and(|listed| listed.store == store && store != 0) {
            return self.admission.admit(&self.group.raft).await;
        }
        // Nobody is made a voter of the group whose store was not admitted before. The
        // directory must have got as far as the group's configuration, to say which that is.
        let metrics = self.group.raft.metrics();
        let lost = {
            let metrics = metrics.borrow();
            let membership = &metrics.membership_config;
            let seen = membership.log_id().map_or(0, |id| id.index) <= applied;
            seen && membership
                .voter_ids()
                .any(|voter| voter == self.group.node.0)
        };
        if lost {
            self.ending.end(Ended::StoreLost(self.group.node));
        }
        Ok(())
    }
}

/// What a node is that its region does not list any more, by what it last knew of itself.
pub(super) fn gone(directory: &SharedDirectory, node: NodeId) -> Ended {
    let (index, last) = directory.with(|state| (state.applied_index(), listed(state, node)));
    let lately = removal(directory, node, index.saturating_sub(LATELY));
    lately.unwrap_or_else(|| was(node, last))
}

/// What has removed a node since an index, if that is still to be seen.
fn removal(directory: &SharedDirectory, node: NodeId, since: u64) -> Option<Ended> {
    let removed = Event::NodeRemoved(node);
    let steps = directory.steps_after(since, STEPS_MAX)?;
    let step = steps.iter().find(|step| step.events.contains(&removed))?;
    Some(match step.command.as_deref() {
        Some(Command::FinishMove { .. }) => Ended::Left(node),
        _ => Ended::Removed(node),
    })
}

fn was(node: NodeId, last: Option<Listed>) -> Ended {
    match last {
        Some(Listed { leaving: true, .. }) => Ended::Left(node),
        _ => Ended::Removed(node),
    }
}
