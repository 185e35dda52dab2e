//! The consistent-hash ring: a pure function of the topology at an epoch.

use crate::{
    topology::Topology,
    words::{BlockName, NodeId, RingEpoch},
};

/// Owners of every block name at one epoch, worked out once.
#[derive(Debug, Clone)]
pub struct Ring {
    epoch: RingEpoch,
}

impl Ring {
    /// Works out the preference lists of a topology.
    #[must_use]
    pub fn build(topology: &Topology) -> Self {
        Self {
            epoch: topology.epoch,
        }
    }

    /// Version of the topology that the ring was built from.
    #[must_use]
    pub fn epoch(&self) -> RingEpoch {
        self.epoch
    }

    /// Distinct nodes in the order of preference, the primary first, at most
    /// [`crate::limits::REPLICAS_MAX`] of them: the first `n` are the owners of `n`
    /// replicas, in distinct zones while there are enough zones.
    #[must_use]
    pub fn preference(&self, _name: &BlockName) -> &[NodeId] {
        todo!()
    }

    /// Share of primary ownership by arc length, ascending by node; sums to 1.
    #[must_use]
    pub fn ownership(&self) -> Vec<(NodeId, f64)> {
        todo!()
    }
}
