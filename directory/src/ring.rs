//! The consistent-hash ring: a pure function of the topology at an epoch.
//!
//! Invariants: every preference list names distinct nodes; neither the order of members
//! nor how Rust hashes a struct changes a placement (`ring_test` freezes some).
//!
//! Not here: who is alive, and where blocks are (`state`).

mod moved;
mod points;
#[cfg(test)]
mod ring_test;
mod walk;

use hashring::HashRing;

pub use self::moved::MovedArcs;
use self::{
    points::{ArcEnd, PassThrough, Point},
    walk::Walk,
};
use crate::{
    limits::REPLICAS_MAX,
    topology::{Member, Topology},
    words::{BlockName, NodeId, RingEpoch},
};

/// Owners of every block name at one epoch, worked out once.
#[derive(Debug, Clone)]
pub struct Ring {
    epoch: RingEpoch,
    /// Finds the arc of a point.
    arcs: HashRing<ArcEnd, PassThrough>,
    /// Where the arcs end, ascending.
    ends: Vec<u64>,
    /// Preference lists one after the other, in the order of the arcs.
    lists: Vec<NodeId>,
    /// Nodes of one list.
    width: usize,
}

impl Ring {
    /// Works out the preference lists of a topology: of its members that are not leaving.
    #[must_use]
    pub fn build(topology: &Topology) -> Self {
        let members: Vec<Member> = topology.staying().cloned().collect();
        Self::of(topology.epoch, &members)
    }

    /// The ring before the change after which blocks move. Empty when there was more than one
    /// change: then everything counts as moved. None: no blocks move.
    #[must_use]
    pub fn before(topology: &Topology) -> Option<Self> {
        let epoch = RingEpoch(topology.epoch.0.saturating_sub(1));
        let members = topology.before.as_ref()?;
        Some(Self::of(epoch, members))
    }

    fn of(epoch: RingEpoch, members: &[Member]) -> Self {
        let points = points::of(members);
        let mut walk = Walk::new(members);
        // After a whole turn backwards the walk stands where the last point begins it.
        for &(_, member) in points.iter().rev() {
            walk.begin_with(member);
        }
        let width = walk.nodes().min(REPLICAS_MAX as usize);
        let mut lists = vec![NodeId::default(); points.len() * width];
        for (index, &(_, member)) in points.iter().enumerate().rev() {
            walk.begin_with(member);
            walk.preference(&mut lists[index * width..][..width]);
        }
        let ends: Vec<u64> = points.into_iter().map(|(point, _)| point).collect();
        let mut arcs = HashRing::with_hasher(PassThrough);
        let numbered = ends.iter().zip(0..);
        arcs.batch_add(numbered.map(|(&end, arc)| ArcEnd { end, arc }).collect());
        Self {
            epoch,
            arcs,
            ends,
            lists,
            width,
        }
    }

    /// Version of the topology that the ring was built from.
    #[must_use]
    pub fn epoch(&self) -> RingEpoch {
        self.epoch
    }

    /// Distinct nodes in the order of preference, the primary first, at most
    /// [`crate::limits::REPLICAS_MAX`] of them: the first `n` are the owners of `n`
    /// replicas, in distinct zones while there are enough zones. Empty before the region
    /// is initialised.
    #[must_use]
    pub fn preference(&self, name: &BlockName) -> &[NodeId] {
        self.preference_at(name.point())
    }

    /// The preference list of a point on the ring, see [`BlockName::point`].
    #[must_use]
    pub fn preference_at(&self, point: u64) -> &[NodeId] {
        match self.arcs.get(&Point(point)) {
            Some(end) => self.list(end.arc as usize),
            None => &[],
        }
    }

    /// Share of primary ownership by arc length, ascending by node; sums to 1.
    #[must_use]
    pub fn ownership(&self) -> Vec<(NodeId, f64)> {
        const TURN: f64 = 18_446_744_073_709_551_616.0; // 2^64
        let Some(&(mut before)) = self.ends.last() else {
            return Vec::new();
        };
        let mut shares = std::collections::BTreeMap::new();
        for (arc, &end) in self.ends.iter().enumerate() {
            // One arc alone is the whole turn, which wraps to 0.
            let length = match end.wrapping_sub(before) {
                0 => TURN,
                length => length as f64,
            };
            *shares.entry(self.list(arc)[0]).or_insert(0.0) += length / TURN;
            before = end;
        }
        shares.into_iter().collect()
    }

    /// The part of the ring whose first `replicas` owners differ in `next`.
    #[must_use]
    pub fn moved(&self, next: &Ring, replicas: usize) -> MovedArcs {
        MovedArcs::between(self, next, replicas)
    }

    fn list(&self, arc: usize) -> &[NodeId] {
        &self.lists[arc * self.width..][..self.width]
    }
}
