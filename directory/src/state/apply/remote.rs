//! Taking over what other regions did.

use crate::{
    command::{Deletion, Event, Refusal},
    limits::REGIONS_MAX,
    namespace::Namespace,
    state::DirectoryState,
    words::{FeedPosition, Hlc, NamespaceId},
};

/// What another region did.
type Effects<'a> = (&'a [Namespace], &'a [Deletion], &'a [(NamespaceId, Hlc)]);

impl DirectoryState {
    /// Refuses what is covered already, and what comes from this region itself.
    pub(super) fn check_remote(&self, position: &FeedPosition) -> Result<(), Refusal> {
        let known = self.remote_position(&position.region);
        let covered = known.is_some_and(|known| known.covers(position));
        if covered || self.region() == Some(&position.region) {
            return Err(Refusal::Covered);
        }
        if known.is_none() && self.remote_positions.len() >= REGIONS_MAX {
            return Err(Refusal::Full {
                what: "other regions".to_owned(),
                limit: REGIONS_MAX,
            });
        }
        Ok(())
    }

    /// Namespaces first: the rest is about them. What is about a namespace that is still
    /// not known here is left out: nothing of it can be here.
    pub(super) fn take_over(
        &mut self,
        index: u64,
        (namespaces, deletes, raises): Effects<'_>,
        events: &mut Vec<Event>,
    ) {
        for namespace in namespaces {
            self.take_over_namespace(namespace, events);
        }
        for deletion in deletes {
            if self.namespace(deletion.namespace).is_some() {
                self.delete_names(index, deletion, events);
            }
        }
        for (namespace, hlc) in raises {
            if self.namespace(*namespace).is_some() {
                self.see(*hlc);
                self.raise(*namespace, *hlc, events);
            }
        }
    }
}
