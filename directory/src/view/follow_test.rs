//! Whatever is dropped, repeated or resumed, who follows a feed ends with what the
//! region has: all of it inside of the region, the projection in another one.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::{
    Digest, Followed, MeshStep, MeshView, RegionView, mesh_blocks, mesh_namespaces, mesh_tombstones,
};
use crate::{
    BlockHash, BlockKey, BlockName, ChangeKind, Checksum, Command, Copy, CopyNumber, Description,
    DirectoryState, FeedPosition, Hlc, Incarnation, LogIncarnation, Member, Namespace, NamespaceId,
    NodeId, Part, Policy, RegionId,
    command::{BlockChange, Claim, Deletion},
};

const HOME: &str = "us";
pub(super) const FAR: &str = "eu";
/// Who may know of each namespace.
const RESIDENCIES: [&[&str]; 3] = [&[], &["eu", "us"], &["us"]];

/// One thing that happens; numbers choose among few of each.
#[derive(Debug, Clone)]
pub(super) enum Act {
    /// The region commits a command: this and the next ones.
    Begin(u64),
    Dead(u64),
    Join(u64),
    Leave(u64, bool),
    Finish,
    Claim {
        names: Vec<(u8, u8)>,
        hlc: u64,
    },
    Evict(u8, u8),
    Open(u8, u64),
    Delete {
        names: Vec<(u8, u8)>,
        hlc: u64,
    },
    Raise(u8, u64),
    Forget(u64),
    Remote {
        delete: (u8, u8),
        hlc: u64,
    },
    Nothing,
    /// Followers get so many frames.
    Deliver(u8),
    /// Connections end; the new ones begin so many steps before the followers' positions.
    Reconnect(u8),
    /// Followers begin anew with a snapshot; the connection may end halfway.
    Snapshot {
        whole: bool,
    },
}

pub(super) fn act() -> impl Strategy<Value = Act> {
    let name = || (0..3_u8, 0..6_u8);
    let names = || proptest::collection::vec(name(), 1..4);
    let hlc = || 1..40_u64;
    prop_oneof![
        2 => (1..6_u64).prop_map(Act::Begin),
        1 => (1..6_u64).prop_map(Act::Dead),
        1 => (1..6_u64).prop_map(Act::Join),
        1 => (1..6_u64, any::<bool>()).prop_map(|(node, forget)| Act::Leave(node, forget)),
        1 => Just(Act::Finish),
        8 => (names(), hlc()).prop_map(|(names, hlc)| Act::Claim { names, hlc }),
        4 => name().prop_map(|(space, hash)| Act::Evict(space, hash)),
        2 => (0..3_u8, hlc()).prop_map(|(space, hlc)| Act::Open(space, hlc)),
        2 => (names(), hlc()).prop_map(|(names, hlc)| Act::Delete { names, hlc }),
        1 => (0..3_u8, 1..20_u64).prop_map(|(space, hlc)| Act::Raise(space, hlc)),
        1 => hlc().prop_map(Act::Forget),
        1 => (name(), hlc()).prop_map(|(delete, hlc)| Act::Remote { delete, hlc }),
        1 => Just(Act::Nothing),
        6 => (1..6_u8).prop_map(Act::Deliver),
        2 => (0..4_u8).prop_map(Act::Reconnect),
        1 => any::<bool>().prop_map(|whole| Act::Snapshot { whole }),
    ]
}

fn namespace(number: u8, hlc: u64) -> Namespace {
    let residency = RESIDENCIES[usize::from(number)].iter();
    let description = Description {
        model: format!("m{number}"),
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
        name: format!("n{number}"),
        description,
        policy: Policy {
            ttl_ms: hlc,
            ..Policy::default()
        },
        generation: Hlc(0),
        policy_hlc: Hlc(hlc),
        policy_region: HOME.parse().unwrap(),
    }
}

fn name((space, hash): (u8, u8)) -> BlockName {
    BlockName::new(namespace(space, 0).id, key(hash))
}

fn key(hash: u8) -> BlockKey {
    BlockKey {
        hash: BlockHash([hash; 32]),
        part: Part::default(),
    }
}

fn member(node: u64) -> Member {
    Member {
        node: NodeId(node),
        address: format!("127.0.0.1:{node}"),
        zone: String::new(),
        weight: 1,
        voter: true,
    }
}

/// A region, its log, and what its feeds said at each index.
pub(super) struct Region {
    pub(super) state: DirectoryState,
    log: Vec<Option<Command>>,
    mesh: Vec<MeshStep>,
    copies: u64,
}

impl Region {
    pub(super) fn new() -> Self {
        let mut region = Self {
            state: DirectoryState::empty(),
            log: vec![],
            mesh: vec![],
            copies: 0,
        };
        region.commit(Some(Command::InitRegion {
            region: HOME.parse().unwrap(),
            log_incarnation: LogIncarnation(5),
            members: (1..4).map(member).collect(),
            feature_level: 1,
        }));
        for number in 0..3 {
            region.commit(Some(Command::OpenNamespace(namespace(number, 0))));
            let node = NodeId(u64::from(number) + 1);
            region.commit(Some(Command::BeginIncarnation {
                node,
                nonce: 0,
                store: 0,
                level: crate::limits::FEATURE_LEVEL,
            }));
        }
        region
    }

    pub(super) fn commit(&mut self, command: Option<Command>) {
        let index = self.log.len() as u64 + 1;
        let events = match &command {
            Some(command) => self.state.apply(index, command).1,
            None => {
                self.state.advance(index);
                Vec::new()
            }
        };
        let step = MeshStep::project(&events, &self.state, &FAR.parse().unwrap());
        self.log.push(command);
        self.mesh.push(step);
    }

    fn incarnation(&self, node: NodeId) -> Incarnation {
        let record = self.state.node(node);
        record.map_or(Incarnation(0), |record| record.incarnation)
    }

    fn claim(&mut self, at: (u8, u8), hlc: u64) -> BlockChange {
        let holders = (1..6).filter(|node| (u64::from(at.1) + hlc) % 3 != node % 3);
        let mut copies = Vec::new();
        for node in holders.map(NodeId) {
            self.copies += 1;
            copies.push(Copy {
                node,
                incarnation: self.incarnation(node),
                copy: CopyNumber(self.copies),
            });
        }
        BlockChange {
            name: name(at),
            kind: ChangeKind::Claim(Claim {
                put_hlc: Hlc(hlc),
                checksum: Checksum([at.1; 16]),
                bytes: 100 + hlc as u32,
                depth: u32::from(at.1),
                replicas: 2,
                copies,
            }),
        }
    }

    fn deletion(names: &[(u8, u8)], hlc: u64) -> Deletion {
        let space = names[0].0;
        Deletion {
            namespace: namespace(space, 0).id,
            keys: names.iter().map(|(_, hash)| key(*hash)).collect(),
            hlc: Hlc(hlc),
        }
    }

    pub(super) fn command(&mut self, act: &Act) -> Option<Command> {
        let command = match act {
            Act::Begin(node) => Command::BeginIncarnation {
                node: NodeId(*node),
                nonce: self.log.len() as u64,
                store: 0,
                level: crate::limits::FEATURE_LEVEL,
            },
            Act::Join(node) => Command::JoinNode {
                member: member(*node),
            },
            Act::Leave(node, forget) => Command::LeaveNode {
                node: NodeId(*node),
                forget: *forget,
            },
            Act::Finish => Command::FinishMove {
                epoch: self.state.topology().epoch,
            },
            Act::Dead(node) => Command::MarkDead {
                node: NodeId(*node),
                incarnation: self.incarnation(NodeId(*node)),
            },
            Act::Claim { names, hlc } => {
                Command::Blocks(names.iter().map(|at| self.claim(*at, *hlc)).collect())
            }
            Act::Evict(space, hash) => {
                let name = name((*space, *hash));
                let holders = self.state.entry(&name).map(|entry| entry.holders);
                let evict = |copy| BlockChange {
                    name,
                    kind: ChangeKind::Evict(copy),
                };
                Command::Blocks(holders.into_iter().flatten().map(evict).collect())
            }
            Act::Open(space, hlc) => Command::OpenNamespace(namespace(*space, *hlc)),
            Act::Delete { names, hlc } => Command::Delete(Self::deletion(names, *hlc)),
            Act::Raise(space, hlc) => Command::RaiseGeneration {
                namespace: namespace(*space, 0).id,
                hlc: Hlc(*hlc),
            },
            Act::Forget(hlc) => Command::DropTombstones { up_to: Hlc(*hlc) },
            Act::Remote { delete, hlc } => Command::RemoteEffects {
                position: FeedPosition {
                    region: FAR.parse().unwrap(),
                    log_incarnation: LogIncarnation(9),
                    index: self.log.len() as u64,
                },
                namespaces: vec![namespace(delete.0, *hlc)],
                deletes: vec![Self::deletion(&[*delete], *hlc)],
                raises: vec![],
            },
            _ => return None,
        };
        Some(command)
    }
}

/// Follows the `REGION` feed.
struct Inside {
    view: RegionView,
    next: u64,
}

impl Inside {
    fn deliver(&mut self, region: &Region) {
        let Some(command) = region.log.get(self.next as usize - 1) else {
            return;
        };
        let known = self.view.state().applied_index();
        let want_gap = self.next > known + 1;
        match self.view.step(self.next, command.as_ref()) {
            Followed::Applied(_) => assert_eq!(self.next, known + 1),
            Followed::Repeated => assert!(self.next <= known),
            Followed::Gap => assert!(want_gap),
        }
        self.next = if want_gap { known + 1 } else { self.next + 1 };
    }
}

/// Follows the `MESH` feed.
struct Afar {
    view: MeshView,
    namespaces: BTreeMap<NamespaceId, Namespace>,
    deleted: BTreeMap<BlockName, Hlc>,
    next: u64,
}

impl Afar {
    fn position(&self) -> u64 {
        self.view
            .position(&HOME.parse().unwrap())
            .map_or(0, |position| position.index)
    }

    fn deliver(&mut self, region: &Region) {
        let Some(step) = region.mesh.get(self.next as usize - 1) else {
            return;
        };
        let position = FeedPosition {
            index: self.next,
            ..region.state.position().unwrap()
        };
        let appeared: Vec<_> = step
            .appeared
            .iter()
            .map(|(name, bytes)| (name.tag(), *bytes))
            .collect();
        let vanished: Vec<_> = step.vanished.iter().map(BlockName::tag).collect();
        let home: RegionId = HOME.parse().unwrap();
        if self.next > self.position() {
            for namespace in &step.namespaces {
                self.namespaces.insert(namespace.id, namespace.clone());
            }
            for (id, generation) in &step.raises {
                let known = &mut self.namespaces.get_mut(id).unwrap().generation;
                *known = (*known).max(*generation);
            }
            for deletion in &step.deletes {
                for key in &deletion.keys {
                    self.note_deleted(BlockName::new(deletion.namespace, *key), deletion.hlc);
                }
            }
        }
        self.view.step(&home, &appeared, &vanished, Some(position));
        self.next += 1;
    }

    fn note_deleted(&mut self, name: BlockName, hlc: Hlc) {
        let known = self.deleted.entry(name).or_default();
        *known = (*known).max(hlc);
    }

    /// Begins anew; when it is not whole, the connection ends after the first chunk.
    fn snapshot(&mut self, region: &Region, whole: bool) {
        let (home, far): (RegionId, RegionId) = (HOME.parse().unwrap(), FAR.parse().unwrap());
        self.view.reset(&home);
        let mut blocks = mesh_blocks(&region.state, &far).map(|(name, bytes)| (name.tag(), bytes));
        loop {
            let chunk: Vec<_> = blocks.by_ref().take(3).collect();
            if chunk.is_empty() {
                break;
            }
            self.view.step(&home, &chunk, &[], None);
            if !whole {
                return;
            }
        }
        let namespaces = mesh_namespaces(&region.state, &far).cloned();
        self.namespaces = namespaces
            .map(|namespace| (namespace.id, namespace))
            .collect();
        for (name, tombstone) in mesh_tombstones(&region.state, &far) {
            self.note_deleted(name, tombstone.hlc);
        }
        self.view.step(&home, &[], &[], region.state.position());
        self.next = self.position() + 1;
    }
}

fn everything(state: &DirectoryState) -> impl PartialEq + std::fmt::Debug {
    let entries: Vec<_> = state.entries().collect();
    let tombstones: Vec<_> = state.tombstones().collect();
    (state.head(), entries, tombstones, state.stats())
}

/// Lets both followers hear everything, then compares.
fn settle(region: &Region, inside: &mut Inside, afar: &mut Afar) {
    let end = region.log.len() as u64;
    inside.next = inside.view.state().applied_index() + 1;
    while inside.view.state().applied_index() < end {
        inside.deliver(region);
    }
    if afar.position() == 0 {
        afar.snapshot(region, true);
    }
    afar.next = afar.position() + 1;
    while afar.position() < end {
        afar.deliver(region);
    }
    let (home, far): (RegionId, RegionId) = (HOME.parse().unwrap(), FAR.parse().unwrap());
    assert_eq!(everything(inside.view.state()), everything(&region.state));
    let blocks = mesh_blocks(&region.state, &far);
    let mut tags: Vec<_> = blocks.map(|(name, bytes)| (name.tag(), bytes)).collect();
    tags.sort_unstable();
    let counts: Vec<_> = afar.view.regions().map(|(_, _, blocks)| blocks).collect();
    assert_eq!(counts, [tags.len() as u64]);
    assert_eq!(afar.view.tags_of(&home), tags);
    let mut digest = Digest::default();
    tags.iter()
        .for_each(|(tag, bytes)| digest.add(*tag, *bytes));
    assert_eq!(afar.view.digest(&home), digest);
    let namespaces: Vec<_> = mesh_namespaces(&region.state, &far).collect();
    assert_eq!(afar.namespaces.values().collect::<Vec<_>>(), namespaces);
    for (name, tombstone) in mesh_tombstones(&region.state, &far) {
        // A region that forgot a newer tombstone may make an older one again.
        assert!(afar.deleted.get(&name) >= Some(&tombstone.hlc));
    }
    let hidden = namespace(2, 0).id;
    assert!(!afar.namespaces.contains_key(&hidden));
    assert!(afar.deleted.keys().all(|name| name.namespace != hidden));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn followers_end_where_the_region_is(acts in proptest::collection::vec(act(), 1..80)) {
        let mut region = Region::new();
        let mut inside = Inside { view: RegionView::new(DirectoryState::empty()), next: 1 };
        let mut afar = Afar {
            view: MeshView::new(),
            namespaces: BTreeMap::new(),
            deleted: BTreeMap::new(),
            next: 1,
        };
        afar.snapshot(&region, true);
        for act in &acts {
            match act {
                Act::Deliver(frames) => {
                    for _ in 0..*frames {
                        inside.deliver(&region);
                        // After half a snapshot there is nothing to go on from.
                        if afar.position() > 0 {
                            afar.deliver(&region);
                        }
                    }
                }
                Act::Reconnect(back) => {
                    // Inside, a frame may also get lost on the way.
                    inside.next = match back {
                        3 => inside.next + 1,
                        _ => inside.next.saturating_sub(u64::from(*back)).max(1),
                    };
                    afar.next = (afar.position() + 1).saturating_sub(u64::from(*back)).max(1);
                }
                Act::Snapshot { whole } => {
                    inside.view = RegionView::new(region.state.clone());
                    afar.snapshot(&region, *whole);
                }
                _ => {
                    let command = region.command(act);
                    region.commit(command);
                }
            }
        }
        settle(&region, &mut inside, &mut afar);
    }
}
