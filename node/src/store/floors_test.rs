//! Memory over a disk of a real directory.

use std::path::Path;

use bytes::Bytes;
use kvmesh_client::{Ranges, lease::LeaseId, ranges::Pieces};
use kvmesh_directory::{NamespaceId, NodeId};
use tokio::time::timeout;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::*;
use crate::store::{
    COPY_OVERHEAD_BYTES, MemoryTier,
    arena::footprint,
    disk::{self, DiskSettings},
    made::{self, key},
};

pub(in crate::store) const BYTES: u64 = 100_000;
pub(in crate::store) const COST: u64 = footprint(BYTES) + COPY_OVERHEAD_BYTES;

pub(in crate::store) fn block(number: u64) -> Arc<Block> {
    made::block(number, BYTES)
}

pub(in crate::store) struct Running {
    pub(in crate::store) store: Store,
    pub(in crate::store) disk: DiskTier,
    reclaimer: Reclaimer,
    pub(in crate::store) found: Vec<Found>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Running {
    /// Memory for some blocks of the test's size, over a disk.
    pub(in crate::store) async fn over(dir: &Path, in_memory: u64) -> Self {
        let memory_bytes = in_memory * COST;
        let settings = DiskSettings {
            dir: dir.to_owned(),
            disk_bytes: 64 << 20,
            stop_percent: 100,
            // For the queue and the books.
            memory_bytes: 64 << 20,
            node: NodeId(1),
            region: "us-east".to_owned(),
        };
        let opened = disk::open(&settings).await.unwrap();
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        tasks.spawn(opened.writer.run(stop.clone()));
        let memory = Arc::new(MemoryTier::default());
        let disk = opened.tier.clone();
        let found = opened.found;
        Self {
            store: Store::over_disk(memory, memory_bytes, opened.tier, &found, 0),
            disk,
            reclaimer: opened.reclaimer,
            found,
            tasks,
            stop,
        }
    }

    /// Keeps and claims; what had to go.
    pub(in crate::store) async fn keep(&self, number: u64) -> Vec<CopyKey> {
        let evicted = self.store.keep(key(number), block(number)).await.unwrap();
        assert!(self.store.claim(key(number), block(number).meta.put_hlc));
        evicted
    }

    pub(in crate::store) async fn written(&self, number: u64) {
        let until = Instant::now() + Duration::from_secs(10);
        self.disk.synced(key(number), until).await.unwrap();
    }

    pub(in crate::store) async fn reads(&self, key: CopyKey, number: u64) -> bool {
        match self.store.read(key).await {
            Lookup::Hit(read) => {
                assert_eq!(*read, *block(number));
                true
            }
            Lookup::Miss => false,
            Lookup::Busy => panic!("the disk is not busy"),
        }
    }

    pub(in crate::store) async fn end(mut self) {
        self.stop.cancel();
        self.tasks.close();
        let ended = timeout(Duration::from_secs(10), self.tasks.wait());
        ended.await.unwrap();
        self.reclaimer.close().await;
    }
}

#[tokio::test]
async fn what_memory_has_no_room_for_stays_on_disk_and_comes_back_when_it_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let running = Running::over(dir.path(), 10).await;
    for number in 0..60 {
        assert_eq!(running.keep(number).await, [], "nothing is lost");
    }
    let usage = running.store.usage();
    assert_eq!((usage.copies, usage.used), (60, 10 * COST));
    running.written(59).await;
    for number in 0..60 {
        assert!(running.store.holds(key(number)));
        assert!(running.reads(key(number), number).await);
        assert!(running.store.usage().used <= usage.max);
    }
    let read = running.store.disk_usage().unwrap().read;
    assert!(read > 0);
    assert!(running.reads(key(59), 59).await, "it was read last");
    assert_eq!(
        running.store.disk_usage().unwrap().read,
        read,
        "out of memory"
    );
    running.store.remove(key(7)).await;
    assert!(!running.reads(key(7), 7).await && !running.disk.has(&key(7)));
    running.end().await;
}

#[tokio::test]
async fn what_is_found_is_offered_under_new_numbers_and_read() {
    let dir = tempfile::tempdir().unwrap();
    let running = Running::over(dir.path(), 10).await;
    for number in 0..30 {
        running.keep(number).await;
    }
    running.end().await;
    let running = Running::over(dir.path(), 10).await;
    assert_eq!(running.found.len(), 30);
    let inventory = running.store.inventory();
    assert_eq!(inventory.len(), 30);
    for (at, (old, _)) in inventory.into_iter().enumerate() {
        assert_eq!(old.copy.incarnation, FOUND);
        let number = running.store.found(old).unwrap().0.0;
        let copy = Copy {
            incarnation: Incarnation(5),
            ..key(at as u64).copy
        };
        let brief = running.store.renumber(old, copy).await.unwrap();
        assert_eq!(brief, Brief::of(&block(number).meta));
        let new = CopyKey { copy, ..old };
        assert!(!running.store.holds(old) && running.store.holds(new));
        assert!(running.reads(new, number).await);
    }
    assert_eq!(running.store.usage().provisional, 30);
    running.end().await;
}

#[tokio::test]
async fn what_is_leased_stays_on_a_disk_that_is_full() {
    let dir = tempfile::tempdir().unwrap();
    let mut running = Running::over(dir.path(), 40).await;
    let mut evicted = Vec::new();
    let leased = (NamespaceId([1; 16]), LeaseId([1; 16]));
    for number in 0..1_500 {
        running.keep(number).await;
        running.written(number).await;
        if number == 3 {
            let hold = Duration::from_secs(60);
            let granted = running.store.lease(leased, &[Some(key(3))], hold);
            assert_eq!(granted.copies, 1);
        }
        while let Some(gone) = running.store.reclaim(&mut running.reclaimer).await {
            evicted.extend(gone);
        }
        let disk = running.store.disk_usage().unwrap();
        assert!(disk.used <= disk.max);
    }
    assert!(running.store.holds(key(3)) && running.reads(key(3), 3).await);
    assert!(running.disk.has(&key(3)));
    assert!(evicted.contains(&key(0)) && !running.store.holds(key(0)));
    let held = running.store.usage().copies;
    assert_eq!(held + evicted.len() as u64, 1_500, "what went was told");
    running.end().await;
}

#[tokio::test]
async fn what_a_damaged_disk_loses_is_told_once() {
    let dir = tempfile::tempdir().unwrap();
    let running = Running::over(dir.path(), 3).await;
    for number in 0..10 {
        running.keep(number).await;
        running.written(number).await;
    }
    for entry in std::fs::read_dir(dir.path()).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|it| it == "segment") {
            let zeros = vec![0; std::fs::metadata(&path).unwrap().len() as usize];
            std::fs::write(&path, zeros).unwrap();
        }
    }
    let mut lost = Vec::new();
    for number in 0..10 {
        if !running.reads(key(number), number).await {
            lost.push(key(number));
        }
    }
    assert_eq!(lost.len(), 7, "memory has the others");
    assert!(lost.iter().all(|key| !running.store.holds(*key)));
    assert_eq!(running.store.departed(), [], "who read them knows");
    running.end().await;
}

#[tokio::test]
async fn ranges_read_their_pieces_of_the_disk_and_bring_nothing_back_to_memory() {
    const PIECE: u64 = 1 << 20;
    let large = |number: u64| {
        let byte = |at: u64| (at * 7 + (at >> 20) * 5 + number) as u8;
        let raw: Vec<u8> = (0..3 * PIECE + 9).map(byte).collect();
        Arc::new(Block::of(&Bytes::from(raw), 0))
    };
    let dir = tempfile::tempdir().unwrap();
    // Memory for two of the large blocks.
    let running = Running::over(dir.path(), 7 * PIECE / COST).await;
    for number in 0..3 {
        let kept = running.store.keep(key(number), large(number)).await;
        assert_eq!(kept.unwrap(), [], "the disk has what goes");
        assert!(running.store.claim(key(number), large(number).meta.put_hlc));
        running.written(number).await;
    }
    let wanted = Ranges::new([PIECE + 5..PIECE + 9, 3 * PIECE..3 * PIECE + 9]).unwrap();
    let disk_read = || running.store.disk_usage().unwrap().read;
    let before = disk_read();
    // The first is on disk only, twice; the last in memory.
    for (number, read) in [
        (0, 4_096 + PIECE + 4_096),
        (2, 0),
        (0, 4_096 + PIECE + 4_096),
    ] {
        let before = disk_read();
        let Lookup::Hit(pieces) = running.store.read_pieces(key(number), &wanted).await else {
            panic!("block {number} is here");
        };
        assert_eq!(pieces, Pieces::of(&large(number), &wanted));
        assert_eq!(pieces.numbers, [1, 3]);
        assert_eq!(disk_read() - before, read, "block {number}");
    }
    // A whole block does come back.
    assert!(matches!(running.store.read(key(0)).await, Lookup::Hit(_)));
    let whole = disk_read();
    let again = running.store.read_pieces(key(0), &wanted).await;
    assert!(matches!(again, Lookup::Hit(_)));
    assert_eq!(disk_read(), whole, "from memory");
    assert!(whole > before);
    let gone = running.store.read_pieces(key(7), &wanted).await;
    assert!(matches!(gone, Lookup::Miss));
    running.end().await;
}

#[tokio::test]
async fn what_is_read_to_be_copied_elsewhere_is_not_used_by_that() {
    let dir = tempfile::tempdir().unwrap();
    let running = Running::over(dir.path(), 4).await;
    for number in 0..8 {
        running.keep(number).await;
        running.written(number).await;
    }
    let held = |number| *running.store.ledger().held(key(number)).unwrap();
    // The first is on disk only, the last in memory.
    let before = [held(0), held(7)];
    assert_eq!(before.map(|held| held.in_memory), [false, true]);
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(5)).await;
    tokio::time::resume();
    for number in [0, 7] {
        let Lookup::Hit(read) = running.store.read_aside(key(number)).await else {
            panic!("block {number} is here");
        };
        assert_eq!(*read, *block(number));
    }
    assert_eq!([held(0), held(7)], before);
    let unknown = running.store.read_aside(key(9)).await;
    assert!(matches!(unknown, Lookup::Miss));
    assert!(running.reads(key(7), 7).await);
    assert!(held(7).uses > before[1].uses);
    running.end().await;
}
