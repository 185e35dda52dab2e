//! Memory over a disk of a real directory.

use std::path::Path;

use bytes::Bytes;
use kvmesh_client::BlockMeta;
use kvmesh_client::lease::LeaseId;
use kvmesh_directory::{BlockHash, BlockName, CopyNumber, NamespaceId, NodeId, Part};
use tokio::time::timeout;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::*;
use crate::store::{
    COPY_OVERHEAD_BYTES, MemoryTier,
    arena::footprint,
    disk::{self, DiskSettings},
};

const BYTES: u64 = 100_000;
const COST: u64 = footprint(BYTES) + COPY_OVERHEAD_BYTES;

fn key(number: u64) -> CopyKey {
    let mut hash = [0; 32];
    hash[..8].copy_from_slice(&number.to_be_bytes());
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

fn block(number: u64) -> Arc<Block> {
    let bytes: Vec<u8> = (0..BYTES).map(|at| (at * 7 + number * 31) as u8).collect();
    let block = Block::of(&Bytes::from(bytes), 0);
    Arc::new(Block {
        meta: BlockMeta {
            put_hlc: Hlc(number + 1),
            ..block.meta
        },
        pieces: block.pieces,
    })
}

struct Running {
    store: Store,
    disk: DiskTier,
    reclaimer: Reclaimer,
    found: Vec<Found>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Running {
    /// Memory for some blocks of the test's size, over a disk.
    async fn over(dir: &Path, in_memory: u64) -> Self {
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
    async fn keep(&self, number: u64) -> Vec<CopyKey> {
        let evicted = self.store.keep(key(number), block(number)).await.unwrap();
        assert!(self.store.claim(key(number)));
        evicted
    }

    async fn written(&self, number: u64) {
        let until = Instant::now() + Duration::from_secs(10);
        self.disk.synced(key(number), until).await.unwrap();
    }

    async fn reads(&self, key: CopyKey, number: u64) -> bool {
        match self.store.read(key).await {
            Lookup::Hit(read) => {
                assert_eq!(*read, *block(number));
                true
            }
            Lookup::Miss => false,
            Lookup::Busy => panic!("the disk is not busy"),
        }
    }

    async fn end(mut self) {
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
        let number = running.store.found(old).unwrap().0.0 - 1;
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
