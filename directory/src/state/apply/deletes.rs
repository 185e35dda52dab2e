//! Deleting names.

use std::collections::BTreeSet;

use crate::{
    command::{Deletion, Event, Outcome, Refusal},
    state::DirectoryState,
    words::{BlockKey, BlockName},
};

impl DirectoryState {
    pub(super) fn delete(
        &mut self,
        index: u64,
        deletion: &Deletion,
        events: &mut Vec<Event>,
    ) -> Result<Outcome, Refusal> {
        if self.namespace(deletion.namespace).is_none() {
            return Err(Refusal::UnknownNamespace(deletion.namespace));
        }
        Ok(Outcome {
            deleted: self.delete_names(index, deletion, events),
            ..Outcome::default()
        })
    }

    /// How many blocks went. The event names only what changed here: what was known
    /// already must not travel between regions for ever.
    pub(super) fn delete_names(
        &mut self,
        index: u64,
        deletion: &Deletion,
        events: &mut Vec<Event>,
    ) -> u32 {
        self.see(deletion.hlc);
        let mut changed = Vec::new();
        let mut removed = BTreeSet::<BlockKey>::new();
        for &key in &deletion.keys {
            let name = BlockName::new(deletion.namespace, key);
            if self.tombstones.raise(name, deletion.hlc, index) {
                changed.push(key);
            }
            let row = self.blocks.get(&name);
            if row.is_some_and(|row| row.put_hlc <= deletion.hlc) {
                removed.insert(key);
                self.remove_block(name, events);
            }
        }
        self.tombstones.trim();
        // A tombstone that is forgotten at once is not news either.
        changed.retain(|key| {
            let name = BlockName::new(deletion.namespace, *key);
            removed.contains(key) || self.tombstones.get(&name).is_some()
        });
        if !changed.is_empty() {
            events.push(Event::Deleted(Deletion {
                keys: changed,
                ..*deletion
            }));
        }
        u32::try_from(removed.len()).unwrap_or(u32::MAX)
    }
}
