//! `apply`: one command, one step. Total and deterministic; a refused command leaves
//! the state as it was, but for the applied index.
//!
//! One file per family of commands. Each checks first and changes after.

mod blocks;
mod deletes;
mod membership;
mod namespaces;
mod remote;
mod ring_change;

use crate::{
    command::{Command, Event, Outcome, Refusal},
    state::DirectoryState,
};

impl DirectoryState {
    /// Applies the command at a log index. Total and deterministic: no clock, no randomness, no IO.
    pub fn apply(&mut self, index: u64, command: &Command) -> (Outcome, Vec<Event>) {
        let mut events = Vec::new();
        let applied = self.apply_command(index, command, &mut events);
        self.advance(index);
        match applied {
            Ok(outcome) => (outcome, events),
            Err(refusal) => {
                debug_assert!(events.is_empty(), "a refused command changes nothing");
                let refused = Some(refusal);
                let outcome = Outcome {
                    refused,
                    ..Outcome::default()
                };
                (outcome, Vec::new())
            }
        }
    }

    fn apply_command(
        &mut self,
        index: u64,
        command: &Command,
        events: &mut Vec<Event>,
    ) -> Result<Outcome, Refusal> {
        if self.topology.region.is_none() && !matches!(command, Command::InitRegion { .. }) {
            return Err(Refusal::NotInitialised);
        }
        match command {
            Command::InitRegion {
                region,
                log_incarnation,
                members,
                feature_level,
            } => self.init_region(region, *log_incarnation, members, *feature_level, events),
            Command::BeginIncarnation {
                node,
                nonce,
                store,
                level,
            } => self.begin_incarnation(*node, *nonce, *store, *level, events),
            Command::MarkDead { node, incarnation } => self.mark_dead(*node, *incarnation, events),
            Command::JoinNode { member } => self.join_node(member, events),
            Command::LeaveNode { node, forget } => self.leave_node(*node, *forget, events),
            Command::FinishMove { epoch } => Ok(self.finish_move(*epoch, events)),
            Command::Blocks(changes) => Ok(self.change_blocks(changes, events)),
            Command::OpenNamespace(namespace) => self.open_namespace(namespace, events),
            Command::Delete(deletion) => self.delete(index, deletion, events),
            Command::RaiseGeneration { namespace, hlc } => {
                self.raise_generation(*namespace, *hlc, events)
            }
            Command::RaiseFeatureLevel { level } => self.raise_feature_level(*level),
            Command::DropTombstones { up_to } => {
                self.tombstones.drop_up_to(*up_to);
                Ok(Outcome::default())
            }
            Command::RemoteEffects {
                position,
                namespaces,
                deletes,
                raises,
            } => {
                self.check_remote(position)?;
                self.take_over(index, (namespaces, deletes, raises), events);
                self.remote_positions
                    .insert(position.region.clone(), position.clone());
                Ok(Outcome::default())
            }
        }
    }
}
