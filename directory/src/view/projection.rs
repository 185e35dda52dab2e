//! What another region may see of a directory: names and objects of the namespaces whose
//! residency allows it. A namespace that is not known is denied.

use std::collections::BTreeMap;

use crate::{
    command::{Deletion, Event},
    namespace::Namespace,
    state::{DirectoryState, Tombstone},
    words::{BlockName, Hlc, NamespaceId, RegionId},
};

/// What one applied command means to another region. Positions advance also when it is empty.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct MeshStep {
    /// Blocks that have their first copy, with their size; ascending by name.
    pub appeared: Vec<(BlockName, u32)>,
    /// Blocks whose last copy went; ascending by name, none of them in `appeared`.
    pub vanished: Vec<BlockName>,
    /// Opened or changed.
    pub namespaces: Vec<Namespace>,
    /// Deleted names.
    pub deletes: Vec<Deletion>,
    /// Raised generations.
    pub raises: Vec<(NamespaceId, Hlc)>,
}

/// One name's way through a step.
struct Passage {
    /// It was present before the step.
    was: bool,
    /// Its size when it is present after.
    is: Option<u32>,
}

impl MeshStep {
    /// The events of one command as `follower` may see them: a namespace whose residency
    /// does not name the follower, or that is not known, is left out. What appears and
    /// vanishes in one step is not mentioned.
    #[must_use]
    pub fn project(events: &[Event], state: &DirectoryState, follower: &RegionId) -> Self {
        let mut step = Self::default();
        let mut passages: BTreeMap<BlockName, Passage> = BTreeMap::new();
        let mut gate = Gate::new(state, follower);
        for event in events {
            match event {
                Event::Appeared { name, bytes } if gate.admits(name.namespace) => {
                    let first = Passage {
                        was: false,
                        is: None,
                    };
                    passages.entry(*name).or_insert(first).is = Some(*bytes);
                }
                Event::Vanished { name } if gate.admits(name.namespace) => {
                    let first = Passage {
                        was: true,
                        is: None,
                    };
                    passages.entry(*name).or_insert(first).is = None;
                }
                Event::Namespace(namespace) if namespace.description.resides_in(follower) => {
                    step.namespaces.push(namespace.clone());
                }
                Event::Deleted(deletion) if gate.admits(deletion.namespace) => {
                    step.deletes.push(deletion.clone());
                }
                Event::Raised {
                    namespace,
                    generation,
                } if gate.admits(*namespace) => step.raises.push((*namespace, *generation)),
                _ => {}
            }
        }
        for (name, passage) in passages {
            match passage.is {
                Some(bytes) => step.appeared.push((name, bytes)),
                None if passage.was => step.vanished.push(name),
                None => {}
            }
        }
        step
    }

    /// Whether it says nothing but that time went on.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.appeared.is_empty()
            && self.vanished.is_empty()
            && self.namespaces.is_empty()
            && self.deletes.is_empty()
            && self.raises.is_empty()
    }
}

/// Blocks that `follower` may know of, in key order, with their sizes: a snapshot of what
/// the `MESH` feed tells it.
pub fn mesh_blocks<'a>(
    state: &'a DirectoryState,
    follower: &'a RegionId,
) -> impl Iterator<Item = (BlockName, u32)> + 'a {
    let mut gate = Gate::new(state, follower);
    let entries = state.entries();
    entries
        .filter(move |(name, _)| gate.admits(name.namespace))
        .map(|(name, entry)| (name, entry.bytes))
}

/// Namespaces that `follower` may know of, ascending by id.
pub fn mesh_namespaces<'a>(
    state: &'a DirectoryState,
    follower: &'a RegionId,
) -> impl Iterator<Item = &'a Namespace> + 'a {
    let namespaces = state.namespaces();
    namespaces.filter(|namespace| namespace.description.resides_in(follower))
}

/// Tombstones that `follower` may know of, in key order.
pub fn mesh_tombstones<'a>(
    state: &'a DirectoryState,
    follower: &'a RegionId,
) -> impl Iterator<Item = (BlockName, Tombstone)> + 'a {
    let mut gate = Gate::new(state, follower);
    let tombstones = state.tombstones();
    tombstones.filter(move |(name, _)| gate.admits(name.namespace))
}

/// Answers for namespace ids, remembering the last one: names come in key order.
pub(super) struct Gate<'a> {
    state: &'a DirectoryState,
    follower: &'a RegionId,
    last: Option<(NamespaceId, bool)>,
}

impl<'a> Gate<'a> {
    pub(super) fn new(state: &'a DirectoryState, follower: &'a RegionId) -> Self {
        Self {
            state,
            follower,
            last: None,
        }
    }

    pub(super) fn admits(&mut self, id: NamespaceId) -> bool {
        match self.last {
            Some((last, admitted)) if last == id => admitted,
            _ => {
                let namespace = self.state.namespace(id);
                let admitted = namespace
                    .is_some_and(|namespace| namespace.description.resides_in(self.follower));
                self.last = Some((id, admitted));
                admitted
            }
        }
    }
}
