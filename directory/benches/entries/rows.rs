//! A region's log for benches, this crate's and the node's: three nodes, one namespace, hashes
//! of 32 bytes that lie all over the directory, two holders of each block.

use kvmesh_directory::{
    BlockHash, BlockName, ChangeKind, Command, Copy, Description, Hlc, Incarnation, LogIncarnation,
    Member, Namespace, NamespaceId, NodeId, Part, Policy,
    command::{BlockChange, Claim},
    limits::{ENTRY_CHANGES_MAX, FEATURE_LEVEL},
    words::{Checksum, CopyNumber},
};

const NODES: u64 = 3;
/// An entry of a steady load: as many claims as evictions, two of these a block.
const CLAIMS: u64 = ENTRY_CHANGES_MAX as u64 / 3;

/// The next commands. [`Self::index`] is that of the last one given.
pub(crate) struct Blocks {
    pub(crate) namespace: Namespace,
    index: u64,
    claimed: u64,
    evicted: u64,
}

impl Default for Blocks {
    fn default() -> Self {
        Self {
            namespace: namespace(),
            index: 0,
            claimed: 0,
            evicted: 0,
        }
    }
}

impl Blocks {
    pub(crate) fn index(&self) -> u64 {
        self.index
    }

    /// Blocks that were claimed.
    pub(crate) fn claimed(&self) -> u64 {
        self.claimed
    }

    /// Forms the region: indexes from 1 on, and their commands.
    pub(crate) fn begin(&mut self) -> Vec<(u64, Command)> {
        let init = Command::InitRegion {
            region: "bench".parse().expect("a region's name"),
            log_incarnation: LogIncarnation(1),
            members: (1..=NODES).map(member).collect(),
            feature_level: FEATURE_LEVEL,
        };
        let begin = (1..=NODES).map(|node| Command::BeginIncarnation {
            node: NodeId(node),
            nonce: 1,
            store: 1,
            level: kvmesh_directory::limits::FEATURE_LEVEL,
        });
        let open = Command::OpenNamespace(self.namespace.clone());
        let all = std::iter::once(init).chain(begin).chain([open]);
        let numbered: Vec<_> = (1..).zip(all).collect();
        self.index = numbered.len() as u64;
        numbered
    }

    /// Claims blocks that are new.
    pub(crate) fn claim(&mut self, count: u64) -> Command {
        self.index += 1;
        let numbers = self.claimed..self.claimed + count;
        self.claimed += count;
        Command::Blocks(numbers.map(|number| self.claim_of(number)).collect())
    }

    /// A full entry that leaves as many blocks as there were.
    pub(crate) fn change(&mut self) -> Command {
        self.index += 1;
        let new = self.claimed..self.claimed + CLAIMS;
        let old = self.evicted..self.evicted + CLAIMS;
        (self.claimed, self.evicted) = (new.end, old.end);
        let evict = |number: u64| {
            let name = self.name(number);
            let kinds = copies(number).map(ChangeKind::Evict);
            kinds.map(|kind| BlockChange { name, kind })
        };
        let claims = new.map(|number| self.claim_of(number));
        Command::Blocks(claims.chain(old.flat_map(evict)).collect())
    }

    fn claim_of(&self, number: u64) -> BlockChange {
        claim(self.name(number), number, copies(number).to_vec())
    }

    pub(crate) fn name(&self, number: u64) -> BlockName {
        name(self.namespace.id, number)
    }
}

/// A block by its number.
pub(crate) fn name(namespace: NamespaceId, number: u64) -> BlockName {
    let mut hash = [0; 32];
    for (lane, part) in hash.chunks_exact_mut(8).enumerate() {
        part.copy_from_slice(&mixed(number * 4 + lane as u64).to_be_bytes());
    }
    BlockName {
        namespace,
        hash: BlockHash(hash),
        part: Part::default(),
    }
}

/// The claim of a block that wants as many copies as it has.
pub(crate) fn claim(name: BlockName, number: u64, copies: Vec<Copy>) -> BlockChange {
    BlockChange {
        name,
        kind: ChangeKind::Claim(Claim {
            put_hlc: Hlc(number + 2),
            checksum: Checksum(u128::from(mixed(number)).to_be_bytes()),
            bytes: 2 << 20,
            depth: (number % 1_024) as u32,
            replicas: copies.len() as u32,
            copies,
        }),
    }
}

fn copies(number: u64) -> [Copy; 2] {
    [number, number + 1].map(|node| Copy {
        node: NodeId(1 + node % NODES),
        incarnation: Incarnation(1),
        copy: CopyNumber(number + 1),
    })
}

fn member(node: u64) -> Member {
    Member {
        node: NodeId(node),
        address: format!("node-{node}:7410"),
        zone: String::new(),
        weight: 1,
        voter: true,
    }
}

/// The one namespace.
pub(crate) fn namespace() -> Namespace {
    let description = Description {
        model: "bench".to_owned(),
        dtype: "bf16".to_owned(),
        layout: "flat".to_owned(),
        block_tokens: 16,
        hash_width: 32,
        short_hashes: false,
        shard_count: 1,
        group_count: 1,
        tenant: String::new(),
        salt: Vec::new(),
        residency: Vec::new(),
    };
    Namespace {
        id: description.id(),
        name: "bench".to_owned(),
        description,
        policy: Policy::default(),
        generation: Hlc(0),
        policy_hlc: Hlc(1),
        policy_region: "bench".parse().expect("a region's name"),
    }
}

/// splitmix64: numbers become evenly spread hashes.
pub(crate) fn mixed(number: u64) -> u64 {
    let mut z = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
