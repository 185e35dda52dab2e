//! What another region did for good, and which commands carry it over. Pure.

use std::collections::{BTreeMap, BTreeSet};

use kvmesh_directory::{
    BlockKey, BlockName, Command, DirectoryState, FeedPosition, Hlc, Namespace, NamespaceId,
    RegionId, command::Deletion, limits::DELETE_NAMES_MAX, state::Tombstone, view::MeshStep,
};

/// Namespaces of one entry; at a thousand bytes each they fill an eighth of a message.
const ENTRY_NAMESPACES_MAX: usize = 1_024;

/// What another region did for good.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Effects {
    /// Opened or changed.
    pub(crate) namespaces: Vec<Namespace>,
    /// Deleted names.
    pub(crate) deletes: Vec<Deletion>,
    /// Raised generations.
    pub(crate) raises: Vec<(NamespaceId, Hlc)>,
}

impl Effects {
    /// Those of a step, and what the step says about blocks.
    pub(crate) fn of_step(step: MeshStep) -> (Self, Vec<(BlockName, u32)>, Vec<BlockName>) {
        let effects = Self {
            namespaces: step.namespaces,
            deletes: step.deletes,
            raises: step.raises,
        };
        (effects, step.appeared, step.vanished)
    }

    /// Of a snapshot: one deletion for all names that were deleted at one moment.
    pub(crate) fn of_snapshot(
        namespaces: Vec<Namespace>,
        tombstones: Vec<(BlockName, Tombstone)>,
    ) -> Self {
        let mut moments: BTreeMap<(NamespaceId, Hlc), Vec<BlockKey>> = BTreeMap::new();
        for (name, tombstone) in tombstones {
            let moment = (name.namespace, tombstone.hlc);
            moments.entry(moment).or_default().push(name.key());
        }
        let deletes = moments
            .into_iter()
            .map(|((namespace, hlc), keys)| Deletion {
                namespace,
                keys,
                hlc,
            });
        Self {
            deletes: deletes.collect(),
            raises: Vec::new(),
            namespaces,
        }
    }

    /// Whether there is nothing to carry over.
    pub(crate) fn is_empty(&self) -> bool {
        self.namespaces.is_empty() && self.deletes.is_empty() && self.raises.is_empty()
    }

    /// How much there is: names and objects.
    pub(crate) fn weight(&self) -> usize {
        let names: usize = self
            .deletes
            .iter()
            .map(|deletion| deletion.keys.len())
            .sum();
        names + self.namespaces.len() + self.raises.len()
    }

    /// Adds later ones.
    pub(crate) fn extend(&mut self, later: &Effects) {
        self.namespaces.extend_from_slice(&later.namespaces);
        self.deletes.extend_from_slice(&later.deletes);
        self.raises.extend_from_slice(&later.raises);
    }

    /// Leaves out what is about namespaces that one of the two regions may not know of. The
    /// sender does as well; neither relies on the other.
    fn keep_shared(&mut self, from: &RegionId, home: &DirectoryState) {
        let own = home.region().cloned();
        let both = |namespace: &Namespace| {
            let resides = |region: &RegionId| namespace.description.resides_in(region);
            resides(from) && own.as_ref().is_some_and(resides)
        };
        self.namespaces.retain(both);
        let opened = &self.namespaces;
        let known = |id: NamespaceId| {
            let opened = opened.iter().find(|opened| opened.id == id);
            opened.or_else(|| home.namespace(id)).is_some_and(both)
        };
        self.deletes.retain(|deletion| known(deletion.namespace));
        self.raises.retain(|(id, _)| known(*id));
    }

    /// What `home` lacks of what `from` may tell it: nothing else is proposed.
    pub(crate) fn lacking(&self, from: &RegionId, home: &DirectoryState) -> Effects {
        let mut lacking = self.newer_than(home);
        lacking.keep_shared(from, home);
        lacking
    }

    /// What is newer than what `home` has.
    fn newer_than(&self, home: &DirectoryState) -> Effects {
        let newer = |theirs: &&Namespace| {
            home.namespace(theirs.id).is_none_or(|ours| {
                let (their_writer, our_writer) = (
                    (theirs.policy_hlc, &theirs.policy_region),
                    (ours.policy_hlc, &ours.policy_region),
                );
                their_writer > our_writer || theirs.generation > ours.generation
            })
        };
        let namespaces: Vec<Namespace> = self.namespaces.iter().filter(newer).cloned().collect();
        let opened: BTreeSet<NamespaceId> = namespaces.iter().map(|opened| opened.id).collect();
        // About a namespace that nobody opened there is nothing to delete.
        let known = |id: NamespaceId| opened.contains(&id) || home.namespace(id).is_some();
        let deletes = self.deletes.iter().filter(|theirs| known(theirs.namespace));
        let raised = |id: NamespaceId, hlc: Hlc| {
            let ours = home.namespace(id).map(|ours| ours.generation);
            known(id) && ours.is_none_or(|ours| hlc > ours)
        };
        let raises = self.raises.iter().filter(|(id, hlc)| raised(*id, *hlc));
        Effects {
            deletes: deletes
                .filter_map(|theirs| newer_keys(theirs, home))
                .collect(),
            raises: raises.copied().collect(),
            namespaces,
        }
    }
}

/// The names that a deletion deletes further than `home` has deleted them.
fn newer_keys(theirs: &Deletion, home: &DirectoryState) -> Option<Deletion> {
    let floor = home.floor().hlc;
    let generation = home.namespace(theirs.namespace).map(|ours| ours.generation);
    if generation.is_some_and(|generation| generation >= theirs.hlc) {
        return None;
    }
    let newer = |key: &&BlockKey| {
        let name = BlockName::new(theirs.namespace, **key);
        let ours = home.tombstone(&name);
        // What fell below the floor was forgotten on purpose; only what is still there goes.
        let forgotten = ours.is_none() && theirs.hlc <= floor;
        let present = || {
            home.entry(&name)
                .is_some_and(|entry| entry.put_hlc <= theirs.hlc)
        };
        ours.is_none_or(|ours| ours.hlc < theirs.hlc) && (!forgotten || present())
    };
    let keys: Vec<BlockKey> = theirs.keys.iter().filter(newer).copied().collect();
    (!keys.is_empty()).then_some(Deletion { keys, ..*theirs })
}

/// The commands that carry effects over to `home`, in order; none when it has them all.
///
/// As a rule one command, effects and position together. What does not fit into one entry
/// goes ahead as commands of its own, which are harmless to repeat, and only the last
/// command has the position: the position never covers what is not committed.
pub(crate) fn plan(
    effects: &Effects,
    position: &FeedPosition,
    home: &DirectoryState,
) -> Vec<Command> {
    let known = home.remote_position(&position.region);
    if known.is_some_and(|known| known.covers(position)) {
        return Vec::new();
    }
    let mut rest = effects.lacking(&position.region, home);
    if rest.is_empty() {
        return Vec::new();
    }
    let mut commands = Vec::new();
    let mut deletes = in_entries(rest.deletes);
    rest.deletes = deletes.pop().unwrap_or_default();
    if !deletes.is_empty() || rest.namespaces.len() > ENTRY_NAMESPACES_MAX {
        let namespaces = rest.namespaces.drain(..);
        commands.extend(namespaces.map(|theirs| Command::OpenNamespace(free_alias(theirs, home))));
    }
    commands.extend(deletes.into_iter().flatten().map(Command::Delete));
    commands.push(Command::RemoteEffects {
        position: position.clone(),
        namespaces: rest.namespaces,
        deletes: rest.deletes,
        raises: rest.raises,
    });
    commands
}

/// As [`plan`], and also where the position is committed already: what was lost all the same is
/// then proposed without it.
pub(crate) fn plan_again(
    effects: &Effects,
    position: &FeedPosition,
    home: &DirectoryState,
) -> Vec<Command> {
    let known = home.remote_position(&position.region);
    if known.is_none_or(|known| !known.covers(position)) {
        return plan(effects, position, home);
    }
    let rest = effects.lacking(&position.region, home);
    let namespaces = rest.namespaces.into_iter();
    let opened = namespaces.map(|theirs| Command::OpenNamespace(free_alias(theirs, home)));
    let deletes = in_entries(rest.deletes).into_iter().flatten();
    let raises = rest.raises.into_iter();
    opened
        .chain(deletes.map(Command::Delete))
        .chain(raises.map(|(namespace, hlc)| Command::RaiseGeneration { namespace, hlc }))
        .collect()
}

/// Opened on its own, a namespace whose alias is taken would be refused: it then goes without.
fn free_alias(theirs: Namespace, home: &DirectoryState) -> Namespace {
    let taken = home
        .namespace_named(&theirs.name)
        .is_some_and(|ours| ours.id != theirs.id);
    let name = if taken { String::new() } else { theirs.name };
    Namespace { name, ..theirs }
}

/// Splits deletions so that each group has at most as many names as one command may.
fn in_entries(deletes: Vec<Deletion>) -> Vec<Vec<Deletion>> {
    let (mut entries, mut entry, mut names) = (Vec::new(), Vec::new(), 0);
    for deletion in deletes {
        for keys in deletion.keys.chunks(DELETE_NAMES_MAX) {
            if names + keys.len() > DELETE_NAMES_MAX {
                entries.push(std::mem::take(&mut entry));
                names = 0;
            }
            names += keys.len();
            let keys = keys.to_vec();
            entry.push(Deletion { keys, ..deletion });
        }
    }
    if !entry.is_empty() {
        entries.push(entry);
    }
    entries
}
