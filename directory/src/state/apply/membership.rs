//! Who the members are, and which of their starts counts.

use std::{collections::BTreeSet, sync::Arc};

use crate::{
    command::{Event, Outcome, Refusal},
    limits::{NODES_MAX, WEIGHT_MAX},
    state::{DirectoryState, model::NodeRecord, row::Slot},
    topology::{Member, Topology},
    words::{Incarnation, LogIncarnation, NodeId, RegionId, RingEpoch},
};

impl DirectoryState {
    pub(super) fn init_region(
        &mut self,
        region: &RegionId,
        log_incarnation: LogIncarnation,
        members: &[Member],
        feature_level: u32,
        events: &mut Vec<Event>,
    ) -> Result<Outcome, Refusal> {
        if let Some(initialised) = self.region() {
            return Err(Refusal::Initialised(initialised.clone()));
        }
        check_members(members).map_err(Refusal::Members)?;
        let mut members = members.to_vec();
        members.sort_by_key(|member| member.node);
        let unborn = |member: &Member| NodeRecord {
            node: member.node,
            incarnation: Incarnation(0),
            nonce: 0,
            alive: false,
        };
        self.nodes = Arc::new(members.iter().map(unborn).collect());
        self.log_incarnation = log_incarnation;
        self.feature_level = feature_level;
        let epoch = RingEpoch(1);
        self.topology = Arc::new(Topology {
            region: Some(region.clone()),
            epoch,
            members,
        });
        events.push(Event::EpochChanged(epoch));
        Ok(Outcome::default())
    }

    /// The same start asks again and gets the same answer; a start that was given up
    /// meanwhile gets a new incarnation, since its copies are no longer listed.
    pub(super) fn begin_incarnation(
        &mut self,
        node: NodeId,
        nonce: u64,
        events: &mut Vec<Event>,
    ) -> Result<Outcome, Refusal> {
        let slot = self.slot(node).ok_or(Refusal::NotMember(node))?;
        let record = &mut Arc::make_mut(&mut self.nodes)[usize::from(slot)];
        let repeated = record.alive && record.nonce == nonce;
        if !repeated {
            record.incarnation = Incarnation(record.incarnation.0 + 1);
            record.nonce = nonce;
            record.alive = true;
        }
        let incarnation = record.incarnation;
        if !repeated {
            events.push(Event::IncarnationBegan { node, incarnation });
            self.lose_copies(slot, events);
        }
        Ok(Outcome {
            incarnation: Some(incarnation),
            ..Outcome::default()
        })
    }

    pub(super) fn mark_dead(
        &mut self,
        node: NodeId,
        incarnation: Incarnation,
        events: &mut Vec<Event>,
    ) -> Result<Outcome, Refusal> {
        let slot = self.slot(node).ok_or(Refusal::NotMember(node))?;
        let record = self.nodes[usize::from(slot)];
        if record.alive && record.incarnation == incarnation {
            Arc::make_mut(&mut self.nodes)[usize::from(slot)].alive = false;
            events.push(Event::NodeDied(node));
            self.lose_copies(slot, events);
        }
        Ok(Outcome::default())
    }

    /// A node's copies are gone, and not on purpose: what is wanted stays, so the rest is repaired.
    fn lose_copies(&mut self, slot: Slot, events: &mut Vec<Event>) {
        let gone = self.blocks.lose(slot);
        events.extend(gone.into_iter().map(|name| Event::Vanished { name }));
    }
}

/// What is wrong with the members of a region to be.
fn check_members(members: &[Member]) -> Result<(), String> {
    if members.len() > NODES_MAX {
        return Err(format!("{} members, at most {NODES_MAX}", members.len()));
    }
    let (mut nodes, mut addresses) = (BTreeSet::new(), BTreeSet::new());
    for member in members {
        let node = member.node;
        if !nodes.insert(node) {
            return Err(format!("node {node} is listed twice"));
        }
        if member.address.is_empty() {
            return Err(format!("node {node} has no address"));
        }
        if !addresses.insert(&member.address) {
            return Err(format!("address {} is listed twice", member.address));
        }
        if !(1..=WEIGHT_MAX).contains(&member.weight) {
            return Err(format!(
                "node {node} has weight {}, expected 1 to {WEIGHT_MAX}",
                member.weight
            ));
        }
    }
    let voters = members.iter().filter(|member| member.voter).count();
    if ![1, 3, 5].contains(&voters) {
        return Err(format!("{voters} voters, expected 1, 3 or 5"));
    }
    Ok(())
}
