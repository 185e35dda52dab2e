//! A small region for tests, and a language in which to say what happened to it.
//!
//! The region `here` has nodes 1 to 4, of which 1 to 3 were started once, and knows the
//! namespace `ns`. Steps are separated by `;`. A block is a letter, a copy is
//! `node/incarnation/number`:
//!
//! - `start NODE NONCE`, `restart NODE NONCE STORE`, `dead NODE INCARNATION`
//! - `join NODE` or `join NODE voter`, `leave NODE`, `lose NODE`, `moved EPOCH`
//! - `put BLOCK CLOCK COPY..` (two replicas; `a*` is another content of `a`)
//! - `evict BLOCK COPY`, `retract BLOCK COPY`, `release BLOCK COPY`
//! - `delete CLOCK BLOCK..`, `raise CLOCK`, `forget CLOCK`

use crate::{
    command::{BlockChange, ChangeKind, Claim, Command, Deletion, Event, Outcome},
    limits::FEATURE_LEVEL,
    namespace::{Description, Namespace, Policy},
    state::DirectoryState,
    topology::Member,
    words::{
        BlockHash, BlockKey, BlockName, Checksum, Copy, CopyNumber, FeedPosition, Hlc, Incarnation,
        LogIncarnation, NamespaceId, NodeId, Part, RegionId, RingEpoch,
    },
};

pub(super) fn region(name: &str) -> RegionId {
    name.parse().unwrap()
}

pub(super) fn member(node: u64) -> Member {
    Member {
        node: NodeId(node),
        address: format!("127.0.0.1:{node}"),
        zone: "z".to_owned(),
        weight: 1,
        voter: node <= 3,
    }
}

/// Namespaces with different models have different ids.
pub(super) fn namespace(model: &str, alias: &str) -> Namespace {
    let description = Description {
        model: model.to_owned(),
        dtype: "bf16".to_owned(),
        layout: "l".to_owned(),
        block_tokens: 16,
        hash_width: 32,
        short_hashes: false,
        shard_count: 2,
        group_count: 2,
        tenant: "t".to_owned(),
        salt: Vec::new(),
        residency: Vec::new(),
    };
    Namespace {
        id: description.id(),
        name: alias.to_owned(),
        description,
        policy: Policy::default(),
        generation: Hlc(0),
        policy_hlc: Hlc(1),
        policy_region: region("here"),
    }
}

pub(super) fn ns() -> NamespaceId {
    namespace("m", "ns").id
}

pub(super) fn init() -> Command {
    Command::InitRegion {
        region: region("here"),
        log_incarnation: LogIncarnation(7),
        members: [3, 1, 2, 4].map(member).to_vec(),
        feature_level: FEATURE_LEVEL,
    }
}

pub(super) fn start(node: u64, nonce: u64) -> Command {
    Command::BeginIncarnation {
        node: NodeId(node),
        nonce,
        store: 0,
        level: FEATURE_LEVEL,
    }
}

pub(super) fn position(from: &str, log: u64, index: u64) -> FeedPosition {
    FeedPosition {
        region: region(from),
        log_incarnation: LogIncarnation(log),
        index,
    }
}

pub(super) fn key(block: u8) -> BlockKey {
    BlockKey {
        hash: BlockHash([block; 32]),
        part: Part::default(),
    }
}

pub(super) fn name(block: u8) -> BlockName {
    BlockName::new(ns(), key(block))
}

pub(super) fn copy(node: u64, incarnation: u64, number: u64) -> Copy {
    Copy {
        node: NodeId(node),
        incarnation: Incarnation(incarnation),
        copy: CopyNumber(number),
    }
}

pub(super) fn claim(block: BlockName, content: &str, hlc: u64, copies: Vec<Copy>) -> BlockChange {
    let claim = Claim {
        put_hlc: Hlc(hlc),
        checksum: Checksum::of(content.as_bytes()),
        bytes: 100,
        depth: 3,
        replicas: 2,
        copies,
    };
    BlockChange {
        name: block,
        kind: ChangeKind::Claim(claim),
    }
}

pub(super) fn delete(hlc: u64, blocks: &[u8]) -> Deletion {
    Deletion {
        namespace: ns(),
        keys: blocks.iter().map(|block| key(*block)).collect(),
        hlc: Hlc(hlc),
    }
}

/// A state, and what came of the last command.
pub(super) struct Told {
    pub(super) state: DirectoryState,
    pub(super) outcome: Outcome,
    pub(super) events: Vec<Event>,
}

impl Told {
    /// The region of the module's text.
    pub(super) fn begin() -> Self {
        let mut told = Self {
            state: DirectoryState::empty(),
            outcome: Outcome::default(),
            events: Vec::new(),
        };
        told.apply(&init());
        (1..=3).for_each(|node| told.apply(&start(node, 1)));
        told.apply(&Command::OpenNamespace(namespace("m", "ns")));
        told
    }

    pub(super) fn apply(&mut self, command: &Command) {
        let index = self.state.applied_index() + 1;
        (self.outcome, self.events) = self.state.apply(index, command);
    }

    pub(super) fn after(story: &str) -> Self {
        let mut told = Self::begin();
        let steps = story.split(';').filter(|step| !step.trim().is_empty());
        steps.for_each(|step| told.apply(&command(step)));
        told
    }

    /// Blocks as `block@clock wanted: copies`, joined by `;`.
    pub(super) fn there(&self) -> String {
        let blocks = self.state.entries().map(|(name, entry)| {
            let copies: Vec<_> = entry.holders.iter().map(write_copy).collect();
            format!(
                "{}@{} {}: {}",
                write_name(&name),
                entry.put_hlc,
                entry.wanted,
                copies.join(" ")
            )
        });
        blocks.collect::<Vec<_>>().join("; ")
    }

    /// Members as `node`, with `v` for one that is to vote and `-` for one that is leaving;
    /// then the epoch, and `from` the members before while blocks move.
    pub(super) fn members(&self) -> String {
        let topology = self.state.topology();
        let members = topology.members.iter().map(|member| {
            let voter = if member.voter { "v" } else { "" };
            let leaving = topology.leaving.contains(&member.node);
            format!("{}{voter}{} ", member.node, if leaving { "-" } else { "" })
        });
        let before = topology.before.as_ref().map_or_else(String::new, |before| {
            let before: Vec<_> = before.iter().map(|it| it.node.to_string()).collect();
            format!(" from {}", before.join(" "))
        });
        let epoch = topology.epoch;
        format!("{}@{epoch}{before}", members.collect::<String>())
    }

    /// Outcomes and events of the last command.
    pub(super) fn said(&self) -> String {
        let changes = self.outcome.changes.iter().map(|o| format!("{o:?}"));
        let refused = self.outcome.refused.iter().map(|r| format!("refused: {r}"));
        let events = self.events.iter().map(write_event);
        let all: Vec<_> = changes.chain(refused).chain(events).collect();
        all.join(", ")
    }
}

pub(super) fn command(step: &str) -> Command {
    let words: Vec<_> = step.split_whitespace().collect();
    let number = |at: usize| words[at].parse::<u64>().unwrap();
    let block = |at: usize| name(words[at].as_bytes()[0]);
    let changed = |kind| {
        let name = block(1);
        Command::Blocks(vec![BlockChange { name, kind }])
    };
    match words[0] {
        "start" => start(number(1), number(2)),
        "restart" => Command::BeginIncarnation {
            node: NodeId(number(1)),
            nonce: number(2),
            store: number(3),
            level: FEATURE_LEVEL,
        },
        "knows" => Command::BeginIncarnation {
            node: NodeId(number(1)),
            nonce: number(2),
            store: 0,
            level: words[3].parse().unwrap(),
        },
        "level" => Command::RaiseFeatureLevel {
            level: words[1].parse().unwrap(),
        },
        "join" => Command::JoinNode {
            member: Member {
                voter: words.len() > 2,
                ..member(number(1))
            },
        },
        "leave" | "lose" => Command::LeaveNode {
            node: NodeId(number(1)),
            forget: words[0] == "lose",
        },
        "moved" => Command::FinishMove {
            epoch: RingEpoch(number(1)),
        },
        "dead" => Command::MarkDead {
            node: NodeId(number(1)),
            incarnation: Incarnation(number(2)),
        },
        "put" => {
            let copies = words[3..].iter().map(|word| read_copy(word)).collect();
            Command::Blocks(vec![claim(block(1), words[1], number(2), copies)])
        }
        "evict" => changed(ChangeKind::Evict(read_copy(words[2]))),
        "release" => changed(ChangeKind::Release(read_copy(words[2]))),
        "retract" => changed(ChangeKind::Retract(read_copy(words[2]))),
        "delete" => {
            let blocks: Vec<_> = words[2..].iter().map(|word| word.as_bytes()[0]).collect();
            Command::Delete(delete(number(1), &blocks))
        }
        "raise" => Command::RaiseGeneration {
            namespace: ns(),
            hlc: Hlc(number(1)),
        },
        "forget" => Command::DropTombstones {
            up_to: Hlc(number(1)),
        },
        other => panic!("unknown step {other}"),
    }
}

fn read_copy(word: &str) -> Copy {
    let numbers: Vec<u64> = word.split('/').map(|n| n.parse().unwrap()).collect();
    copy(numbers[0], numbers[1], numbers[2])
}

fn write_copy(copy: &Copy) -> String {
    format!("{}/{}/{}", copy.node, copy.incarnation, copy.copy)
}

fn write_name(name: &BlockName) -> char {
    char::from(name.hash.0[0])
}

fn write_event(event: &Event) -> String {
    match event {
        Event::EpochChanged(epoch) => format!("epoch {epoch}"),
        Event::IncarnationBegan { node, incarnation } => format!("began {node}/{incarnation}"),
        Event::NodeDied(node) => format!("died {node}"),
        Event::NodeRemoved(node) => format!("removed {node}"),
        Event::MoveFinished(epoch) => format!("moved to {epoch}"),
        Event::Appeared { name, .. } => format!("appeared {}", write_name(name)),
        Event::Vanished { name } => format!("vanished {}", write_name(name)),
        Event::Claimed { name, copy, .. } => {
            format!("claimed {} {}", write_name(name), write_copy(copy))
        }
        Event::Dropped { name, copy } => {
            format!("dropped {} {}", write_name(name), write_copy(copy))
        }
        Event::Namespace(namespace) => format!("namespace {}", namespace.name),
        Event::Deleted(deletion) => {
            let name = |key: &BlockKey| write_name(&BlockName::new(deletion.namespace, *key));
            let names: String = deletion.keys.iter().map(name).collect();
            format!("deleted {names} at {}", deletion.hlc)
        }
        Event::Raised { generation, .. } => format!("raised {generation}"),
    }
}
