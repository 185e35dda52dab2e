//! A region whose directory is one state, changed by commands as its log would.

use std::sync::{Arc, Mutex};

use kvmesh_client::BlockMeta;
use kvmesh_directory::{
    BlockName, ChangeKind, Command, Copy, CopyNumber, DirectoryState, FeedPosition, Incarnation,
    LogIncarnation, Member, Namespace, NodeId, Outcome, RegionId,
    command::{BlockChange, Claim},
    limits,
};
use tokio::sync::watch;

pub(crate) struct Region {
    pub(crate) name: RegionId,
    pub(crate) inner: Mutex<(DirectoryState, Vec<(u64, Command)>)>,
    pub(crate) applied: watch::Sender<u64>,
    /// Its feed shows nothing new meanwhile.
    pub(crate) held: watch::Sender<bool>,
    copies: Mutex<u64>,
}

impl Region {
    pub(crate) fn new(name: &str) -> Arc<Self> {
        Arc::new(Self {
            name: name.parse().unwrap(),
            inner: Mutex::new((DirectoryState::empty(), Vec::new())),
            applied: watch::Sender::new(0),
            held: watch::Sender::new(false),
            copies: Mutex::new(0),
        })
    }

    pub(crate) fn init(&self, addresses: &[String]) {
        let members = addresses.iter().zip(1..).map(|(address, node)| Member {
            node: NodeId(node),
            address: address.clone(),
            zone: format!("zone-{node}"),
            weight: 1,
            // One or three vote: the fakes do not, so one is as good.
            voter: node == 1,
        });
        self.apply(Command::InitRegion {
            region: self.name.clone(),
            log_incarnation: LogIncarnation(7),
            members: members.collect(),
            feature_level: limits::FEATURE_LEVEL,
        });
        for node in 1..=addresses.len() as u64 {
            let node = NodeId(node);
            self.apply(Command::BeginIncarnation {
                node,
                nonce: 1,
                store: 0,
                level: kvmesh_directory::limits::FEATURE_LEVEL,
            });
        }
    }

    pub(crate) fn apply(&self, command: Command) -> (FeedPosition, Outcome) {
        let mut inner = self.inner.lock().unwrap();
        let index = inner.0.applied_index() + 1;
        let (outcome, _) = inner.0.apply(index, &command);
        inner.1.push((index, command));
        let position = inner.0.position().unwrap();
        drop(inner);
        self.applied.send_replace(index);
        (position, outcome)
    }

    /// Claims copies of a block on nodes.
    pub(crate) fn claim(&self, name: BlockName, meta: &BlockMeta, nodes: &[u64]) -> FeedPosition {
        let mut copies = Vec::new();
        for &node in nodes {
            let mut number = self.copies.lock().unwrap();
            *number += 1;
            copies.push(Copy {
                node: NodeId(node),
                incarnation: Incarnation(1),
                copy: CopyNumber(*number),
            });
        }
        let claim = Claim {
            put_hlc: meta.put_hlc,
            checksum: meta.checksum,
            bytes: meta.bytes as u32,
            depth: meta.depth,
            replicas: 2,
            copies,
        };
        let kind = ChangeKind::Claim(claim);
        self.apply(Command::Blocks(vec![BlockChange { name, kind }]))
            .0
    }

    pub(crate) fn state(&self) -> DirectoryState {
        self.inner.lock().unwrap().0.clone()
    }

    pub(crate) fn open(&self, namespace: Namespace) {
        self.apply(Command::OpenNamespace(namespace));
    }
}
