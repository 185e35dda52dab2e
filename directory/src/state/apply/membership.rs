//! Who the first members are, and which of their starts counts.

use std::{collections::BTreeSet, sync::Arc};

use crate::{
    command::{Event, Outcome, Refusal},
    limits::{FEATURE_BEGIN_FILLS_VOTERS, NODES_MAX, TEXT_BYTES_MAX, WEIGHT_MAX},
    state::{DirectoryState, model::NodeRecord, nodes::Nodes, row::Slot},
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
        let voters_wanted = check_members(members).map_err(Refusal::Members)?;
        let mut members = members.to_vec();
        members.sort_by_key(|member| member.node);
        let records = members.iter().map(|member| Some(unborn(member.node)));
        self.nodes = Arc::new(Nodes::from_slots(records.collect()));
        self.log_incarnation = log_incarnation;
        self.feature_level = feature_level;
        let epoch = RingEpoch(1);
        self.topology = Arc::new(Topology {
            region: Some(region.clone()),
            epoch,
            members,
            leaving: BTreeSet::new(),
            before: None,
            voters_wanted,
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
        store: u64,
        level: u32,
        events: &mut Vec<Event>,
    ) -> Result<Outcome, Refusal> {
        let slot = self.slot(node).ok_or(Refusal::NotMember(node))?;
        self.check_store(node, store)?;
        // Who does not say is as old as the first level.
        if level.max(1) < self.feature_level {
            let (knows, level) = (level, self.feature_level);
            return Err(Refusal::LevelUnknown { node, knows, level });
        }
        let gone = self.incarnations_gone;
        let nodes = Arc::make_mut(&mut self.nodes);
        let record = nodes.get_mut(node).ok_or(Refusal::NotMember(node))?;
        if store != 0 {
            record.store = store;
        }
        let repeated = record.alive && record.nonce == nonce;
        if !repeated {
            // Above those of an earlier node of this number, whose claims may be on their way.
            let last = match record.incarnation {
                Incarnation(0) => gone,
                current => current,
            };
            record.incarnation = Incarnation(last.0 + 1);
            record.nonce = nonce;
            record.alive = true;
            record.level = level;
        }
        let incarnation = record.incarnation;
        if !repeated {
            events.push(Event::IncarnationBegan { node, incarnation });
            self.lose_copies(slot, events);
            // A voter may have left while nobody lived who could take its place. Members of
            // an earlier build would not do it, and their directory would be another one.
            if self.feature_level >= FEATURE_BEGIN_FILLS_VOTERS {
                self.fill_voters();
            }
        }
        Ok(Outcome {
            incarnation: Some(incarnation),
            ..Outcome::default()
        })
    }

    /// Whoever votes, or may not have been released from voting yet, must still have the store
    /// in which its votes are.
    fn check_store(&self, node: NodeId, store: u64) -> Result<(), Refusal> {
        let record = self.node(node).ok_or(Refusal::NotMember(node))?;
        let topology = self.topology();
        let votes = topology.member(node).is_some_and(|member| member.voter)
            || topology.leaving.contains(&node);
        match votes && store != 0 && record.store != 0 && store != record.store {
            true => Err(Refusal::StoreLost { node }),
            false => Ok(()),
        }
    }

    /// Whoever has begun knows it, or the level stays. A member that has not begun yet is looked
    /// at when it does.
    pub(super) fn raise_feature_level(&mut self, level: u32) -> Result<Outcome, Refusal> {
        let mut begun = self.nodes.iter().filter(|it| it.incarnation.0 > 0);
        if level > self.feature_level {
            if let Some(record) = begun.find(|record| record.level < level) {
                let (node, knows) = (record.node, record.level);
                return Err(Refusal::LevelUnknown { node, knows, level });
            }
            self.feature_level = level;
        }
        Ok(Outcome::default())
    }

    pub(super) fn mark_dead(
        &mut self,
        node: NodeId,
        incarnation: Incarnation,
        events: &mut Vec<Event>,
    ) -> Result<Outcome, Refusal> {
        let slot = self.slot(node).ok_or(Refusal::NotMember(node))?;
        let record = self.nodes.get(node).copied();
        if record.is_some_and(|record| record.alive && record.incarnation == incarnation) {
            if let Some(record) = Arc::make_mut(&mut self.nodes).get_mut(node) {
                record.alive = false;
            }
            events.push(Event::NodeDied(node));
            self.lose_copies(slot, events);
        }
        Ok(Outcome::default())
    }

    /// A node's copies are gone, and not on purpose: what is wanted stays, so the rest is repaired.
    pub(super) fn lose_copies(&mut self, slot: Slot, events: &mut Vec<Event>) {
        let gone = self.blocks.lose(slot);
        events.extend(gone.into_iter().map(|name| Event::Vanished { name }));
    }
}

/// A member that has not begun.
pub(super) fn unborn(node: NodeId) -> NodeRecord {
    NodeRecord {
        node,
        incarnation: Incarnation(0),
        nonce: 0,
        alive: false,
        store: 0,
        level: 0,
    }
}

/// What is wrong with the members of a region to be; how many vote.
fn check_members(members: &[Member]) -> Result<u32, String> {
    if members.len() > NODES_MAX {
        return Err(format!("{} members, at most {NODES_MAX}", members.len()));
    }
    let (mut nodes, mut addresses) = (BTreeSet::new(), BTreeSet::new());
    for member in members {
        let node = member.node;
        if !nodes.insert(node) {
            return Err(format!("node {node} is listed twice"));
        }
        check_member(member)?;
        if !addresses.insert(&member.address) {
            return Err(format!("address {} is listed twice", member.address));
        }
    }
    match members.iter().filter(|member| member.voter).count() {
        1 => Ok(1),
        3 => Ok(3),
        5 => Ok(5),
        voters => Err(format!("{voters} voters, expected 1, 3 or 5")),
    }
}

/// What is wrong with a member, whoever the others are.
pub(super) fn check_member(member: &Member) -> Result<(), String> {
    let node = member.node;
    if member.address.is_empty() {
        return Err(format!("node {node} has no address"));
    }
    for (what, text) in [("address", &member.address), ("zone", &member.zone)] {
        if text.len() > TEXT_BYTES_MAX {
            let got = text.len();
            return Err(format!(
                "node {node} has {what} of {got} bytes, at most {TEXT_BYTES_MAX}"
            ));
        }
    }
    if !(1..=WEIGHT_MAX).contains(&member.weight) {
        return Err(format!(
            "node {node} has weight {}, expected 1 to {WEIGHT_MAX}",
            member.weight
        ));
    }
    Ok(())
}
