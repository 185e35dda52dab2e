//! What leads are for, through the ledger: chains are asked for whole, what is not held is put.

use std::collections::{BTreeMap, BTreeSet};

use kvmesh_directory::{
    BlockHash, BlockName, Checksum, Copy, CopyNumber, Hlc, Incarnation, NamespaceId, NodeId, Part,
};
use proptest::prelude::*;
use tokio::time::Instant;

use super::{
    super::{COPY_OVERHEAD_BYTES, Ledger, recall::Recall},
    *,
};

const COST: u64 = 1_000;

/// A ledger, and what it holds by block.
struct Desk {
    ledger: Ledger,
    held: BTreeMap<u64, CopyKey>,
    copies: u64,
    now: Instant,
}

impl Desk {
    fn new(copies_max: u64, fixed: Option<usize>) -> Self {
        Self {
            ledger: Ledger::with_schedule(copies_max * COST, fixed),
            held: BTreeMap::new(),
            copies: 0,
            now: Instant::now(),
        }
    }

    /// Asks for a chain; says how many of its blocks were held, and what went with what was
    /// known of it.
    fn ask(&mut self, second: u64, chain: &[u64]) -> (usize, Vec<u64>) {
        let held = chain.iter().take_while(|it| self.held.contains_key(it));
        let hits = held.count();
        for key in chain.iter().filter_map(|block| self.held.get(block)) {
            assert!(self.ledger.touch(*key, second));
        }
        let mut gone = Vec::new();
        for (depth, block) in chain.iter().enumerate() {
            if !self.held.contains_key(block) {
                gone.extend(self.put(second, *block, depth as u32));
            }
        }
        (hits, gone)
    }

    fn put(&mut self, second: u64, block: u64, depth: u32) -> Vec<u64> {
        self.copies += 1;
        let key = key(block, self.copies);
        let admission = Admission {
            bytes: COST - COPY_OVERHEAD_BYTES,
            depth,
            checksum: Checksum([1; 16]),
            put_hlc: Hlc(1),
            transcoded: None,
            touched: second,
            since: self.now,
        };
        let evicted = self.ledger.admit(key, admission).unwrap();
        assert!(self.ledger.claim(key, Hlc(1)));
        self.held.insert(block, key);
        let number = |key: &CopyKey| u64::from_be_bytes(key.name.hash.0[..8].try_into().unwrap());
        let gone: Vec<u64> = evicted.iter().map(number).collect();
        for block in &gone {
            self.held.remove(block);
        }
        gone
    }
}

fn key(block: u64, number: u64) -> CopyKey {
    let mut hash = [0; 32];
    hash[..8].copy_from_slice(&block.to_be_bytes());
    let name = BlockName {
        namespace: NamespaceId([7; 16]),
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

/// Rounds of ten seconds: 100 chains of 8 blocks are read again, and 480 chains of 5 blocks
/// come that are never asked for again. 1,600 copies have room for the former, not for the latter as well.
/// Returns how many of the 800 blocks were held in each round.
fn scanned(desk: &mut Desk, rounds: u64) -> Vec<usize> {
    let mut hits = Vec::new();
    for round in 0..rounds {
        let read_again = (0..100_u64).map(|chain| (chain * 8..chain * 8 + 8).collect::<Vec<u64>>());
        let held = read_again.map(|chain| desk.ask(round * 10, &chain).0);
        hits.push(held.sum());
        for once in 0..480 {
            let first = 1_000_000 + (round * 480 + once) * 5;
            let chain: Vec<u64> = (first..first + 5).collect();
            desk.ask(round * 10 + once / 48, &chain);
        }
    }
    hits
}

/// Sessions of ten turns, one a second, that then end; ten at a time. Their blocks are worth
/// nothing after that, however often they were used. Returns hits.
fn sessions(desk: &mut Desk, from_second: u64, generations: u64) -> usize {
    let mut hits = 0;
    for generation in 0..generations {
        for turn in 0..10 {
            for session in 0..10 {
                let first = (1 + from_second + generation) << 32 | session << 16;
                let chain: Vec<u64> = (first..first + 10 * (turn + 1)).collect();
                hits += desk.ask(from_second + generation * 10 + turn, &chain).0;
            }
        }
    }
    hits
}

#[tokio::test]
async fn what_is_read_again_outlives_what_comes_once() {
    let plain = scanned(&mut Desk::new(1_600, Some(0)), 20);
    assert_eq!(plain[1..], [0; 19], "recency alone keeps none of it");
    let hits = scanned(&mut Desk::new(1_600, None), 20);
    assert_eq!(hits[10..], [800; 10], "of {hits:?}");
}

#[tokio::test]
async fn recency_is_enough_where_uses_say_nothing() {
    let mut plain = Desk::new(1_600, Some(0));
    let mut desk = Desk::new(1_600, None);
    scanned(&mut plain, 20);
    scanned(&mut desk, 20);
    assert_ne!(desk.ledger.schedule(), 0);
    sessions(&mut plain, 200, 30);
    sessions(&mut desk, 200, 30);
    assert_eq!(
        desk.ledger.schedule(),
        0,
        "it has learnt that the load changed"
    );
    let (want, got) = (sessions(&mut plain, 500, 10), sessions(&mut desk, 500, 10));
    assert!(got * 100 >= want * 99, "{got} hits, {want} by recency");
}

#[test]
fn what_is_remembered_is_bounded() {
    let mut recall = Recall::default();
    for tag in 0..1_000 {
        recall.note(tag % 37, 1, 5);
        recall.note(1_000 + tag, 2, 5);
        recall.trim(20);
        assert!(recall.sizes().0 <= 20 && recall.sizes().1 <= 40);
    }
    assert_eq!(recall.take(1_999, 6), 3);
    assert_eq!(recall.take(1_999, 6), 0, "it was taken");
    assert_eq!(
        recall.take(1_998, 5),
        2,
        "it was used in this second before"
    );
    assert_eq!(recall.take(1_900, 6), 0, "it was noted too long ago");
}

#[test]
fn no_lead_is_less_for_more_uses() {
    assert_eq!(SCHEDULES[0], [0.0; CLASSES], "plain recency is one of them");
    for schedule in SCHEDULES {
        assert!(schedule.is_sorted() && schedule[0] == 0.0, "{schedule:?}");
    }
}

/// The chain of a block in a tree of three children a block: from the root to it.
fn chain_to(block: u64) -> Vec<u64> {
    let mut chain = vec![block];
    while let Some(parent) = chain.last().filter(|it| **it > 0).map(|it| (it - 1) / 3) {
        chain.push(parent);
    }
    chain.reverse();
    chain
}

proptest! {
    #[test]
    fn no_block_goes_before_a_descendant_that_is_not_more_recent(
        asks in prop::collection::vec((0_u64..120, 0_u64..4), 1..200),
        schedule in 0..SCHEDULES.len(),
        room in 8_u64..40,
    ) {
        let mut desk = Desk::new(room, Some(schedule));
        let (mut second, mut touched) = (0, BTreeMap::new());
        for (leaf, later) in asks {
            second += later;
            let chain = chain_to(leaf);
            let before: BTreeSet<u64> = desk.held.keys().copied().collect();
            let (_, gone) = desk.ask(second, &chain);
            touched.extend(chain.iter().map(|block| (*block, second)));
            let held = |block: &u64| desk.held.contains_key(block);
            for block in gone.iter().filter(|block| before.contains(block)) {
                // What is just being put needs its room whatever its depth.
                let below = before.iter().filter(|it| *it != block && held(it));
                let below = below.filter(|it| chain_to(**it).contains(block));
                let stay = below.copied().filter(|it| touched[it] <= touched[block]);
                prop_assert_eq!(stay.collect::<Vec<_>>(), [0; 0], "{} goes", block);
            }
            // Where a put had to push out what was just put above it, the two are not used alike
            // any more.
            if !desk.held.keys().all(|it| chain_to(*it).iter().all(held)) {
                break;
            }
        }
    }
}
