//! Random logs for property tests: few names, nodes and clocks, so that everything meets.

use proptest::{collection::vec, prelude::*};

use super::testing::{claim, copy, init, member, namespace, position, start};
use crate::{
    command::{BlockChange, ChangeKind, Command, Deletion},
    limits::FEATURE_LEVEL,
    namespace::Namespace,
    state::DirectoryState,
    words::{
        BlockHash, BlockKey, BlockName, Copy, Hlc, Incarnation, NodeId, Part, RegionId, RingEpoch,
    },
};

/// Blocks of one namespace.
pub(super) const BLOCKS: u8 = 6;

pub(super) fn namespace_of(number: u8) -> Namespace {
    namespace(&format!("model {number}"), &format!("name {}", number / 2))
}

pub(super) fn key_of(number: u8) -> BlockKey {
    let mut hash = [0; 32];
    hash[31] = number / 2;
    let part = Part {
        shard: u16::from(number % 2),
        group: 0,
    };
    BlockKey {
        hash: BlockHash(hash),
        part,
    }
}

pub(super) fn names() -> impl Strategy<Value = BlockName> {
    let names = (0..3_u8, 0..2 * BLOCKS);
    names.prop_map(|(space, block)| BlockName::new(namespace_of(space).id, key_of(block)))
}

fn clocks() -> impl Strategy<Value = u64> {
    1..60_u64
}

fn copies() -> impl Strategy<Value = Copy> {
    let incarnations = prop_oneof![6 => Just(1_u64), 2 => Just(2), 1 => 0..5_u64];
    (1..=6_u64, incarnations, 1..4_u64)
        .prop_map(|(node, incarnation, number)| copy(node, incarnation, number))
}

fn changes() -> impl Strategy<Value = BlockChange> {
    let content = prop_oneof![9 => Just("one"), 1 => Just("other")];
    let put = (names(), content, clocks(), vec(copies(), 0..4), 0..12_u32);
    let put = put.prop_map(|(name, content, hlc, copies, replicas)| {
        let mut change = claim(name, content, hlc, copies);
        if let ChangeKind::Claim(claim) = &mut change.kind {
            claim.replicas = replicas;
        }
        change
    });
    let gone = (names(), copies(), 0..3_u8).prop_map(|(name, copy, way)| BlockChange {
        name,
        kind: match way {
            0 => ChangeKind::Evict(copy),
            1 => ChangeKind::Retract(copy),
            _ => ChangeKind::Release(copy),
        },
    });
    prop_oneof![3 => put, 2 => gone]
}

fn namespaces() -> impl Strategy<Value = Namespace> {
    let regions = prop_oneof![Just("here"), Just("far")];
    let generations = prop_oneof![4 => Just(0_u64), 1 => clocks()];
    let fields = (0..4_u8, 0..5_u32, clocks(), regions, generations);
    fields.prop_map(|(number, replicas, hlc, region, generation)| {
        let mut namespace = namespace_of(number);
        namespace.policy.replicas = replicas;
        namespace.policy_hlc = Hlc(hlc);
        namespace.policy_region = region.parse::<RegionId>().unwrap();
        namespace.generation = Hlc(generation);
        namespace
    })
}

fn deletions() -> impl Strategy<Value = Deletion> {
    let blocks = vec(0..2 * BLOCKS, 0..4);
    (0..3_u8, blocks, clocks()).prop_map(|(space, blocks, hlc)| Deletion {
        namespace: namespace_of(space).id,
        keys: blocks.into_iter().map(key_of).collect(),
        hlc: Hlc(hlc),
    })
}

/// Of nodes that are members and of some that are not, with and without their Raft store.
fn starts() -> impl Strategy<Value = Command> {
    let stores = prop_oneof![4 => Just(0_u64), 1 => 1..3_u64];
    let levels = prop_oneof![8 => Just(FEATURE_LEVEL + 1), 1 => FEATURE_LEVEL - 1..=FEATURE_LEVEL];
    (1..=6_u64, 0..4_u64, stores, levels).prop_map(|(node, nonce, store, level)| {
        Command::BeginIncarnation {
            node: NodeId(node),
            nonce,
            store,
            level,
        }
    })
}

fn ring_changes() -> impl Strategy<Value = Command> {
    let join = (1..=7_u64, 1..3_u32, any::<bool>());
    prop_oneof![
        2 => join.prop_map(|(node, weight, voter)| Command::JoinNode {
            member: crate::Member { weight, voter, ..member(node) },
        }),
        3 => (1..=7_u64, 0..2_u8).prop_map(|(node, way)| Command::LeaveNode {
            node: NodeId(node),
            forget: way == 0,
        }),
        // `logs` puts the epoch of the moment in the place of 0.
        5 => Just(Command::FinishMove { epoch: RingEpoch(0) }),
    ]
}

pub(super) fn commands() -> impl Strategy<Value = Command> {
    let remote = (
        (
            prop_oneof![Just("far"), Just("near"), Just("here")],
            1..3_u64,
            1..40_u64,
        ),
        vec(namespaces(), 0..2),
        vec(deletions(), 0..2),
        vec((0..4_u8, clocks()), 0..2),
    );
    let remote = remote.prop_map(|((from, log, index), namespaces, deletes, raises)| {
        let raises = raises.into_iter();
        Command::RemoteEffects {
            position: position(from, log, index),
            namespaces,
            deletes,
            raises: raises
                .map(|(space, hlc)| (namespace_of(space).id, Hlc(hlc)))
                .collect(),
        }
    });
    prop_oneof![
        1 => Just(init()),
        4 => starts(),
        12 => ring_changes(),
        2 => (1..=6_u64, 0..4_u64).prop_map(|(node, incarnation)| Command::MarkDead {
            node: NodeId(node),
            incarnation: Incarnation(incarnation),
        }),
        24 => vec(changes(), 0..8).prop_map(Command::Blocks),
        4 => namespaces().prop_map(Command::OpenNamespace),
        4 => deletions().prop_map(Command::Delete),
        1 => (0..4_u8, clocks()).prop_map(|(space, hlc)| Command::RaiseGeneration {
            namespace: namespace_of(space).id,
            hlc: Hlc(hlc / 2),
        }),
        1 => (FEATURE_LEVEL - 1..=FEATURE_LEVEL + 1)
            .prop_map(|level| Command::RaiseFeatureLevel { level }),
        1 => clocks().prop_map(|hlc| Command::DropTombstones { up_to: Hlc(hlc / 2) }),
        2 => remote,
    ]
}

/// A log whose region is soon there, with its nodes started.
pub(super) fn logs() -> impl Strategy<Value = Vec<Command>> {
    let opening = vec(prop_oneof![8 => Just(true), 1 => Just(false)], 8);
    (opening, vec(commands(), 1..80)).prop_map(|(kept, rest)| {
        let mut log = vec![init()];
        log.extend((1..=4).map(|node| start(node, 0)));
        log.extend((0..3).map(|number| Command::OpenNamespace(namespace_of(number))));
        let mut kept = kept.into_iter();
        log.retain(|_| kept.next().unwrap_or(true));
        log.extend(rest);
        aimed(log)
    })
}

fn aimed(mut log: Vec<Command>) -> Vec<Command> {
    let mut state = DirectoryState::empty();
    for (command, index) in log.iter_mut().zip(1..) {
        if let Command::FinishMove { epoch } = command
            && epoch.0 == 0
        {
            *epoch = state.topology().epoch;
        }
        state.apply(index, command);
    }
    log
}
