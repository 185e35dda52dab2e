//! What a peer's feed said and is not yet shown to gateways. Pure.
//!
//! Invariant: changes are shown in the order of the feed, and one that has effects, or
//! follows one that has, only once those effects are committed at home. So whoever waits
//! for a position of the peer also sees what was deleted up to it.

use std::collections::VecDeque;

use kvmesh_client::follow::MeshEvent;
use kvmesh_directory::{
    BlockName, FeedPosition, Namespace, Tag, limits::DELETE_NAMES_MAX, state::Tombstone,
};

use crate::effects::Effects;

/// Tags, names and steps that wait, at most; then the feed is not read on.
pub(crate) const BACKLOG_MAX: usize = 1 << 20;

/// A change of one region's tags, as gateways are shown it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Tags {
    /// All that there are.
    Whole(Vec<(Tag, u32)>),
    /// One indivisible step.
    Step {
        /// With the size of the block.
        appeared: Vec<(Tag, u32)>,
        /// No longer there.
        vanished: Vec<Tag>,
    },
}

/// One change and where it leads.
#[derive(Debug, PartialEq)]
pub(crate) struct Change {
    pub(crate) position: FeedPosition,
    pub(crate) tags: Tags,
    effects: Effects,
}

impl Change {
    fn weight(&self) -> usize {
        let tags = match &self.tags {
            Tags::Whole(tags) => tags.len(),
            Tags::Step { appeared, vanished } => appeared.len() + vanished.len(),
        };
        1 + tags + self.effects.weight()
    }

    fn is_heartbeat(&self) -> bool {
        self.weight() == 1 && matches!(self.tags, Tags::Step { .. })
    }
}

/// Effects that wait to be committed, and what they cover.
#[derive(Debug, PartialEq)]
pub(crate) struct Batch {
    pub(crate) effects: Effects,
    pub(crate) position: FeedPosition,
    changes: usize,
}

impl Batch {
    /// Of what a feed left out.
    pub(crate) fn left_out(effects: Effects, position: FeedPosition) -> Self {
        Self {
            effects,
            position,
            changes: 0,
        }
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Backlog {
    waiting: VecDeque<Change>,
    weight: usize,
    snapshot: Option<Snapshot>,
}

/// A snapshot that is on its way. As large as the peer's directory, at most.
#[derive(Debug, Default)]
struct Snapshot {
    tags: Vec<(Tag, u32)>,
    namespaces: Vec<Namespace>,
    tombstones: Vec<(BlockName, Tombstone)>,
}

impl Backlog {
    /// Takes what the feed said.
    pub(crate) fn take(&mut self, event: MeshEvent) {
        match event {
            MeshEvent::SnapshotBegin => self.snapshot = Some(Snapshot::default()),
            MeshEvent::Snapshot {
                blocks,
                namespaces,
                tombstones,
            } => {
                let snapshot = self.snapshot.get_or_insert_default();
                snapshot.tags.extend(blocks.iter().map(tag_of));
                snapshot.namespaces.extend(namespaces);
                snapshot.tombstones.extend(tombstones);
            }
            MeshEvent::SnapshotEnd(position) => {
                let whole = self.snapshot.take().unwrap_or_default();
                self.push(Change {
                    position,
                    tags: Tags::Whole(whole.tags),
                    effects: Effects::of_snapshot(whole.namespaces, whole.tombstones),
                });
            }
            MeshEvent::Step(position, step) => {
                let (effects, appeared, vanished) = Effects::of_step(step);
                let tags = Tags::Step {
                    appeared: appeared.iter().map(tag_of).collect(),
                    vanished: vanished.iter().map(BlockName::tag).collect(),
                };
                self.push(Change {
                    position,
                    tags,
                    effects,
                });
            }
            MeshEvent::Heartbeat(position) => self.heartbeat(position),
        }
    }

    fn heartbeat(&mut self, position: FeedPosition) {
        if let Some(last) = self.waiting.back_mut()
            && last.is_heartbeat()
        {
            last.position = position;
            return;
        }
        self.push(Change {
            position,
            tags: Tags::Step {
                appeared: Vec::new(),
                vanished: Vec::new(),
            },
            effects: Effects::default(),
        });
    }

    fn push(&mut self, change: Change) {
        self.weight += change.weight();
        self.waiting.push_back(change);
    }

    fn pop(&mut self) -> Option<Change> {
        let change = self.waiting.pop_front()?;
        self.weight -= change.weight();
        Some(change)
    }

    /// Whether the feed should not be read on for now.
    pub(crate) fn is_full(&self) -> bool {
        self.weight >= BACKLOG_MAX
    }

    /// The next change, when nothing has to be committed before it is shown.
    pub(crate) fn next_free(&mut self) -> Option<Change> {
        let free = self.waiting.front()?.effects.is_empty();
        if free { self.pop() } else { None }
    }

    /// What is to be committed next: the effects of the first changes, about as many as one entry carries.
    /// The changes stay until [`Self::committed`].
    pub(crate) fn next_batch(&self) -> Option<Batch> {
        let first = self.waiting.front()?;
        let mut batch = Batch {
            effects: first.effects.clone(),
            position: first.position.clone(),
            changes: 1,
        };
        for change in self.waiting.iter().skip(1) {
            let weight = batch.effects.weight() + change.effects.weight();
            let same_log = change.position.log_incarnation == batch.position.log_incarnation;
            if weight > DELETE_NAMES_MAX || !same_log {
                break;
            }
            batch.effects.extend(&change.effects);
            batch.position = change.position.clone();
            batch.changes += 1;
        }
        Some(batch)
    }

    /// The changes of a batch that is committed now, to be shown.
    pub(crate) fn committed(&mut self, batch: &Batch) -> Vec<Change> {
        (0..batch.changes).filter_map(|_| self.pop()).collect()
    }
}

fn tag_of((name, bytes): &(BlockName, u32)) -> (Tag, u32) {
    (name.tag(), *bytes)
}
