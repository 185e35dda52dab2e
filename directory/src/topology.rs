//! Which nodes make up a region, at one epoch.

use std::collections::BTreeSet;

use crate::words::{NodeId, RegionId, RingEpoch};

/// A node as its region knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Stable number.
    pub node: NodeId,
    /// `host:port` that it serves gRPC on.
    pub address: String,
    /// Failure domain; replicas spread over zones where there are enough.
    pub zone: String,
    /// Share of blocks relative to others, 1 to [`crate::limits::WEIGHT_MAX`].
    pub weight: u32,
    /// Is to vote in the region's Raft group.
    pub voter: bool,
}

/// A region's members at an epoch, in the order of their numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topology {
    /// The region; none before it is initialised.
    pub region: Option<RegionId>,
    /// Version of the ring, raised exactly when the ring changes; 0 before the region is
    /// initialised.
    pub epoch: RingEpoch,
    /// Members, ascending by node, also those that are leaving.
    pub members: Vec<Member>,
    /// Members that are not on the ring any more, and stay until their blocks have moved.
    /// None of them is to vote.
    pub leaving: BTreeSet<NodeId>,
    /// While blocks move: who was on the ring before it changed, ascending by node. Empty: it
    /// changed more than once, and any block may be in a place of before.
    pub before: Option<Vec<Member>>,
    /// How many members are to vote: 1, 3 or 5; 0 before the region is initialised.
    pub voters_wanted: u32,
}

impl Topology {
    /// A region that is not initialised yet.
    #[must_use]
    pub fn empty() -> Self {
        Self {
            region: None,
            epoch: RingEpoch(0),
            members: Vec::new(),
            leaving: BTreeSet::new(),
            before: None,
            voters_wanted: 0,
        }
    }

    /// The member with this number.
    #[must_use]
    pub fn member(&self, node: NodeId) -> Option<&Member> {
        self.place_of(node).map(|index| &self.members[index])
    }

    pub(crate) fn place_of(&self, node: NodeId) -> Option<usize> {
        let at = self
            .members
            .binary_search_by_key(&node, |member| member.node);
        at.ok()
    }

    /// Members on the ring: those that are not leaving, ascending by node.
    pub fn staying(&self) -> impl Iterator<Item = &Member> {
        let members = self.members.iter();
        members.filter(|member| !self.leaving.contains(&member.node))
    }

    /// Members on the ring of `epoch`, for whoever knows the ring of another one. None, when the
    /// topology has another epoch itself, or while blocks move: then their holders say more.
    #[must_use]
    pub fn ring_beside(&self, known: RingEpoch, epoch: RingEpoch) -> Vec<&Member> {
        match known == epoch || self.epoch != epoch || self.is_moving() {
            true => Vec::new(),
            false => self.staying().collect(),
        }
    }

    /// Whether blocks may still be where the ring of before had them.
    #[must_use]
    pub fn is_moving(&self) -> bool {
        self.before.is_some()
    }

    /// Whether blocks move to a member that was not on the ring before.
    #[must_use]
    pub fn is_joining(&self, node: NodeId) -> bool {
        let known = self.before.as_ref().filter(|before| !before.is_empty());
        known.is_some_and(|before| before.iter().all(|member| member.node != node))
    }

    /// Members that are to vote.
    #[must_use]
    pub fn voters(&self) -> usize {
        self.members.iter().filter(|member| member.voter).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ring_is_said_to_who_knows_another_one_and_not_while_blocks_move() {
        let member = |node| Member {
            node: NodeId(node),
            address: format!("n{node}:1"),
            zone: String::new(),
            weight: 1,
            voter: true,
        };
        let settled = Topology {
            epoch: RingEpoch(4),
            members: (1..=3).map(member).collect(),
            leaving: [NodeId(2)].into(),
            ..Topology::empty()
        };
        let said = |topology: &Topology, known, epoch| -> Vec<u64> {
            let members = topology.ring_beside(RingEpoch(known), RingEpoch(epoch));
            members.iter().map(|member| member.node.0).collect()
        };
        assert_eq!(said(&settled, 0, 4), [1, 3]);
        assert_eq!(said(&settled, 4, 4), [0; 0]);
        assert_eq!(said(&settled, 0, 3), [0; 0], "the topology is ahead");
        let moving = Topology {
            before: Some(Vec::new()),
            ..settled
        };
        assert_eq!(said(&moving, 0, 4), [0; 0]);
    }
}
