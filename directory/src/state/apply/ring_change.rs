//! Nodes that join and leave, and the end of what they set off.
//!
//! One change of the ring at a time: the next one waits until blocks have moved, but for
//! nodes that are lost for good.

use std::sync::Arc;

use super::membership::{check_member, unborn};
use crate::{
    command::{Event, Outcome, Refusal},
    limits::NODES_MAX,
    state::DirectoryState,
    topology::{Member, Topology},
    words::{NodeId, RingEpoch},
};

/// How many members may be to vote.
const VOTERS: [u32; 3] = [1, 3, 5];

impl DirectoryState {
    pub(super) fn join_node(
        &mut self,
        member: &Member,
        events: &mut Vec<Event>,
    ) -> Result<Outcome, Refusal> {
        if self.is_same_member(member) {
            return Ok(Outcome::default());
        }
        let topology = self.topology();
        if topology.is_moving() {
            return Err(Refusal::Moving(topology.epoch));
        }
        self.check_joining(member)?;
        let voters = topology.voters() as u32;
        let mut member = member.clone();
        let mut wanted = topology.voters_wanted;
        if member.voter && voters >= wanted {
            let next = VOTERS.into_iter().find(|count| *count > voters);
            wanted = next.ok_or_else(|| {
                let why = format!("{voters} members vote already: join without voting");
                Refusal::Join(why)
            })?;
        }
        member.voter |= voters < wanted;

        let place = topology.members.partition_point(|it| it.node < member.node);
        Arc::make_mut(&mut self.nodes).add(unborn(member.node));
        self.change_ring(events, |topology| {
            topology.members.insert(place, member);
            topology.voters_wanted = wanted;
        });
        Ok(Outcome::default())
    }

    /// A proposal may be committed twice, and a node may ask again.
    fn is_same_member(&self, member: &Member) -> bool {
        let topology = self.topology();
        let same = |known: &Member| {
            let Member { voter, .. } = *known;
            (voter || !member.voter)
                && *known
                    == Member {
                        voter,
                        ..member.clone()
                    }
        };
        topology.member(member.node).is_some_and(same) && !topology.leaving.contains(&member.node)
    }

    fn check_joining(&self, member: &Member) -> Result<(), Refusal> {
        let topology = self.topology();
        let node = member.node;
        if node.0 == 0 {
            return Err(Refusal::Join("node numbers begin at 1".to_owned()));
        }
        if let Some(known) = topology.member(node) {
            let address = &known.address;
            let why = format!("number {node} belongs to the member at {address}: use another one");
            return Err(Refusal::Join(why));
        }
        let mut others = topology.members.iter();
        if let Some(other) = others.find(|other| other.address == member.address) {
            let (address, other) = (&member.address, other.node);
            let why = format!("address {address} belongs to member {other}: use another one");
            return Err(Refusal::Join(why));
        }
        check_member(member).map_err(Refusal::Join)?;
        if topology.members.len() >= NODES_MAX {
            let (what, limit) = ("members".to_owned(), NODES_MAX);
            return Err(Refusal::Full { what, limit });
        }
        Ok(())
    }

    pub(super) fn leave_node(
        &mut self,
        node: NodeId,
        forget: bool,
        events: &mut Vec<Event>,
    ) -> Result<Outcome, Refusal> {
        let record = self.node(node).ok_or(Refusal::NotMember(node))?;
        let alive = record.alive;
        let topology = self.topology();
        let leaving = topology.leaving.contains(&node);
        if !forget && leaving {
            return Ok(Outcome::default());
        }
        if !topology.staying().any(|other| other.node != node) {
            return Err(Refusal::LastMember(node));
        }
        if !forget && !alive {
            return Err(Refusal::Gone(node));
        }
        if !forget && topology.is_moving() {
            return Err(Refusal::Moving(topology.epoch));
        }
        let leave = |topology: &mut Topology| {
            topology.leaving.insert(node);
            if let Some(place) = topology.place_of(node) {
                topology.members[place].voter = false;
            }
        };
        match leaving {
            // It is not on the ring any more.
            true => leave(Arc::make_mut(&mut self.topology)),
            false => self.change_ring(events, leave),
        }
        self.fill_voters();
        if forget {
            self.remove_node(node, events);
        }
        Ok(Outcome::default())
    }

    /// Changes who is on the ring. A second change while blocks move leaves no ring that
    /// says where they were.
    fn change_ring(&mut self, events: &mut Vec<Event>, change: impl FnOnce(&mut Topology)) {
        let topology = Arc::make_mut(&mut self.topology);
        let before = match topology.is_moving() {
            true => Vec::new(),
            false => topology.staying().cloned().collect(),
        };
        change(topology);
        topology.before = Some(before);
        topology.epoch = RingEpoch(topology.epoch.0 + 1);
        events.push(Event::EpochChanged(topology.epoch));
    }

    /// While too few members are to vote, the living one of the lowest number becomes one.
    pub(super) fn fill_voters(&mut self) {
        let nodes = Arc::clone(&self.nodes);
        let topology = Arc::make_mut(&mut self.topology);
        while topology.voters() < topology.voters_wanted as usize {
            let Topology {
                members, leaving, ..
            } = topology;
            let alive = |node| nodes.get(node).is_some_and(|record| record.alive);
            let next = members.iter_mut().find(|member| {
                !member.voter && !leaving.contains(&member.node) && alive(member.node)
            });
            match next {
                Some(member) => member.voter = true,
                None => return,
            }
        }
    }

    /// What it held is lost.
    fn remove_node(&mut self, node: NodeId, events: &mut Vec<Event>) {
        let topology = Arc::make_mut(&mut self.topology);
        topology.leaving.remove(&node);
        topology.members.retain(|member| member.node != node);
        events.push(Event::NodeRemoved(node));
        let (Some(slot), Some(record)) = (self.slot(node), self.node(node)) else {
            return;
        };
        self.incarnations_gone = self.incarnations_gone.max(record.incarnation);
        self.lose_copies(slot, events);
        Arc::make_mut(&mut self.nodes).free(slot);
    }

    /// Only once nothing is left to move: whoever proposed it may have looked too early.
    pub(super) fn finish_move(&mut self, epoch: RingEpoch, events: &mut Vec<Event>) -> Outcome {
        let topology = self.topology();
        let leaving: Vec<NodeId> = topology.leaving.iter().copied().collect();
        let slots = leaving.iter().filter_map(|node| self.slot(*node));
        let current = topology.is_moving() && topology.epoch == epoch;
        if !current || slots.into_iter().any(|slot| self.blocks.any_of(slot)) {
            return Outcome::default();
        }
        Arc::make_mut(&mut self.topology).before = None;
        for node in leaving {
            self.remove_node(node, events);
        }
        events.push(Event::MoveFinished(epoch));
        Outcome::default()
    }
}
