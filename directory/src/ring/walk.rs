//! A walk along the ring, from every point in turn.
//!
//! The nodes in the order in which a walk first meets them change little from one point
//! to the one before it: that point's node comes to the front. So one pass backwards
//! gives every point's order without walking from each.

use crate::{topology::Member, words::NodeId};

/// The order in which a walk from some point first meets the nodes.
pub(super) struct Walk {
    /// Indexes of members; those that have no point are missing.
    order: Vec<usize>,
    /// By index of a member.
    nodes: Vec<NodeId>,
    /// By index of a member: the number of its zone.
    zones: Vec<usize>,
    /// By number of a zone; all false between calls.
    seen: Vec<bool>,
}

impl Walk {
    /// Has met nobody yet.
    pub(super) fn new(members: &[Member]) -> Self {
        let mut names: Vec<&str> = members.iter().map(|member| &*member.zone).collect();
        names.sort_unstable();
        names.dedup();
        let number = |member: &Member| names.partition_point(|name| *name < &*member.zone);
        Self {
            order: Vec::with_capacity(members.len()),
            nodes: members.iter().map(|member| member.node).collect(),
            zones: members.iter().map(number).collect(),
            seen: vec![false; names.len()],
        }
    }

    /// Starts the walk one point earlier, at a point of this member.
    pub(super) fn begin_with(&mut self, member: usize) {
        match self.order.iter().position(|met| *met == member) {
            Some(at) => self.order[..=at].rotate_right(1),
            None => self.order.insert(0, member),
        }
    }

    /// Nodes met.
    pub(super) fn nodes(&self) -> usize {
        self.order.len()
    }

    /// Fills `list`, at most [`Self::nodes`] long: first those that are the first of
    /// their zone, then the others, both in the order of the walk.
    pub(super) fn preference(&mut self, list: &mut [NodeId]) {
        let mut len = 0;
        let mut zones = 0;
        for &member in &self.order {
            if len == list.len() || zones == self.seen.len() {
                break;
            }
            if !std::mem::replace(&mut self.seen[self.zones[member]], true) {
                list[len] = self.nodes[member];
                len += 1;
                zones += 1;
            }
        }
        let first = len;
        for &member in &self.order {
            if len == list.len() {
                break;
            }
            if !list[..first].contains(&self.nodes[member]) {
                list[len] = self.nodes[member];
                len += 1;
            }
        }
        self.seen.fill(false);
    }
}
