//! What holds for any log.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use proptest::prelude::*;

use super::random::{key_of, logs, namespace_of};
use crate::{
    command::{Command, Event},
    limits::{FEATURE_LEVEL, SHARD_ENTRIES_MAX},
    state::{DirectoryState, Stats},
    topology::Member,
    words::{BlockHash, BlockName, Hlc, NamespaceId, Part},
};

fn replay(log: &[Command]) -> DirectoryState {
    let mut state = DirectoryState::empty();
    for (at, command) in log.iter().enumerate() {
        state.apply(at as u64 + 1, command);
    }
    state
}

/// Through a snapshot, in another order.
fn restored(state: &DirectoryState) -> DirectoryState {
    let mut entries: Vec<_> = state.entries().collect();
    let mut tombstones: Vec<_> = state.tombstones().collect();
    entries.reverse();
    tombstones.reverse();
    DirectoryState::restore(state.head(), entries, tombstones)
}

fn recount(state: &DirectoryState) -> Stats {
    let mut stats = Stats {
        tombstones: state.tombstones().count() as u64,
        namespaces: state.namespaces().count() as u64,
        ..Stats::default()
    };
    for (_, entry) in state.entries() {
        stats.blocks += 1;
        stats.copies += entry.holders.len() as u64;
        stats.bytes += u64::from(entry.bytes);
        stats.under_replicated += u64::from(entry.holders.len() < entry.wanted as usize);
    }
    stats
}

/// What holds after every command.
fn check_invariants(state: &DirectoryState) {
    assert_eq!(state.stats(), recount(state));
    let mut lacking = Vec::new();
    for (name, entry) in state.entries() {
        assert_eq!(state.entry(&name).as_ref(), Some(&entry));
        assert!(state.visible(&name, entry.put_hlc), "an entry is visible");
        assert!(!entry.holders.is_empty() && (1..=8).contains(&entry.wanted));
        assert!(entry.holders.is_sorted_by(|a, b| a.node < b.node));
        for copy in &entry.holders {
            let record = state.node(copy.node).unwrap();
            assert!(record.alive && record.incarnation == copy.incarnation);
        }
        if entry.holders.len() < entry.wanted as usize {
            lacking.push(name);
        }
    }
    check_members(state);
    assert!(state.entries().is_sorted_by(|a, b| a.0 < b.0));
    assert!(state.tombstones().is_sorted_by(|a, b| a.0 < b.0));
    assert!(state.under_replicated(None).eq(lacking));
    assert!(
        state
            .blocks
            .shard_lens()
            .iter()
            .all(|len| (1..=SHARD_ENTRIES_MAX).contains(len))
    );
    for namespace in state.namespaces() {
        assert_eq!(state.namespace_named(&namespace.name), Some(namespace));
    }
}

fn check_members(state: &DirectoryState) {
    let topology = state.topology();
    let records = state.nodes().map(|record| record.node);
    let members = topology.members.iter().map(|member| member.node);
    assert!(members.eq(records), "every member has a record");
    assert!(topology.members.is_sorted_by(|a, b| a.node < b.node));
    for node in &topology.leaving {
        assert!(
            !topology.member(*node).unwrap().voter,
            "who leaves does not vote"
        );
        assert!(topology.is_moving());
    }
    assert!(topology.region.is_none() || topology.staying().count() > 0);
    assert!(topology.voters() <= topology.voters_wanted as usize);
    let mut staying = topology.staying();
    assert!(
        topology.voters() == topology.voters_wanted as usize
            || staying.any(|it| it.voter)
            || staying.all(|it| !state.node(it.node).unwrap().alive),
        "someone votes while anyone lives"
    );
}

/// The epoch rises exactly when the ring changes, by one, and no incarnation comes twice.
fn check_ring(
    before: &DirectoryState,
    state: &DirectoryState,
    events: &[Event],
    begun: &mut BTreeSet<(u64, u64)>,
) {
    let placing = |member: &Member| (member.node, member.zone.clone(), member.weight);
    let ring =
        |state: &DirectoryState| -> Vec<_> { state.topology().staying().map(placing).collect() };
    let changed = u64::from(ring(before) != ring(state));
    let (was, is) = (before.topology(), state.topology());
    assert_eq!(is.epoch.0, was.epoch.0 + changed);
    let said = events
        .iter()
        .any(|event| matches!(event, Event::EpochChanged(_)));
    assert_eq!(said, changed == 1);
    for event in events {
        if let Event::IncarnationBegan { node, incarnation } = event {
            assert!(
                begun.insert((node.0, incarnation.0)),
                "incarnations are new"
            );
        }
    }
}

/// Events say which blocks come and go, and which copies are to be dropped.
fn check_events(state: &DirectoryState, events: &[Event], present: &mut BTreeSet<BlockName>) {
    let mut dropped = HashSet::new();
    for event in events {
        match event {
            Event::Appeared { name, .. } => assert!(present.insert(*name), "appears once"),
            Event::Vanished { name } => assert!(present.remove(name), "vanishes once"),
            Event::Dropped { name, copy } => {
                dropped.insert((*name, *copy));
            }
            Event::Claimed { name, copy, .. } => {
                dropped.remove(&(*name, *copy));
            }
            _ => {}
        }
    }
    let names = state.entries().map(|(name, _)| name);
    assert!(names.eq(present.iter().copied()));
    for (name, copy) in dropped {
        let entry = state.entry(&name);
        assert!(entry.is_none_or(|entry| !entry.holders.contains(&copy)));
    }
}

/// The clocks up to which names and namespaces are deleted, kept apart from the state.
#[derive(Default)]
struct Graves {
    names: BTreeMap<BlockName, Hlc>,
    spaces: BTreeMap<NamespaceId, Hlc>,
}

impl Graves {
    fn note(&mut self, events: &[Event], command: &Command) {
        for event in events {
            match event {
                Event::Deleted(deletion) => {
                    for key in &deletion.keys {
                        let name = BlockName::new(deletion.namespace, *key);
                        let clock = self.names.entry(name).or_default();
                        *clock = deletion.hlc.max(*clock);
                    }
                }
                Event::Raised {
                    namespace,
                    generation,
                } => {
                    self.spaces.insert(*namespace, *generation);
                }
                _ => {}
            }
        }
        if let Command::DropTombstones { up_to } = command {
            self.names.retain(|_, clock| *clock > *up_to);
        }
    }

    fn check(&self, state: &DirectoryState) {
        for (name, entry) in state.entries() {
            assert!(
                self.names
                    .get(&name)
                    .is_none_or(|clock| entry.put_hlc > *clock)
            );
            assert!(
                self.spaces
                    .get(&name.namespace)
                    .is_none_or(|clock| entry.put_hlc > *clock)
            );
        }
        let tombstones = state
            .tombstones()
            .map(|(name, tombstone)| (name, tombstone.hlc));
        assert!(tombstones.eq(self.names.iter().map(|(name, clock)| (*name, *clock))));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn every_step_keeps_what_must_hold(log in logs()) {
        let mut state = DirectoryState::empty();
        let (mut present, mut graves) = (BTreeSet::new(), Graves::default());
        let mut begun = BTreeSet::new();
        for (at, command) in log.iter().enumerate() {
            let before = state.clone();
            let (outcome, events) = state.apply(at as u64 + 1, command);
            check_ring(&before, &state, &events, &mut begun);
            if outcome.refused.is_some() {
                let mut same = before;
                same.advance(at as u64 + 1);
                assert!(events.is_empty() && same == state, "a refused command changes nothing");
            }
            check_invariants(&state);
            check_events(&state, &events, &mut present);
            graves.note(&events, command);
            graves.check(&state);
        }
    }

    #[test]
    fn replicas_of_one_log_are_equal(log in logs(), cut in any::<prop::sample::Index>()) {
        let cut = cut.index(log.len());
        let mut straight = replay(&log[..cut]);
        let frozen = straight.clone();
        let mut other = restored(&frozen);
        for (at, command) in log.iter().enumerate().skip(cut) {
            let index = at as u64 + 1;
            assert_eq!(straight.apply(index, command), other.apply(index, command));
        }
        assert_eq!(straight, other);
        assert_eq!(straight, restored(&straight));
        assert_eq!(frozen, replay(&log[..cut]), "a frozen clone does not change");
    }

    /// An object that is not newer must not travel between regions for ever.
    #[test]
    fn what_is_known_makes_no_events(log in logs()) {
        let mut state = replay(&log);
        let mut index = log.len() as u64;
        for command in log.iter().rev().take(20) {
            let mut command = command.clone();
            if let Command::RemoteEffects { position, .. } = &mut command {
                position.index += 1_000 + index;
            }
            let quiet = matches!(command, Command::RemoteEffects { .. } | Command::Delete(_)
                | Command::OpenNamespace(_) | Command::RaiseGeneration { .. });
            if quiet {
                index += 1;
                state.apply(index, &command);
                index += 1;
                if let Command::RemoteEffects { position, .. } = &mut command {
                    position.index += 1;
                }
                assert_eq!(state.apply(index, &command).1, []);
            }
        }
    }

    #[test]
    fn a_run_ends_at_the_first_hole_of_any_part(
        log in logs(),
        hashes in prop::collection::vec(0..7_u8, 0..6),
        shards in 0..3_u16,
    ) {
        let state = replay(&log);
        let hashes: Vec<BlockHash> = hashes.into_iter().map(|n| key_of(n * 2).hash).collect();
        let parts: Vec<Part> = (0..shards).map(|shard| Part { shard, group: 0 }).collect();
        for number in 0..4 {
            let namespace = namespace_of(number).id;
            let mut expected = (0, 0);
            'hashes: for hash in &hashes {
                let mut bytes = 0;
                for part in &parts {
                    let name = BlockName { namespace, hash: *hash, part: *part };
                    let Some(entry) = state.entry(&name) else { break 'hashes };
                    bytes += u64::from(entry.bytes);
                }
                expected = (expected.0 + 1, expected.1 + bytes);
            }
            assert_eq!(state.run(namespace, &hashes, &parts), expected);
        }
    }
}

/// Random logs must not all be refused, or the tests above show nothing.
#[test]
fn random_logs_are_not_dull() {
    use proptest::{strategy::ValueTree, test_runner::TestRunner};
    let mut runner = TestRunner::deterministic();
    let (mut stats, mut kinds) = (Stats::default(), BTreeSet::new());
    let (mut rings, mut finished, mut removed, mut risen) = (0, 0, 0, 0);
    for _ in 0..40 {
        let log = logs().new_tree(&mut runner).unwrap().current();
        let mut state = DirectoryState::empty();
        for (at, command) in log.iter().enumerate() {
            let (outcome, events) = state.apply(at as u64 + 1, command);
            kinds.extend(outcome.changes.iter().map(|change| format!("{change:?}")));
            for event in events {
                rings += u32::from(matches!(event, Event::EpochChanged(_)));
                finished += u32::from(matches!(event, Event::MoveFinished(_)));
                removed += u32::from(matches!(event, Event::NodeRemoved(_)));
            }
        }
        risen += u32::from(state.feature_level() > FEATURE_LEVEL);
        stats.blocks += state.stats().blocks;
        stats.tombstones += state.stats().tombstones;
        stats.under_replicated += state.stats().under_replicated;
    }
    assert_eq!(kinds.len(), 5, "{kinds:?}");
    assert!(
        stats.blocks > 80 && stats.tombstones > 80 && stats.under_replicated > 10,
        "{stats:?}"
    );
    assert!(
        rings > 80 && finished > 15 && removed > 15 && risen > 0,
        "{rings} {finished} {removed} {risen}"
    );
}
