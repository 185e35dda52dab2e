//! Regions for tests: a whole directory behind real gRPC on loopback, without Raft.

mod region;
mod rpc;

pub(crate) use region::FakeRegion;

use std::time::Duration;

use kvmesh_directory::{
    BlockHash, BlockKey, BlockName, Checksum, Command, Copy, CopyNumber, Description, Hlc,
    Incarnation, Namespace, NodeId, Part, Policy,
    command::{BlockChange, ChangeKind, Claim, Deletion},
};
use tokio::time::{sleep, timeout};

/// Waits for a condition, at most 20 s.
pub(crate) async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let polling = async {
        while !holds() {
            sleep(Duration::from_millis(5)).await;
        }
    };
    let waited = timeout(Duration::from_secs(20), polling).await;
    assert!(waited.is_ok(), "this did not come true: {what}");
}

/// Namespaces of different models have different ids.
pub(crate) fn namespace(model: &str) -> Namespace {
    let description = Description {
        model: model.to_owned(),
        dtype: "bf16".to_owned(),
        layout: "l".to_owned(),
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
        name: model.to_owned(),
        description,
        policy: Policy::default(),
        generation: Hlc(0),
        policy_hlc: Hlc(1),
        policy_region: "eu".parse().unwrap(),
    }
}

pub(crate) fn block(namespace: &Namespace, number: u32) -> BlockName {
    let mut hash = [0; 32];
    hash[..4].copy_from_slice(&number.to_le_bytes());
    let part = Part::default();
    BlockName::new(
        namespace.id,
        BlockKey {
            hash: BlockHash(hash),
            part,
        },
    )
}

fn copy(number: u32) -> Copy {
    Copy {
        node: NodeId(1),
        incarnation: Incarnation(1),
        copy: CopyNumber(u64::from(number)),
    }
}

pub(crate) fn put(namespace: &Namespace, number: u32, hlc: u64) -> Command {
    let claim = Claim {
        put_hlc: Hlc(hlc),
        checksum: Checksum([7; 16]),
        bytes: 1_000 + number,
        depth: 0,
        replicas: 1,
        copies: vec![copy(number)],
    };
    Command::Blocks(vec![BlockChange {
        name: block(namespace, number),
        kind: ChangeKind::Claim(claim),
    }])
}

pub(crate) fn evict(namespace: &Namespace, number: u32) -> Command {
    Command::Blocks(vec![BlockChange {
        name: block(namespace, number),
        kind: ChangeKind::Evict(copy(number)),
    }])
}

pub(crate) fn deletion(namespace: &Namespace, numbers: &[u32], hlc: u64) -> Deletion {
    let key = |number: &u32| block(namespace, *number).key();
    Deletion {
        namespace: namespace.id,
        keys: numbers.iter().map(key).collect(),
        hlc: Hlc(hlc),
    }
}
