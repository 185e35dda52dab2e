//! The leader makes the Raft group what the topology says: who follows, and who votes.
//!
//! One change at a time, each committed before the next is thought of; what is decided
//! depends on nothing but the group and the topology as they are, so that any leader goes on
//! where another one ended. New voters come first, then old ones go, the leader last.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use kvmesh_directory::DirectoryState;
use openraft::ChangeMembers;
use tokio::time::{self, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{
    desk::Desk,
    group::Group,
    raft::{Metrics, Peer},
};

/// How long one change may take.
const CHANGE_MAX: Duration = Duration::from_secs(5);
/// A follower that lacks no more entries than this is caught up.
const LAG_MAX: u64 = 1_000;

/// The group as its configuration is, and how far its members are.
#[derive(Debug, Default)]
pub(super) struct Seen {
    me: u64,
    /// More than one set of voters: a change was left halfway.
    joint: bool,
    voters: BTreeSet<u64>,
    nodes: BTreeSet<u64>,
    /// Followers that lack little.
    caught_up: BTreeSet<u64>,
}

/// What the topology wants of it.
#[derive(Debug, Default)]
pub(super) struct Wanted {
    members: BTreeMap<u64, String>,
    voters: BTreeSet<u64>,
    /// Members that have begun with their store, and so may vote.
    begun: BTreeSet<u64>,
}

/// One change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Change {
    /// A member begins to follow.
    Follow(u64, String),
    /// Makes these the voters; `keep`: a voter that goes still follows.
    Vote {
        /// All of them.
        voters: BTreeSet<u64>,
        /// Whether those that voted until now are to follow.
        keep: bool,
    },
    /// One that is no member follows no more.
    Remove(u64),
}

/// The next change; none: the group is as it should be, or cannot be brought closer yet.
pub(super) fn next(seen: &Seen, wanted: &Wanted) -> Option<Change> {
    if wanted.voters.is_empty() {
        return None;
    }
    if seen.joint {
        let voters = seen.voters.clone();
        return Some(Change::Vote { voters, keep: true });
    }
    let missing = |(node, _): &(&u64, &String)| !seen.nodes.contains(node);
    if let Some((node, address)) = wanted.members.iter().find(missing) {
        return Some(Change::Follow(*node, address.clone()));
    }
    let waiting: BTreeSet<u64> = wanted.voters.difference(&seen.voters).copied().collect();
    let ready = |node: &&u64| seen.caught_up.contains(node) && wanted.begun.contains(node);
    if let Some(node) = waiting.iter().find(ready) {
        let mut voters = seen.voters.clone();
        voters.insert(*node);
        return Some(Change::Vote { voters, keep: true });
    }
    // Whoever goes is replaced first, if somebody is to replace it.
    let spare = waiting.is_empty() || seen.voters.len() > wanted.voters.len();
    let surplus = || seen.voters.difference(&wanted.voters);
    let leader = surplus().find(|node| **node == seen.me);
    let going = surplus().find(|node| **node != seen.me).or(leader);
    if let Some(node) = going.filter(|_| spare && seen.voters.len() > 1) {
        let mut voters = seen.voters.clone();
        voters.remove(node);
        let keep = wanted.members.contains_key(node);
        return Some(Change::Vote { voters, keep });
    }
    let followers = seen.nodes.difference(&seen.voters);
    let mut gone = followers.filter(|node| !wanted.members.contains_key(node));
    gone.next().map(|node| Change::Remove(*node))
}

impl Seen {
    fn of(metrics: &Metrics, me: u64) -> Self {
        let membership = metrics.membership_config.membership();
        let configs = membership.get_joint_config();
        let voters = configs.last().cloned().unwrap_or_default();
        let committed = metrics.last_applied.map_or(0, |id| id.index);
        let replication = metrics.replication.iter().flatten();
        let near = replication.filter(|(_, matched)| {
            matched.is_some_and(|matched| matched.index + LAG_MAX >= committed)
        });
        Self {
            me,
            joint: configs.len() > 1,
            voters,
            nodes: membership.nodes().map(|(node, _)| *node).collect(),
            caught_up: near.map(|(node, _)| *node).collect(),
        }
    }
}

impl Wanted {
    fn of(state: &DirectoryState) -> Self {
        let members = &state.topology().members;
        let begun = state
            .nodes()
            .filter(|record| record.alive && record.incarnation.0 > 0);
        Self {
            members: members
                .iter()
                .map(|member| (member.node.0, member.address.clone()))
                .collect(),
            voters: members
                .iter()
                .filter(|member| member.voter)
                .map(|member| member.node.0)
                .collect(),
            begun: begun.map(|record| record.node.0).collect(),
        }
    }
}

/// See the module.
pub(super) struct Reconciler {
    pub(super) group: Group,
    pub(super) desk: Arc<Desk>,
    pub(super) interval: Duration,
}

impl Reconciler {
    /// Makes one change after the other while this node leads, until `stop`.
    pub(super) async fn run(self, stop: CancellationToken) {
        let work = async {
            let mut tick = time::interval(self.interval);
            tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                tick.tick().await;
                if self.desk.leadership.since().is_none() {
                    continue;
                }
                let seen = Seen::of(&self.group.raft.metrics().borrow(), self.group.node.0);
                let wanted = self.desk.directory.with(Wanted::of);
                if let Some(change) = next(&seen, &wanted) {
                    self.make(change).await;
                }
            }
        };
        stop.run_until_cancelled(work).await;
    }

    async fn make(&self, change: Change) {
        let raft = &self.group.raft;
        let (members, keep) = match change.clone() {
            Change::Follow(node, address) => {
                let peer = Peer { address };
                (ChangeMembers::AddNodes([(node, peer)].into()), true)
            }
            Change::Vote { voters, keep } => (ChangeMembers::ReplaceAllVoters(voters), keep),
            Change::Remove(node) => (ChangeMembers::RemoveNodes([node].into()), true),
        };
        let changing = raft.change_membership(members, keep);
        match time::timeout(CHANGE_MAX, changing).await {
            Ok(Ok(_)) => info!(?change, "the raft group changed"),
            Ok(Err(error)) => warn!(?change, %error, "the raft group did not change yet"),
            Err(_) => warn!(?change, "the raft group did not change in time"),
        }
    }
}

#[cfg(test)]
#[path = "reconcile_test.rs"]
mod tests;
