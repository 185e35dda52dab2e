//! What a lookup finds is what the words mean, whatever is where.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use kvmesh_client::random::{in_range, seed};
use kvmesh_directory::{
    BlockHash, ChangeKind, Checksum, Command, Copy, CopyNumber, Description, Hlc, Incarnation,
    LogIncarnation, Member, NodeId, Part, Policy,
    command::{BlockChange, Claim},
    cost::{Configured, Estimate, Seen},
    limits::FEATURE_LEVEL,
    peer::PeerState,
};
use tokio::time::Instant;

use super::*;
use crate::{absent::Absent, chain::Chain};

const HISTORIES: u64 = 1_000;
const CHAIN_MAX: usize = 12;

fn namespace() -> Namespace {
    let description = Description {
        model: "lookup".to_owned(),
        dtype: "bf16".to_owned(),
        layout: "flat".to_owned(),
        block_tokens: 16,
        hash_width: 32,
        short_hashes: false,
        shard_count: 1,
        group_count: 2,
        tenant: String::new(),
        salt: Vec::new(),
        residency: Vec::new(),
    };
    Namespace {
        id: description.id(),
        name: "lookup".to_owned(),
        description,
        policy: Policy::default(),
        generation: Hlc(0),
        policy_hlc: Hlc(1),
        policy_region: "here".parse().unwrap(),
    }
}

/// A region of one node with some blocks.
fn directory(namespace: &Namespace, held: &BTreeSet<BlockName>) -> DirectoryState {
    let member = Member {
        node: NodeId(1),
        address: "node-1:7410".to_owned(),
        zone: String::new(),
        weight: 1,
        voter: true,
    };
    let copy = |number| Copy {
        node: NodeId(1),
        incarnation: Incarnation(1),
        copy: CopyNumber(number),
    };
    let claims = (1..).zip(held).map(|(number, &name)| BlockChange {
        name,
        kind: ChangeKind::Claim(Claim {
            put_hlc: Hlc(number),
            checksum: Checksum([0; 16]),
            bytes: bytes_of(&name),
            depth: 0,
            replicas: 1,
            copies: vec![copy(number)],
        }),
    });
    let commands = [
        Command::InitRegion {
            region: "here".parse().unwrap(),
            log_incarnation: LogIncarnation(1),
            members: vec![member],
            feature_level: FEATURE_LEVEL,
        },
        Command::BeginIncarnation {
            node: NodeId(1),
            nonce: 1,
            store: 1,
            level: FEATURE_LEVEL,
        },
        Command::OpenNamespace(namespace.clone()),
        Command::Blocks(claims.collect()),
    ];
    let mut state = DirectoryState::empty();
    for (index, command) in (1..).zip(&commands) {
        state.apply(index, command);
    }
    assert!(held.iter().all(|name| state.has(name)));
    state
}

fn bytes_of(name: &BlockName) -> u32 {
    1_000 + u32::from(name.hash.0[0]) * 10 + u32::from(name.part.group)
}

fn link() -> (Link, LinkCost) {
    let known = |median| Estimate { median, sigma: 0.0 };
    let link = Link {
        reachable: true,
        state: PeerState::Online,
        lag_entries: 0,
        rtt_ms: 1.0,
        bandwidth: 1e9,
        configured: Configured {
            rtt: known(1e-3),
            bandwidth: 1e9,
            dollars_per_gb: 0.0,
            seen: Seen::default(),
        },
        gateways: Vec::new(),
        heard: Instant::now(),
    };
    let cost = LinkCost {
        first_byte: known(1e-3),
        bandwidth: known(1e9),
        dollars_per_gb: 0.0,
    };
    (link, cost)
}

/// Which of the blocks a place has: often all up to somewhere, and some beyond.
fn some_of(all: &[Vec<BlockName>]) -> BTreeSet<BlockName> {
    let whole = in_range(0..=all.len());
    let beyond = in_range(0..=3);
    let names = all.iter().enumerate().flat_map(|(index, names)| {
        let kept = names.iter();
        kept.filter(move |_| index < whole || in_range(0..4) < beyond)
    });
    names.copied().collect()
}

#[test]
fn a_lookup_finds_what_its_words_mean() {
    let namespace = namespace();
    for history in 0..HISTORIES {
        seed(history);
        let parts: Vec<Part> = [0, 1][..in_range(1..=2)]
            .iter()
            .map(|&group| Part { shard: 0, group })
            .collect();
        let hashes: Vec<BlockHash> = (0..in_range(1..=CHAIN_MAX) as u8)
            .map(|number| BlockHash([number; 32]))
            .collect();
        let raw: Bytes = hashes.iter().flat_map(|hash| hash.0).collect();
        let query = Query {
            start: in_range(0..hashes.len()),
            chain: Chain::new(raw, 32, hashes),
            parts,
        };
        let name = |index, part: &Part| query.chain.name(namespace.id, index, *part);
        let all: Vec<Vec<BlockName>> = (0..query.chain.len() as u32)
            .map(|index| query.parts.iter().map(|part| name(index, part)).collect())
            .collect();
        let (held, coming) = (some_of(&all), some_of(&all));
        let mut mesh = MeshView::new();
        let mut there: BTreeMap<RegionId, BTreeSet<BlockName>> = BTreeMap::new();
        let mut links = Vec::new();
        for region in ["a", "b", "not-asked"] {
            let (id, has): (RegionId, _) = (region.parse().unwrap(), some_of(&all));
            let tags: Vec<_> = has.iter().map(|it| (it.tag(), bytes_of(it))).collect();
            mesh.step(&id, &tags, &[], None);
            if region != "not-asked" && in_range(0..4) > 0 {
                let (link, cost) = link();
                links.push((id.clone(), link, cost));
                there.insert(id, has);
            }
        }
        let state = directory(&namespace, &held);
        let absent = Absent::default();
        let lacking = absent.read();
        let sight = Sight {
            state: &state,
            mesh: &mesh,
            lacking: &lacking,
            links: &links,
            block_tokens: 16,
            prefill: None,
            dollars_per_gpu_hour: 0.0,
            under_way: &|name| coming.contains(name),
        };
        let found = sight.look(namespace.id, &query);

        let asked = &all[query.start..];
        let run = |from: usize, fits: &dyn Fn(&BlockName) -> bool| {
            let whole = |names: &&Vec<BlockName>| names.iter().all(fits);
            asked[from..].iter().take_while(whole).count()
        };
        let local = run(0, &|name| held.contains(name));
        let pending = run(local, &|name| held.contains(name) || coming.contains(name));
        let anywhere = |name: &BlockName| there.values().any(|has| has.contains(name));
        let in_mesh = run(0, &|name| held.contains(name) || anywhere(name));
        let sum = |names: &[Vec<BlockName>], counts: &dyn Fn(&BlockName) -> bool| -> u64 {
            let counted = names.iter().flatten().filter(|name| counts(name));
            counted.map(|name| u64::from(bytes_of(name))).sum()
        };
        let far: BTreeMap<&RegionId, (u32, u64)> = there
            .iter()
            .map(|(region, has)| {
                let blocks = run(0, &|name| has.contains(name));
                let lacked = sum(&asked[..blocks], &|name| !held.contains(name));
                (region, (blocks as u32, lacked))
            })
            .filter(|(_, (blocks, _))| *blocks > 0)
            .collect();
        let remote: BTreeMap<&RegionId, (u32, u64)> = found
            .remote
            .iter()
            .map(|remote| (&remote.region, (remote.blocks, remote.fetch_bytes)))
            .collect();
        assert_eq!(
            (
                found.local_blocks as usize,
                found.local_bytes,
                found.pending_blocks as usize,
                found.mesh_blocks as usize,
                remote,
            ),
            (
                local,
                sum(&asked[..local], &|_| true),
                pending,
                in_mesh,
                far
            ),
            "history {history}"
        );
    }
}
