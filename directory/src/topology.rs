//! Which nodes make up a region, at one epoch.

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
    /// Votes in the region's Raft group.
    pub voter: bool,
}

/// A region's members at an epoch, in the order of their numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topology {
    /// The region; none before it is initialised.
    pub region: Option<RegionId>,
    /// Version; 0 before the region is initialised.
    pub epoch: RingEpoch,
    /// Members, ascending by node.
    pub members: Vec<Member>,
}

impl Topology {
    /// A region that is not initialised yet.
    #[must_use]
    pub fn empty() -> Self {
        Self {
            region: None,
            epoch: RingEpoch(0),
            members: Vec::new(),
        }
    }

    /// The member with this number.
    #[must_use]
    pub fn member(&self, node: NodeId) -> Option<&Member> {
        let at = self
            .members
            .binary_search_by_key(&node, |member| member.node);
        at.ok().map(|index| &self.members[index])
    }
}
