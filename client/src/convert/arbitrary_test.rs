//! Arbitrary words, as the wire may carry them.

use kvmesh_directory::{
    BlockHash, BlockKey, BlockName, ChangeKind, ChangeOutcome, Checksum, Command, Copy, CopyNumber,
    Description, FeedPosition, Hlc, Incarnation, LogIncarnation, Member, Namespace, NamespaceId,
    NodeId, Outcome, Part, Policy, RegionId, RingEpoch, Topology,
    command::{BlockChange, Claim, Deletion, Refusal},
    namespace::{AckLevel, Fallback, ReplicationMode},
    state::{Entry, Head, NodeRecord, Tombstone, TombstoneFloor},
    view::MeshStep,
};
use proptest::{
    collection::{btree_set, vec},
    option,
    prelude::*,
};

pub(crate) fn region() -> impl Strategy<Value = RegionId> {
    "[a-z0-9-]{1,32}".prop_map(|name| name.parse().unwrap())
}

pub(crate) fn part() -> impl Strategy<Value = Part> {
    any::<(u16, u16)>().prop_map(|(shard, group)| Part { shard, group })
}

fn key() -> impl Strategy<Value = BlockKey> {
    (any::<[u8; 32]>(), part()).prop_map(|(hash, part)| BlockKey {
        hash: BlockHash(hash),
        part,
    })
}

pub(crate) fn name() -> impl Strategy<Value = BlockName> {
    (any::<[u8; 16]>(), key()).prop_map(|(id, key)| BlockName::new(NamespaceId(id), key))
}

pub(crate) fn copy() -> impl Strategy<Value = Copy> {
    any::<(u64, u64, u64)>().prop_map(|(node, incarnation, copy)| Copy {
        node: NodeId(node),
        incarnation: Incarnation(incarnation),
        copy: CopyNumber(copy),
    })
}

pub(crate) fn position() -> impl Strategy<Value = FeedPosition> {
    (region(), any::<(u64, u64)>()).prop_map(|(region, (log, index))| FeedPosition {
        region,
        log_incarnation: LogIncarnation(log),
        index,
    })
}

fn member() -> impl Strategy<Value = Member> {
    (any::<(u64, u32, bool)>(), "\\PC{0,20}", "\\PC{0,8}").prop_map(
        |((node, weight, voter), address, zone)| Member {
            node: NodeId(node),
            address,
            zone,
            weight,
            voter,
        },
    )
}

fn text() -> impl Strategy<Value = String> {
    "\\PC{0,12}"
}

pub(crate) fn description() -> impl Strategy<Value = Description> {
    let numbers = (1..=65_536_u32, 8..=64_u32, 1..=32_u32, 1..=32_u32);
    let rest = (vec(any::<u8>(), 0..20), vec(region(), 0..3));
    (("[a-z]{1,12}", text(), text(), text()), numbers, rest).prop_map(
        |((model, dtype, layout, tenant), numbers, (salt, mut residency))| {
            residency.sort();
            residency.dedup();
            let (block_tokens, hash_width, shard_count, group_count) = numbers;
            Description {
                model,
                dtype,
                layout,
                block_tokens,
                hash_width,
                short_hashes: hash_width < 16,
                shard_count,
                group_count,
                tenant,
                salt,
                residency,
            }
        },
    )
}

fn policy() -> impl Strategy<Value = Policy> {
    let ack = prop_oneof![
        Just(AckLevel::Memory),
        Just(AckLevel::Replicated),
        Just(AckLevel::Durable)
    ];
    let fallback = prop_oneof![
        Just(Fallback::WhenFaster),
        Just(Fallback::Always),
        Just(Fallback::Never)
    ];
    let replication = prop_oneof![
        Just(ReplicationMode::OnDemand),
        Just(ReplicationMode::Push),
        Just(ReplicationMode::Hot),
        Just(ReplicationMode::None)
    ];
    let numbers = (1..=8_u32, any::<u64>(), 0..=1_000_u32, any::<(bool, u32)>());
    let costs = (0.0..1e9_f64, 0.0..1e9_f64, 0.0..1e3_f64);
    let regions = (vec(region(), 0..3), 0..=100_u32);
    (ack, fallback, replication, numbers, costs, regions).prop_map(
        |(ack, fallback, replication, numbers, costs, (mut regions, hot_after))| {
            regions.sort();
            regions.dedup();
            let (prefill_rate, attention_growth, dollars_per_gpu_hour) = costs;
            let (replicas, ttl_ms, quota_permille, (lossy, prefetch_blocks)) = numbers;
            Policy {
                replicas,
                ack,
                ttl_ms,
                quota_permille,
                fallback,
                replication,
                lossy,
                prefetch_blocks,
                prefill_rate,
                attention_growth,
                dollars_per_gpu_hour,
                regions,
                hot_after,
            }
        },
    )
}

pub(crate) fn namespace() -> impl Strategy<Value = Namespace> {
    (
        text(),
        description(),
        policy(),
        any::<(u64, u64)>(),
        region(),
    )
        .prop_map(
            |(name, description, policy, (generation, policy_hlc), policy_region)| Namespace {
                id: description.id(),
                name,
                description,
                policy,
                generation: Hlc(generation),
                policy_hlc: Hlc(policy_hlc),
                policy_region,
            },
        )
}

fn claim() -> impl Strategy<Value = Claim> {
    let numbers = any::<(u64, [u8; 16], u32, u32, u32)>();
    (numbers, vec(copy(), 0..4)).prop_map(|(numbers, copies)| {
        let (put_hlc, checksum, bytes, depth, replicas) = numbers;
        Claim {
            put_hlc: Hlc(put_hlc),
            checksum: Checksum(checksum),
            bytes,
            depth,
            replicas,
            copies,
        }
    })
}

fn change() -> impl Strategy<Value = BlockChange> {
    let kind = prop_oneof![
        claim().prop_map(ChangeKind::Claim),
        copy().prop_map(ChangeKind::Evict),
        copy().prop_map(ChangeKind::Retract),
        copy().prop_map(ChangeKind::Release),
    ];
    (name(), kind).prop_map(|(name, kind)| BlockChange { name, kind })
}

fn deletion() -> impl Strategy<Value = Deletion> {
    (any::<[u8; 16]>(), vec(key(), 0..5), any::<u64>()).prop_map(|(id, keys, hlc)| Deletion {
        namespace: NamespaceId(id),
        keys,
        hlc: Hlc(hlc),
    })
}

fn raise() -> impl Strategy<Value = (NamespaceId, Hlc)> {
    any::<([u8; 16], u64)>().prop_map(|(id, hlc)| (NamespaceId(id), Hlc(hlc)))
}

pub(crate) fn command() -> impl Strategy<Value = Command> {
    let init = (region(), any::<(u64, u32)>(), vec(member(), 0..4)).prop_map(
        |(region, (log, feature_level), members)| Command::InitRegion {
            region,
            log_incarnation: LogIncarnation(log),
            members,
            feature_level,
        },
    );
    let effects = (
        position(),
        vec(namespace(), 0..3),
        vec(deletion(), 0..3),
        vec(raise(), 0..3),
    )
        .prop_map(
            |(position, namespaces, deletes, raises)| Command::RemoteEffects {
                position,
                namespaces,
                deletes,
                raises,
            },
        );
    prop_oneof![
        init,
        effects,
        any::<(u64, u64, u64, u32)>().prop_map(|(node, nonce, store, level)| {
            Command::BeginIncarnation {
                node: NodeId(node),
                nonce,
                store,
                level,
            }
        }),
        any::<u32>().prop_map(|level| Command::RaiseFeatureLevel { level }),
        member().prop_map(|member| Command::JoinNode { member }),
        any::<(u64, bool)>().prop_map(|(node, forget)| Command::LeaveNode {
            node: NodeId(node),
            forget,
        }),
        any::<u64>().prop_map(|epoch| Command::FinishMove {
            epoch: RingEpoch(epoch),
        }),
        any::<(u64, u64)>().prop_map(|(node, incarnation)| Command::MarkDead {
            node: NodeId(node),
            incarnation: Incarnation(incarnation),
        }),
        vec(change(), 0..6).prop_map(Command::Blocks),
        namespace().prop_map(Command::OpenNamespace),
        deletion().prop_map(Command::Delete),
        raise().prop_map(|(namespace, hlc)| Command::RaiseGeneration { namespace, hlc }),
        any::<u64>().prop_map(|up_to| Command::DropTombstones { up_to: Hlc(up_to) }),
    ]
}

fn refusal() -> impl Strategy<Value = Refusal> {
    prop_oneof![
        region().prop_map(Refusal::Initialised),
        Just(Refusal::NotInitialised),
        any::<u64>().prop_map(|node| Refusal::NotMember(NodeId(node))),
        (text(), vec(text(), 0..4)).prop_map(|(name, fields)| Refusal::NameTaken { name, fields }),
        (text(), any::<u32>()).prop_map(|(what, limit)| Refusal::Full {
            what,
            limit: limit as usize,
        }),
        any::<[u8; 16]>().prop_map(|id| Refusal::UnknownNamespace(NamespaceId(id))),
        Just(Refusal::Covered),
        text().prop_map(Refusal::Namespace),
        text().prop_map(Refusal::Members),
        text().prop_map(Refusal::Join),
        any::<u64>().prop_map(|epoch| Refusal::Moving(RingEpoch(epoch))),
        any::<u64>().prop_map(|node| Refusal::Gone(NodeId(node))),
        any::<u64>().prop_map(|node| Refusal::LastMember(NodeId(node))),
        any::<u64>().prop_map(|node| Refusal::StoreLost { node: NodeId(node) }),
        any::<(u64, u32, u32)>().prop_map(|(node, knows, level)| Refusal::LevelUnknown {
            node: NodeId(node),
            knows,
            level,
        }),
    ]
}

pub(crate) fn outcome() -> impl Strategy<Value = Outcome> {
    let change = prop_oneof![
        Just(ChangeOutcome::Accepted),
        Just(ChangeOutcome::Conflict),
        Just(ChangeOutcome::Deleted),
        Just(ChangeOutcome::Stale),
        Just(ChangeOutcome::UnknownNamespace),
    ];
    (
        vec(change, 0..6),
        option::of(1..u64::MAX),
        option::of(namespace()),
        any::<u32>(),
        option::of(refusal()),
    )
        .prop_map(
            |(changes, incarnation, namespace, deleted, refused)| Outcome {
                changes,
                incarnation: incarnation.map(Incarnation),
                namespace,
                deleted,
                refused,
            },
        )
}

pub(crate) fn entry() -> impl Strategy<Value = Entry> {
    let numbers = any::<(u64, [u8; 16], u32, u32, u32)>();
    (numbers, vec(copy(), 1..4)).prop_map(|(numbers, holders)| {
        let (put_hlc, checksum, bytes, depth, wanted) = numbers;
        Entry {
            put_hlc: Hlc(put_hlc),
            checksum: Checksum(checksum),
            bytes,
            depth,
            wanted,
            holders,
        }
    })
}

pub(crate) fn tombstone() -> impl Strategy<Value = Tombstone> {
    any::<(u64, u64)>().prop_map(|(hlc, index)| Tombstone {
        hlc: Hlc(hlc),
        index,
    })
}

fn topology() -> impl Strategy<Value = Topology> {
    (
        option::of(region()),
        any::<u64>(),
        vec(member(), 0..4),
        btree_set(any::<u64>(), 0..3),
        option::of(vec(member(), 0..4)),
        1..6_u32,
    )
        .prop_map(
            |(region, epoch, members, leaving, before, voters_wanted)| Topology {
                region,
                epoch: RingEpoch(epoch),
                members,
                leaving: leaving.into_iter().map(NodeId).collect(),
                before,
                voters_wanted,
            },
        )
}

pub(crate) fn head() -> impl Strategy<Value = Head> {
    let node =
        any::<((u64, u64, u64), bool, u64, u32)>().prop_map(|(numbers, alive, store, level)| {
            let (node, incarnation, nonce) = numbers;
            NodeRecord {
                node: NodeId(node),
                incarnation: Incarnation(incarnation),
                nonce,
                alive,
                store,
                level,
            }
        });
    (
        any::<(u64, u64, u32, u64, u64, u64, u64)>(),
        topology(),
        vec(option::of(node), 0..4),
        vec(namespace(), 0..3),
        vec(position(), 0..3),
    )
        .prop_map(|(numbers, topology, nodes, namespaces, remote_positions)| {
            let (applied_index, log, feature_level, index, hlc, hlc_max, gone) = numbers;
            Head {
                applied_index,
                log_incarnation: LogIncarnation(log),
                feature_level,
                topology,
                nodes,
                incarnations_gone: Incarnation(gone),
                namespaces,
                floor: TombstoneFloor {
                    index,
                    hlc: Hlc(hlc),
                },
                remote_positions,
                hlc_max: Hlc(hlc_max),
            }
        })
}

pub(crate) fn mesh_step() -> impl Strategy<Value = MeshStep> {
    (
        vec((name(), any::<u32>()), 0..4),
        vec(name(), 0..4),
        vec(namespace(), 0..2),
        vec(deletion(), 0..2),
        vec(raise(), 0..2),
    )
        .prop_map(
            |(appeared, vanished, namespaces, deletes, raises)| MeshStep {
                appeared,
                vanished,
                namespaces,
                deletes,
                raises,
            },
        )
}
