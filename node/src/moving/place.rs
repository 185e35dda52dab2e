//! Where one block is and where it is to be, while blocks move from one ring to the next. Pure.

use std::collections::BTreeSet;

use kvmesh_directory::{NodeId, state::Entry};

/// Who counts.
pub(crate) struct Members {
    pub(crate) alive: BTreeSet<NodeId>,
    /// Members that have never begun: blocks wait for them, while dead ones do not count.
    pub(crate) new: BTreeSet<NodeId>,
    pub(crate) leaving: BTreeSet<NodeId>,
    /// Members on the ring, also those that are dead.
    pub(crate) staying: usize,
    /// Members on the ring of before; 0: not known.
    pub(crate) before: usize,
}

/// What is still to be done about a block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Next {
    /// Nothing.
    InPlace,
    /// Something that moving does not do: copies that were lost are repaired first.
    Waits,
    /// A holder copies it to owners that do not have it.
    Copy {
        by: NodeId,
        to: Vec<NodeId>,
        /// Copies that are wanted then.
        replicas: u32,
    },
    /// All owners that live have it: these may let it go.
    Release(Vec<NodeId>),
}

impl Members {
    /// Copies that a block should have: as many as before, unless only the lack of nodes kept
    /// it from having as many as its namespace wants.
    pub(crate) fn wanted(&self, entry: &Entry, replicas: u32) -> u32 {
        let short = self.before > 0
            && self.before < replicas as usize
            && entry.wanted as usize == self.before;
        match short {
            true => replicas.min(u32::try_from(self.staying).unwrap_or(u32::MAX)),
            false => entry.wanted,
        }
    }

    /// Judges a block by the preference lists of before and now.
    pub(crate) fn next(
        &self,
        entry: &Entry,
        replicas: u32,
        before: &[NodeId],
        now: &[NodeId],
    ) -> Next {
        let wanted = self.wanted(entry, replicas);
        let owners = &now[..now.len().min(wanted as usize)];
        let holders: Vec<NodeId> = entry.holders.iter().map(|copy| copy.node).collect();
        let missing = |owner: &NodeId| self.alive.contains(owner) && !holders.contains(owner);
        let to: Vec<NodeId> = owners.iter().copied().filter(missing).collect();
        if to.is_empty() && owners.iter().any(|owner| self.new.contains(owner)) {
            return Next::Waits;
        }
        if to.is_empty() {
            return self.release(entry, owners, &holders);
        }
        if holders.len() < entry.wanted as usize {
            return Next::Waits;
        }
        let mut preferred = before.iter().chain(now).chain(&holders);
        let by = preferred.find(|node| self.alive.contains(node) && holders.contains(node));
        match by {
            Some(by) => Next::Copy {
                by: *by,
                to,
                replicas: wanted,
            },
            None => Next::Waits,
        }
    }

    fn release(&self, entry: &Entry, owners: &[NodeId], holders: &[NodeId]) -> Next {
        let enough = self.staying.min(entry.wanted as usize);
        let leaves = |node: &NodeId| self.leaving.contains(node);
        let stay = holders.iter().filter(|node| !leaves(node)).count();
        if holders.iter().any(leaves) {
            let going = holders.iter().copied().filter(leaves);
            return match stay >= enough {
                true => Next::Release(going.collect()),
                false => Next::Waits,
            };
        }
        let surplus = stay.saturating_sub(enough);
        let strangers = holders.iter().copied().filter(|it| !owners.contains(it));
        let going: Vec<NodeId> = strangers.take(surplus).collect();
        match going.is_empty() {
            true => Next::InPlace,
            false => Next::Release(going),
        }
    }
}

#[cfg(test)]
#[path = "place_test.rs"]
mod tests;
