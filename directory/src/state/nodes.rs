//! The records of a region's nodes.
//!
//! Rows name holders by slot, so a node keeps its slot for as long as it is a member, and a
//! slot is freed only once no row names it. A free slot is used again, the lowest first.

use crate::{
    state::{model::NodeRecord, row::Slot},
    words::NodeId,
};

/// See the module.
#[derive(Debug, Clone, Default)]
pub(super) struct Nodes {
    /// None: free.
    slots: Vec<Option<NodeRecord>>,
    /// Ascending.
    by_node: Vec<(NodeId, Slot)>,
}

impl Nodes {
    /// In the order of slots. Of records of one node only the first counts.
    pub(super) fn from_slots(slots: Vec<Option<NodeRecord>>) -> Self {
        let numbered = slots.iter().zip(0..);
        let taken = numbered.filter_map(|(record, slot)| Some((record.as_ref()?.node, slot)));
        let mut by_node: Vec<(NodeId, Slot)> = taken.collect();
        by_node.sort_unstable();
        by_node.dedup_by_key(|(node, _)| *node);
        Self { slots, by_node }
    }

    pub(super) fn slots(&self) -> &[Option<NodeRecord>] {
        &self.slots
    }

    pub(super) fn slot(&self, node: NodeId) -> Option<Slot> {
        let at = self.by_node.binary_search_by_key(&node, |(node, _)| *node);
        at.ok().map(|at| self.by_node[at].1)
    }

    /// None: the slot is free.
    pub(super) fn at(&self, slot: Slot) -> Option<&NodeRecord> {
        self.slots.get(usize::from(slot))?.as_ref()
    }

    pub(super) fn get(&self, node: NodeId) -> Option<&NodeRecord> {
        self.at(self.slot(node)?)
    }

    pub(super) fn get_mut(&mut self, node: NodeId) -> Option<&mut NodeRecord> {
        let slot = self.slot(node)?;
        self.slots.get_mut(usize::from(slot))?.as_mut()
    }

    /// Ascending by node.
    pub(super) fn iter(&self) -> impl Iterator<Item = &NodeRecord> {
        self.by_node.iter().filter_map(|(_, slot)| self.at(*slot))
    }

    /// Adds a node that has no record.
    pub(super) fn add(&mut self, record: NodeRecord) {
        debug_assert!(self.slot(record.node).is_none());
        let free = self.slots.iter().position(Option::is_none);
        let at = free.unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() - 1
        });
        self.slots[at] = Some(record);
        let place = self
            .by_node
            .partition_point(|(node, _)| *node < record.node);
        // Members are at most `NODES_MAX`, and so are slots.
        self.by_node.insert(place, (record.node, at as Slot));
    }

    /// Frees a slot that no row names any more.
    pub(super) fn free(&mut self, slot: Slot) {
        if let Some(taken) = self.slots.get_mut(usize::from(slot)) {
            *taken = None;
        }
        self.by_node.retain(|(_, taken)| *taken != slot);
    }
}
