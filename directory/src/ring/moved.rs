//! What a ring change moves.

use super::Ring;

/// The part of the ring whose owners differ between two rings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MovedArcs {
    /// First and last point of each arc, ascending, neither touching nor overlapping.
    arcs: Vec<(u64, u64)>,
}

impl MovedArcs {
    /// Where the first `replicas` owners differ.
    pub(super) fn between(old: &Ring, new: &Ring, replicas: usize) -> Self {
        let mut ends: Vec<u64> = [old, new]
            .iter()
            .flat_map(|ring| ring.ends.iter().copied())
            .chain([u64::MAX])
            .collect();
        ends.sort_unstable();
        ends.dedup();
        let mut arcs: Vec<(u64, u64)> = Vec::new();
        let mut first = 0;
        for last in ends {
            // Both rings have one list from `first` to `last`.
            if owners(old, last, replicas) != owners(new, last, replicas) {
                match arcs.last_mut() {
                    Some(arc) if first > 0 && arc.1 == first - 1 => arc.1 = last,
                    _ => arcs.push((first, last)),
                }
            }
            first = last.wrapping_add(1);
        }
        Self { arcs }
    }

    /// Whether a block at this point moves, see [`crate::BlockName::point`].
    #[must_use]
    pub fn contains(&self, point: u64) -> bool {
        let after = self.arcs.partition_point(|&(first, _)| first <= point);
        after > 0 && point <= self.arcs[after - 1].1
    }

    /// First and last point of each arc, ascending, neither touching nor overlapping.
    #[must_use]
    pub fn arcs(&self) -> &[(u64, u64)] {
        &self.arcs
    }
}

fn owners(ring: &Ring, point: u64, replicas: usize) -> &[crate::NodeId] {
    let list = ring.preference_at(point);
    &list[..list.len().min(replicas)]
}
