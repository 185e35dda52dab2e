//! Memory over a device in memory, some of it over a disk as well.

use kvmesh_client::lease::LeaseId;
use kvmesh_directory::{NamespaceId, NodeId};
use tokio::time::{Duration, Instant, advance};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::*;
use crate::store::{
    COPY_OVERHEAD_BYTES, MemoryTier,
    arena::footprint,
    disk::{self, DiskSettings, Reclaimer},
    gpu::{
        Patience,
        faulty_device::{Faults, FaultyDevice},
    },
    made::{self, key},
};

const BYTES: u64 = 100_000;
const COST: u64 = footprint(BYTES) + COPY_OVERHEAD_BYTES;

fn block(number: u64) -> Arc<Block> {
    made::block(number, BYTES)
}

struct Floors {
    store: Store,
    gpu: GpuTier,
    device: FaultyDevice,
}

impl Floors {
    /// For so many blocks each.
    fn of(in_memory: u64, on_device: u64) -> Self {
        let memory = Arc::new(MemoryTier::default());
        Self::over(Store::new(memory, in_memory * COST), on_device)
    }

    fn over(store: Store, on_device: u64) -> Self {
        Self::patient(store, on_device, Patience::default())
    }

    fn patient(store: Store, on_device: u64, patience: Patience) -> Self {
        let device = FaultyDevice::default();
        let max = on_device * BYTES;
        let gpu = GpuTier::with_patience(Arc::new(device.clone()), max, patience);
        Self {
            store: store.with_gpu(gpu.clone()),
            gpu,
            device,
        }
    }

    /// Keeps and claims; what had to go.
    async fn keep(&self, number: u64) -> Vec<CopyKey> {
        let evicted = self.store.keep(key(number), block(number)).await.unwrap();
        assert!(self.store.claim(key(number), block(number).meta.put_hlc));
        evicted
    }

    async fn reads(&self, number: u64) -> &'static str {
        match self.store.read(key(number)).await {
            Lookup::Hit(read) => {
                assert_eq!(*read, *block(number));
                "hit"
            }
            Lookup::Miss => "miss",
            Lookup::Busy => "busy",
        }
    }

    /// All that is to be copied to the device is; what went for it.
    async fn lift_all(&self) -> Lifted {
        let mut all = Lifted::default();
        while let Some(lifted) = self.store.lift().await {
            all.evicted.extend(lifted.evicted);
            all.lost.extend(lifted.lost);
        }
        all
    }

    /// Reads a block in a later second than before, which makes it hot, and copies it up.
    async fn heat(&self, number: u64) -> Lifted {
        advance(Duration::from_secs(1)).await;
        assert_eq!(self.reads(number).await, "hit");
        self.lift_all().await
    }

    /// Puts so many others; what had to go for them.
    async fn crowd(&self, from: u64, count: u64) -> Vec<CopyKey> {
        let mut evicted = Vec::new();
        for number in from..from + count {
            advance(Duration::from_secs(1)).await;
            evicted.extend(self.keep(number).await);
        }
        evicted
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_hot_is_on_the_device_when_memory_lets_it_go_and_comes_back() {
    let floors = Floors::of(10, 4);
    floors.keep(1).await;
    floors.keep(2).await;
    assert_eq!(floors.reads(1).await, "hit");
    assert_eq!(floors.lift_all().await, Lifted::default());
    assert_eq!(floors.gpu.usage().copies, 0, "once in a second is not hot");
    assert_eq!(floors.heat(1).await, Lifted::default());
    assert!(floors.gpu.has(&key(1)) && !floors.gpu.has(&key(2)));
    assert_eq!(floors.crowd(100, 20).await[0], key(2), "only memory had it");
    assert!(floors.store.holds(key(1)) && !floors.store.holds(key(2)));
    let in_memory = async || matches!(floors.store.tier.get(key(1)).await, Lookup::Hit(_));
    assert!(!in_memory().await);
    let out = floors.gpu.usage().copied_out;
    // Others are to be let go for it, and only memory has those: it is served and not kept.
    assert_eq!(floors.reads(1).await, "hit");
    assert_eq!(floors.gpu.usage().copied_out, out + BYTES);
    assert!(!in_memory().await);
    for number in 100..120 {
        floors.store.remove(key(number)).await;
    }
    assert_eq!(floors.reads(1).await, "hit");
    assert!(in_memory().await);
    let usage = floors.store.usage();
    assert_eq!((usage.copies, usage.used), (1, COST));
    assert!(floors.store.remove(key(1)).await);
    assert_eq!(floors.lift_all().await, Lifted::default());
    assert_eq!((floors.reads(1).await, floors.device.held()), ("miss", 0));
}

#[tokio::test(start_paused = true)]
async fn a_short_device_keeps_what_is_hotter() {
    let floors = Floors::of(10, 2);
    for number in 1..=3 {
        floors.keep(number).await;
    }
    floors.heat(1).await;
    floors.heat(2).await;
    assert_eq!(floors.heat(3).await, Lifted::default());
    assert!(!floors.gpu.has(&key(3)), "the others are as hot");
    // Two more uses say more, and so does a time in which nobody wants the other.
    floors.heat(3).await;
    assert_eq!(floors.heat(3).await, Lifted::default());
    assert!(floors.gpu.has(&key(3)) && !floors.gpu.has(&key(1)));
    assert_eq!(
        (floors.reads(1).await, floors.store.usage().copies),
        ("hit", 3)
    );
    // What was read of late is known to be warm although the device was not asked for it.
    advance(Duration::from_secs(200)).await;
    floors.store.touch(&[key(2)]);
    floors.heat(1).await;
    assert!(floors.gpu.has(&key(1)) && floors.gpu.has(&key(2)));
    assert_eq!(floors.device.held() as u64, 2 * BYTES);
}

#[tokio::test(start_paused = true)]
async fn what_only_a_short_device_has_moves_down_or_is_told() {
    let floors = Floors::of(10, 1);
    floors.keep(1).await;
    floors.heat(1).await;
    let evicted = floors.crowd(100, 20).await;
    assert!(!evicted.contains(&key(1)) && floors.store.holds(key(1)));
    // Memory has room again: the block that leaves the device goes there.
    floors.store.remove(key(119)).await;
    advance(Duration::from_secs(200)).await;
    assert_eq!(floors.heat(118).await, Lifted::default());
    assert!(floors.gpu.has(&key(118)) && !floors.gpu.has(&key(1)));
    let out = floors.gpu.usage().copied_out;
    assert_eq!(
        (floors.reads(1).await, floors.gpu.usage().copied_out),
        ("hit", out)
    );
    // Now 118 is the one that only the device has, and memory is full.
    let evicted = floors.crowd(200, 20).await;
    assert!(!evicted.contains(&key(118)) && floors.store.holds(key(118)));
    advance(Duration::from_secs(200)).await;
    let lifted = floors.heat(219).await;
    assert_eq!((lifted.evicted, lifted.lost), (vec![key(118)], vec![]));
    assert!(!floors.store.holds(key(118)) && floors.gpu.has(&key(219)));
    assert_eq!(floors.reads(118).await, "miss");
}

#[tokio::test(start_paused = true)]
async fn what_is_leased_stays_although_only_a_short_device_has_it() {
    let floors = Floors::of(10, 1);
    floors.keep(1).await;
    floors.heat(1).await;
    floors.crowd(100, 20).await;
    let lease = (NamespaceId([1; 16]), LeaseId([1; 16]));
    let hold = Duration::from_secs(300);
    let granted = floors.store.lease(lease, &[Some(key(1))], hold);
    assert_eq!(granted.copies, 1);
    advance(Duration::from_secs(200)).await;
    assert_eq!(floors.heat(119).await, Lifted::default());
    assert_eq!(
        (floors.reads(1).await, floors.gpu.has(&key(119))),
        ("hit", false)
    );
    floors.store.release_lease(lease);
    advance(Duration::from_secs(400)).await;
    assert_eq!(floors.heat(119).await.evicted, [key(1)]);
}

#[tokio::test(start_paused = true)]
async fn what_the_device_damages_is_gone_and_what_it_keeps_back_is_not() {
    let floors = Floors::of(10, 4);
    for number in 1..=2 {
        floors.keep(number).await;
        floors.heat(number).await;
    }
    floors.crowd(100, 20).await;
    floors.device.fail(Faults {
        copies_out: true,
        ..Faults::default()
    });
    assert_eq!(floors.reads(1).await, "busy");
    assert!(floors.store.holds(key(1)), "it is not stale");
    floors.device.fail(Faults {
        flips: true,
        ..Faults::default()
    });
    advance(Duration::from_secs(60)).await;
    assert_eq!(floors.reads(1).await, "miss");
    assert!(!floors.store.holds(key(1)));
    assert_eq!(floors.store.departed(), [], "who read it knows");
    floors.device.fail(Faults {
        copies_out: true,
        ..Faults::default()
    });
    // The third failure, with no success since the first.
    for _ in 0..2 {
        assert_eq!(floors.reads(2).await, "busy");
        advance(Duration::from_secs(60)).await;
    }
    assert_eq!(floors.store.departed(), [key(2)], "the device was given up");
    assert!(!floors.store.holds(key(2)));
    let floor = floors.store.usage();
    assert_eq!(floor.copies, floor.used / COST, "memory has all others");
}

#[tokio::test(start_paused = true)]
async fn a_copy_that_only_the_device_has_takes_another_number() {
    let floors = Floors::of(10, 4);
    floors.keep(1).await;
    floors.heat(1).await;
    floors.crowd(100, 20).await;
    let copy = key(900).copy;
    let brief = floors.store.renumber(key(1), copy).await.unwrap();
    assert_eq!(brief.checksum, block(1).meta.checksum);
    let new = CopyKey { copy, ..key(1) };
    assert!(!floors.store.holds(key(1)) && floors.store.holds(new));
    assert!(floors.store.claim(new, brief.put_hlc));
    let read = floors.store.read(new).await;
    assert!(matches!(read, Lookup::Hit(read) if *read == *block(1)));
}

/// Over a disk of a real directory, which needs a clock that goes by itself.
struct WithDisk {
    floors: Floors,
    reclaimer: Reclaimer,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl WithDisk {
    async fn start(dir: &std::path::Path, on_device: u64) -> Self {
        let settings = DiskSettings {
            dir: dir.to_owned(),
            disk_bytes: 64 << 20,
            stop_percent: 100,
            memory_bytes: 64 << 20,
            node: NodeId(1),
            region: "us-east".to_owned(),
        };
        let opened = disk::open(&settings).await.unwrap();
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        tasks.spawn(opened.writer.run(stop.clone()));
        let memory = Arc::new(MemoryTier::default());
        let patience = Patience {
            rest: Duration::ZERO,
            ..Patience::default()
        };
        let store = Store::over_disk(memory, 10 * COST, opened.tier, &[], 0);
        Self {
            floors: Floors::patient(store, on_device, patience),
            reclaimer: opened.reclaimer,
            tasks,
            stop,
        }
    }

    async fn end(mut self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        self.reclaimer.close().await;
    }
}

fn damage(dir: &std::path::Path) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|it| it == "segment") {
            let zeros = vec![0; std::fs::metadata(&path).unwrap().len() as usize];
            std::fs::write(&path, zeros).unwrap();
        }
    }
}

/// Has the device keep a copy that is in memory, and nothing else.
async fn only_on_device(floors: &Floors, number: u64) {
    let key = key(number);
    floors.gpu.put(key, block(number)).await.unwrap();
    floors.store.disk.as_ref().unwrap().forget(&key);
    floors.store.tier.remove(key).await;
    let mut ledger = floors.store.ledger();
    let max = ledger.usage().max;
    let gone = ledger.resize(0, 1, 0, |_| true);
    assert_eq!(gone.demoted, [key]);
    ledger.resize(max, 0, 0, |_| true);
}

#[tokio::test]
async fn what_leaves_a_short_device_is_written_to_disk() {
    let dir = tempfile::tempdir().unwrap();
    let running = WithDisk::start(dir.path(), 1).await;
    let floors = &running.floors;
    floors.keep(1).await;
    only_on_device(floors, 1).await;
    floors.keep(2).await;
    assert!(floors.store.ledger().touch(key(2), 500));
    floors.gpu.wish(key(2));
    assert_eq!(floors.lift_all().await, Lifted::default());
    assert!(floors.gpu.has(&key(2)) && !floors.gpu.has(&key(1)));
    assert!(floors.store.disk.as_ref().unwrap().has(&key(1)));
    assert_eq!(floors.reads(1).await, "hit");
    running.end().await;
}

#[tokio::test]
async fn what_only_the_device_has_becomes_durable_and_the_disk_has_what_it_damages() {
    let dir = tempfile::tempdir().unwrap();
    let running = WithDisk::start(dir.path(), 4).await;
    let floors = &running.floors;
    let disk = floors.store.disk.clone().unwrap();
    floors.keep(1).await;
    only_on_device(floors, 1).await;
    assert!(floors.store.holds(key(1)) && !disk.has(&key(1)));
    let until = Instant::now() + Duration::from_secs(30);
    floors.store.make_durable(key(1), until).await.unwrap();
    assert!(disk.has(&key(1)));
    floors.device.fail(Faults {
        flips: true,
        ..Faults::default()
    });
    assert_eq!(floors.reads(1).await, "hit");
    assert_eq!(floors.gpu.usage().corrupt, 1);
    assert!(!floors.gpu.has(&key(1)) && floors.store.holds(key(1)));
    // And the other way round, with a device that does not answer when the disk is damaged.
    floors.device.fail(Faults::default());
    floors.gpu.put(key(1), block(1)).await.unwrap();
    floors.store.tier.remove(key(1)).await;
    floors.store.ledger().resize(0, 1, 0, |_| true);
    damage(dir.path());
    floors.device.fail(Faults {
        copies_out: true,
        ..Faults::default()
    });
    assert_eq!(floors.reads(1).await, "busy");
    assert!(!disk.has(&key(1)));
    assert_eq!(floors.store.departed(), [], "the device has it yet");
    floors.device.fail(Faults::default());
    assert_eq!(floors.reads(1).await, "hit");
    running.end().await;
}
