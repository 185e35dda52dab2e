//! Two regions that follow one another: whatever either does or tries, nothing of a namespace
//! reaches the region that its residency does not name, by steps or by snapshots.

use proptest::prelude::*;

use super::{MeshStep, mesh_blocks, mesh_namespaces, mesh_tombstones};
use crate::{
    BlockHash, BlockKey, BlockName, ChangeKind, Checksum, Command, Copy, CopyNumber, Description,
    DirectoryState, FeedPosition, Hlc, Incarnation, LogIncarnation, Member, Namespace, NamespaceId,
    NodeId, Part, Policy, RegionId,
    command::{BlockChange, Claim, Deletion, Event},
    residency,
};

const REGIONS: [&str; 2] = ["eu", "us"];
/// The last one is of neither region.
const RESIDENCIES: [&[&str]; 5] = [&[], &["eu"], &["us"], &["eu", "us"], &["ap"]];

#[derive(Debug, Clone)]
enum Act {
    Open(u8),
    Put(u8, u8),
    Evict(u8, u8),
    Delete(u8, u8),
    Raise(u8),
    /// The other region hears all that is new.
    Follow,
    /// The other region begins with a snapshot.
    Snapshot,
    /// The other region claims to have opened, deleted and raised something.
    Lie(u8, u8),
}

fn act() -> impl Strategy<Value = (usize, Act)> {
    let space = || 0..RESIDENCIES.len() as u8;
    let act = prop_oneof![
        3 => space().prop_map(Act::Open),
        6 => (space(), 0..4_u8).prop_map(|(space, key)| Act::Put(space, key)),
        2 => (space(), 0..4_u8).prop_map(|(space, key)| Act::Evict(space, key)),
        2 => (space(), 0..4_u8).prop_map(|(space, key)| Act::Delete(space, key)),
        1 => space().prop_map(Act::Raise),
        4 => Just(Act::Follow),
        2 => Just(Act::Snapshot),
        3 => (space(), 0..4_u8).prop_map(|(space, key)| Act::Lie(space, key)),
    ];
    (0..2_usize, act)
}

fn region(at: usize) -> RegionId {
    REGIONS[at].parse().unwrap()
}

fn namespace(space: u8, hlc: u64) -> Namespace {
    let residency = RESIDENCIES[usize::from(space)].iter();
    let description = Description {
        model: format!("m{space}"),
        dtype: "bf16".into(),
        layout: "nhd".into(),
        block_tokens: 16,
        hash_width: 32,
        short_hashes: false,
        shard_count: 1,
        group_count: 1,
        tenant: "t".into(),
        salt: Vec::new(),
        residency: residency.map(|name| name.parse().unwrap()).collect(),
    };
    Namespace {
        id: description.id(),
        name: format!("n{space}"),
        description,
        policy: Policy::default(),
        generation: Hlc(0),
        policy_hlc: Hlc(hlc),
        policy_region: region(0),
    }
}

fn key(number: u8) -> BlockKey {
    BlockKey {
        hash: BlockHash([number; 32]),
        part: Part::default(),
    }
}

fn deletion(space: u8, number: u8, hlc: u64) -> Deletion {
    Deletion {
        namespace: namespace(space, 0).id,
        keys: vec![key(number)],
        hlc: Hlc(hlc),
    }
}

/// Whether a region may know of a namespace.
fn may(space: u8, at: usize) -> bool {
    let residency = RESIDENCIES[usize::from(space)];
    residency.is_empty() || residency.contains(&REGIONS[at])
}

fn hidden(at: usize) -> Vec<NamespaceId> {
    let spaces = (0..RESIDENCIES.len() as u8).filter(|&space| !may(space, at));
    spaces.map(|space| namespace(space, 0).id).collect()
}

/// A region, and what it has not told the other one yet.
struct Side {
    at: usize,
    state: DirectoryState,
    untold: Vec<Vec<Event>>,
    copies: u64,
}

impl Side {
    fn new(at: usize) -> Self {
        let mut side = Self {
            at,
            state: DirectoryState::empty(),
            untold: Vec::new(),
            copies: 0,
        };
        side.commit(Command::InitRegion {
            region: region(at),
            log_incarnation: LogIncarnation(5),
            members: vec![Member {
                node: NodeId(1),
                address: "127.0.0.1:1".to_owned(),
                zone: String::new(),
                weight: 1,
                voter: true,
            }],
            feature_level: 1,
        });
        side.commit(Command::BeginIncarnation {
            node: NodeId(1),
            nonce: 0,
            store: 0,
            level: crate::limits::FEATURE_LEVEL,
        });
        side
    }

    /// As a node does: what may not come in is refused or left out, the rest is applied.
    fn commit(&mut self, command: Command) {
        let index = self.state.applied_index() + 1;
        if let Ok(command) = residency::admitted(command, &self.state) {
            self.untold.push(self.state.apply(index, &command).1);
        }
    }

    fn now(&self) -> u64 {
        10 + self.state.applied_index()
    }

    fn put(&mut self, space: u8, number: u8) {
        self.copies += 1;
        let claim = Claim {
            put_hlc: Hlc(self.now()),
            checksum: Checksum([number; 16]),
            bytes: 100,
            depth: 0,
            replicas: 1,
            copies: vec![Copy {
                node: NodeId(1),
                incarnation: Incarnation(1),
                copy: CopyNumber(self.copies),
            }],
        };
        self.change(space, number, ChangeKind::Claim(claim));
    }

    fn change(&mut self, space: u8, number: u8, kind: ChangeKind) {
        let name = BlockName::new(namespace(space, 0).id, key(number));
        self.commit(Command::Blocks(vec![BlockChange { name, kind }]));
    }

    fn evict(&mut self, space: u8, number: u8) {
        let name = BlockName::new(namespace(space, 0).id, key(number));
        let entry = self.state.entry(&name);
        let copies: Vec<Copy> = entry
            .into_iter()
            .flat_map(|it| it.holders.to_vec())
            .collect();
        for copy in copies {
            self.change(space, number, ChangeKind::Evict(copy));
        }
    }

    /// All that the other region hears of what is new.
    fn told(&mut self) -> Vec<MeshStep> {
        let other = region(1 - self.at);
        let untold = std::mem::take(&mut self.untold);
        let steps = untold.iter();
        steps
            .map(|events| MeshStep::project(events, &self.state, &other))
            .collect()
    }

    fn snapshot(&self) -> MeshStep {
        let other = region(1 - self.at);
        MeshStep {
            appeared: mesh_blocks(&self.state, &other).collect(),
            vanished: Vec::new(),
            namespaces: mesh_namespaces(&self.state, &other).cloned().collect(),
            deletes: mesh_tombstones(&self.state, &other)
                .map(|(name, tombstone)| Deletion {
                    namespace: name.namespace,
                    keys: vec![name.key()],
                    hlc: tombstone.hlc,
                })
                .collect(),
            raises: Vec::new(),
        }
    }

    /// Takes over what the other region said, which must say nothing that is not for it.
    fn hear(&mut self, step: MeshStep) {
        let hidden = hidden(self.at);
        let names = step.appeared.iter().map(|(name, _)| name.namespace);
        let ids = names
            .chain(step.vanished.iter().map(|name| name.namespace))
            .chain(step.namespaces.iter().map(|namespace| namespace.id))
            .chain(step.deletes.iter().map(|deletion| deletion.namespace))
            .chain(step.raises.iter().map(|(id, _)| *id));
        for id in ids {
            assert!(!hidden.contains(&id), "{} heard of {id}", REGIONS[self.at]);
        }
        self.carry(step.namespaces, step.deletes, step.raises);
    }

    fn carry(
        &mut self,
        namespaces: Vec<Namespace>,
        deletes: Vec<Deletion>,
        raises: Vec<(NamespaceId, Hlc)>,
    ) {
        let position = FeedPosition {
            region: region(1 - self.at),
            log_incarnation: LogIncarnation(5),
            index: self.now(),
        };
        self.commit(Command::RemoteEffects {
            position,
            namespaces,
            deletes,
            raises,
        });
    }

    /// Says what it must not, of a namespace that is not for both.
    fn lied_to(&mut self, space: u8, number: u8) {
        let both = may(space, 0) && may(space, 1);
        let before = self.seen(space, number);
        let hlc = self.now();
        self.carry(
            vec![namespace(space, hlc)],
            vec![deletion(space, number, hlc)],
            vec![(namespace(space, 0).id, Hlc(hlc))],
        );
        assert!(both || self.seen(space, number) == before);
    }

    fn seen(&self, space: u8, number: u8) -> impl PartialEq + use<> {
        let id = namespace(space, 0).id;
        let name = BlockName::new(id, key(number));
        let tombstone = self.state.tombstone(&name).map(|it| it.hlc);
        (
            self.state.namespace(id).cloned(),
            tombstone,
            self.state.entry(&name).is_some(),
        )
    }

    fn holds_nothing_hidden(&self) {
        let hidden = hidden(self.at);
        let names = self.state.entries().map(|(name, _)| name.namespace);
        let deleted = self.state.tombstones().map(|(name, _)| name.namespace);
        let known = self.state.namespaces().map(|namespace| namespace.id);
        for id in names.chain(deleted).chain(known) {
            assert!(!hidden.contains(&id), "{} has {id}", REGIONS[self.at]);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn crossing_feeds_tell_nothing_beyond_a_residency(
        acts in proptest::collection::vec(act(), 1..60),
    ) {
        let mut sides = [Side::new(0), Side::new(1)];
        for (at, act) in acts {
            let side = &mut sides[at];
            let now = side.now();
            match act {
                Act::Open(space) => side.commit(Command::OpenNamespace(namespace(space, now))),
                // A namespace that is not known is claimed in vain.
                Act::Put(space, key) => side.put(space, key),
                Act::Evict(space, key) => side.evict(space, key),
                Act::Delete(space, key) if side.state.namespace(namespace(space, 0).id).is_some() => {
                    side.commit(Command::Delete(deletion(space, key, now)));
                }
                Act::Delete(..) => {}
                Act::Raise(space) => side.commit(Command::RaiseGeneration {
                    namespace: namespace(space, 0).id,
                    hlc: Hlc(now),
                }),
                Act::Follow => {
                    for step in side.told() {
                        sides[1 - at].hear(step);
                    }
                }
                Act::Snapshot => {
                    let snapshot = side.snapshot();
                    sides[1 - at].hear(snapshot);
                }
                Act::Lie(space, key) => sides[1 - at].lied_to(space, key),
            }
            sides.iter().for_each(Side::holds_nothing_hidden);
        }
    }
}
