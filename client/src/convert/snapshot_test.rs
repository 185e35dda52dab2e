//! A snapshot makes the state that it was taken of.

use kvmesh_directory::{
    BlockHash, BlockName, ChangeKind, Checksum, Command, Copy, CopyNumber, Description,
    DirectoryState, Hlc, Incarnation, LogIncarnation, Member, Namespace, NodeId, Part, Policy,
    command::{BlockChange, Claim, Deletion},
};
use prost::Message;

use super::{Assembler, CHUNK_RECORDS_MAX, WireError, chunks};

fn description() -> Description {
    Description {
        model: "llama".to_owned(),
        dtype: "bf16".to_owned(),
        layout: String::new(),
        block_tokens: 16,
        hash_width: 32,
        short_hashes: false,
        shard_count: 1,
        group_count: 1,
        tenant: String::new(),
        salt: Vec::new(),
        residency: Vec::new(),
    }
}

fn name(number: u64) -> BlockName {
    let mut hash = [0; 32];
    hash[..8].copy_from_slice(&number.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
    BlockName {
        namespace: description().id(),
        hash: BlockHash(hash),
        part: Part::default(),
    }
}

fn claim(number: u64) -> BlockChange {
    let copy = Copy {
        node: NodeId(1),
        incarnation: Incarnation(1),
        copy: CopyNumber(number + 1),
    };
    let claim = Claim {
        put_hlc: Hlc(number + 10),
        checksum: Checksum([7; 16]),
        bytes: 4_096,
        depth: 3,
        replicas: 2,
        copies: vec![copy],
    };
    BlockChange {
        name: name(number),
        kind: ChangeKind::Claim(claim),
    }
}

/// A region with so many blocks, and one deleted name for every ten of them.
fn state(blocks: u64) -> DirectoryState {
    let member = Member {
        node: NodeId(1),
        address: "127.0.0.1:1".to_owned(),
        zone: String::new(),
        weight: 1,
        voter: true,
    };
    let namespace = Namespace {
        id: description().id(),
        name: "llama".to_owned(),
        description: description(),
        policy: Policy::default(),
        generation: Hlc(0),
        policy_hlc: Hlc(1),
        policy_region: "eu-west".parse().unwrap(),
    };
    let mut commands = vec![
        Command::InitRegion {
            region: "eu-west".parse().unwrap(),
            log_incarnation: LogIncarnation(9),
            members: vec![member],
            feature_level: 1,
        },
        Command::BeginIncarnation {
            node: NodeId(1),
            nonce: 5,
            store: 0,
            level: kvmesh_directory::limits::FEATURE_LEVEL,
        },
        Command::OpenNamespace(namespace),
    ];
    for first in (0..blocks).step_by(256) {
        let changes = (first..blocks.min(first + 256)).map(claim);
        commands.push(Command::Blocks(changes.collect()));
    }
    let keys = (blocks..blocks + blocks / 10).map(|number| name(number).key());
    commands.push(Command::Delete(Deletion {
        namespace: description().id(),
        keys: keys.collect(),
        hlc: Hlc(1_000_000),
    }));
    let mut state = DirectoryState::empty();
    for (index, command) in commands.iter().enumerate() {
        let (outcome, _) = state.apply(index as u64 + 1, command);
        assert_eq!(outcome.refused, None);
    }
    assert_eq!(state.stats().blocks, blocks);
    state
}

fn encode(state: &DirectoryState) -> Vec<Vec<u8>> {
    chunks(state.clone())
        .map(|chunk| chunk.encode_to_vec())
        .collect()
}

#[test]
fn a_state_goes_through_chunks_unchanged() {
    // Fewer than one chunk, exactly one, and several.
    for blocks in [0, 5, CHUNK_RECORDS_MAX as u64, 5_000] {
        let state = state(blocks);
        let mut assembler = Assembler::new();
        let mut restored = None;
        for chunk in chunks(state.clone()) {
            assert!(restored.is_none(), "a chunk came after the last one");
            assert!(chunk.entries.len() <= CHUNK_RECORDS_MAX);
            restored = assembler.push(chunk).unwrap();
        }
        let restored = restored.unwrap();
        assert_eq!(restored.head(), state.head());
        assert!(restored.entries().eq(state.entries()));
        assert!(restored.tombstones().eq(state.tombstones()));
        assert_eq!(
            encode(&restored),
            encode(&state),
            "equal states make equal bytes"
        );
    }
}

#[test]
fn a_snapshot_without_its_head_is_refused() {
    let mut parts = chunks(state(5));
    let head = parts.next().unwrap();
    let second = parts.next().unwrap();
    let error = Assembler::new().push(second).unwrap_err();
    assert_eq!(error, WireError::Missing("head"));
    let mut assembler = Assembler::new();
    assert!(assembler.push(head.clone()).unwrap().is_none());
    assert!(assembler.push(head).is_err(), "a second head");
}
