//! The product's own books, in virtual time: what is held of a chain is touched, the rest
//! admitted and claimed.

use std::collections::HashMap;

use kvmesh_directory::{
    BlockHash, BlockName, Checksum, Copy, CopyNumber, Hlc, Incarnation, NamespaceId, NodeId, Part,
};
use kvmesh_node::store::{Admission, COPY_OVERHEAD_BYTES, CopyKey, Ledger};
use tokio::time::{Duration, Instant};

use super::policies::Policy;

const BLOCK_BYTES: u64 = 1 << 20;

pub(crate) struct Ours {
    ledger: Ledger,
    began: Instant,
    held: HashMap<u32, CopyKey>,
    copies: u64,
}

impl Ours {
    pub(crate) fn new(max: usize) -> Self {
        Self {
            ledger: Ledger::new(max as u64 * (BLOCK_BYTES + COPY_OVERHEAD_BYTES)),
            began: Instant::now(),
            held: HashMap::new(),
            copies: 0,
        }
    }

    fn put(&mut self, second: u64, block: u32, depth: usize) {
        self.copies += 1;
        let key = key(block, self.copies);
        let admission = Admission {
            bytes: BLOCK_BYTES,
            depth: depth as u32,
            checksum: Checksum([0; 16]),
            put_hlc: Hlc(1),
            transcoded: None,
            touched: second,
            since: self.began + Duration::from_secs(second),
        };
        let evicted = self.ledger.admit(key, admission);
        for gone in evicted.expect("one block fits") {
            let number = &gone.name.hash.0[..4];
            let number = number.try_into().expect("4 bytes");
            self.held.remove(&u32::from_be_bytes(number));
        }
        assert!(self.ledger.claim(key, Hlc(1)));
        self.held.insert(block, key);
    }
}

impl Policy for Ours {
    fn holds(&self, block: u32) -> bool {
        self.held.contains_key(&block)
    }

    fn ask(&mut self, second: u64, chain: &[u32]) {
        for block in chain {
            if let Some(key) = self.held.get(block) {
                assert!(self.ledger.touch(*key, second));
            }
        }
        for (depth, block) in chain.iter().enumerate() {
            if !self.held.contains_key(block) {
                self.put(second, *block, depth);
            }
        }
    }
}

fn key(block: u32, number: u64) -> CopyKey {
    let mut hash = [0; 32];
    hash[..4].copy_from_slice(&block.to_be_bytes());
    let name = BlockName {
        namespace: NamespaceId([1; 16]),
        hash: BlockHash(hash),
        part: Part::default(),
    };
    let copy = Copy {
        node: NodeId(1),
        incarnation: Incarnation(1),
        copy: CopyNumber(number),
    };
    CopyKey { name, copy }
}
