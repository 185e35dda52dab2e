//! The disk tier over a disk that fails.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use kvmesh_directory::{CopyNumber, NodeId};
use proptest::prelude::*;
use tokio::time::Duration;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    faulty_io::{Faults, FaultyFiles},
    shared::Shape,
    start::open_files,
    *,
};
use crate::store::made;
pub(super) use crate::store::made::key;

pub(super) const SEGMENT: u64 = 64 << 10;

pub(super) fn block(number: u64) -> Arc<Block> {
    made::block(number, 3_000 + number % 5 * 1_000)
}

/// A tier whose tasks run.
pub(super) struct Running {
    pub(super) tier: DiskTier,
    pub(super) reclaimer: Reclaimer,
    pub(super) found: Vec<Found>,
    pub(super) tasks: TaskTracker,
    pub(super) stop: CancellationToken,
}

impl Running {
    pub(super) async fn over(files: &FaultyFiles, segments: u64) -> Self {
        Self::listing(files, segments, 1_000).await
    }

    /// With books that list so many copies.
    pub(super) async fn listing(files: &FaultyFiles, segments: u64, copies_max: usize) -> Self {
        let shape = Shape {
            disk_bytes: segments * SEGMENT,
            segment_bytes: SEGMENT,
            stop_percent: 95,
            copies_max,
            queue_bytes: 1 << 20,
        };
        let files = Arc::new(files.clone());
        let opened = open_files(files, shape, [3; 16], NodeId(1)).await.unwrap();
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        tasks.spawn(opened.writer.run(stop.clone()));
        Self {
            tier: opened.tier,
            reclaimer: opened.reclaimer,
            found: opened.found,
            tasks,
            stop,
        }
    }

    pub(super) async fn end(mut self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        self.reclaimer.close().await;
    }

    pub(super) async fn durable(&self, number: u64) -> Result<(), NotDurable> {
        let until = Instant::now() + Duration::from_secs(5);
        self.tier
            .make_durable(key(number), &block(number), until)
            .await
    }

    /// Waits until all that was taken is written, or failed.
    async fn written(&self) {
        let until = Instant::now() + Duration::from_secs(5);
        let (told, done) = oneshot::channel();
        self.tier.orders.send(Order::Sync(told)).await.unwrap();
        timeout_at(until, done).await.unwrap().unwrap();
    }

    pub(super) async fn hit(&self, key: CopyKey) -> bool {
        match self.tier.get(key).await {
            Lookup::Hit(read) => {
                let number = u64::from_be_bytes(key.name.hash.0[..8].try_into().unwrap());
                assert_eq!(*read, *block(number), "the very bytes");
                true
            }
            Lookup::Miss => false,
            Lookup::Busy => panic!("the disk is not busy"),
        }
    }

    pub(super) fn found_numbers(&self) -> BTreeSet<u64> {
        self.found
            .iter()
            .map(|found| found.brief.put_hlc.0)
            .collect()
    }
}

#[tokio::test]
async fn what_is_durable_outlives_a_power_cut_that_keeps_nothing_else() {
    let files = FaultyFiles::default();
    let disk = Running::over(&files, 32).await;
    for number in 0..40 {
        assert_eq!(disk.durable(number).await, Ok(()));
    }
    assert!(disk.tier.offer(key(99), &block(99)));
    let after = Running::over(&files.cut(|| false), 32).await;
    disk.end().await;
    let durable: BTreeSet<u64> = (0..40).collect();
    assert!(after.found_numbers().is_superset(&durable));
    for found in &after.found {
        assert!(after.hit(found.key).await);
    }
    after.end().await;
}

#[tokio::test]
async fn a_write_that_fails_is_told_and_the_disk_goes_on_later() {
    let wrong: [fn(&mut Faults); 5] = [
        |it| it.writes = true,
        |it| it.short = Some(5_000),
        |it| it.syncs = true,
        |it| it.creates = true,
        |it| it.full = true,
    ];
    for spoil in wrong {
        tokio::time::pause();
        let files = FaultyFiles::default();
        let disk = Running::over(&files, 32).await;
        let mut faults = Faults::default();
        spoil(&mut faults);
        files.fail(faults);
        assert!(disk.durable(1).await.is_err());
        files.fail(Faults::default());
        // The disk rests for a while; what it took and could not write departs.
        tokio::time::advance(Duration::from_secs(6)).await;
        tokio::time::resume();
        let again = disk.durable(2).await;
        assert_eq!(again, Ok(()), "{faults:?}");
        assert!(disk.hit(key(2)).await);
        let departed = disk.tier.departed();
        let lost = departed.contains(&key(1));
        assert!(lost || disk.hit(key(1)).await, "{faults:?}: {departed:?}");
        let after = Running::over(&files.cut(|| false), 32).await;
        assert!(after.found_numbers().contains(&2));
        after.end().await;
        disk.end().await;
    }
}

#[tokio::test]
async fn a_record_that_is_wrong_is_a_miss_once_and_then_forgotten() {
    let files = FaultyFiles::default();
    let disk = Running::over(&files, 32).await;
    for number in 1..4 {
        assert_eq!(disk.durable(number).await, Ok(()));
    }
    let Some(Copied::Written(written)) = disk.tier.shared.state().index.get(&key(2)).cloned()
    else {
        panic!("it is written");
    };
    let place = written.place;
    files.flip(place.segment, place.offset as usize + 4_096 + 77, 3);
    assert!(!disk.hit(key(2)).await);
    assert!(!disk.tier.has(&key(2)));
    assert_eq!(disk.tier.departed(), [key(2)]);
    assert!(disk.hit(key(1)).await && disk.hit(key(3)).await);
    assert_eq!(disk.tier.usage().corrupt, 1);
    files.fail(Faults {
        reads: true,
        ..Faults::default()
    });
    assert!(!disk.hit(key(1)).await, "a disk that fails makes misses");
    disk.end().await;
}

#[tokio::test]
async fn a_piece_that_is_wrong_is_a_miss_for_who_wants_it() {
    const PIECE: u64 = 1 << 20;
    let raw: Vec<u8> = (0..3 * PIECE + 9)
        .map(|at| (at ^ (at >> 20)) as u8)
        .collect();
    let block = Arc::new(Block::of(&Bytes::from(raw.clone()), 0));
    let files = FaultyFiles::default();
    let disk = Running::over(&files, 200).await;
    let until = Instant::now() + Duration::from_secs(5);
    let durable = disk.tier.make_durable(key(1), &block, until).await;
    assert_eq!(durable, Ok(()));
    let wanted = |spans: &[(u64, u64)]| {
        let spans = spans.iter().map(|&(start, end)| start..end);
        Ranges::new(spans).unwrap()
    };
    let Some(Copied::Written(written)) = disk.tier.shared.state().index.get(&key(1)).cloned()
    else {
        panic!("it is written");
    };
    let place = written.place;
    // A bit of piece 2.
    files.flip(
        place.segment,
        (place.offset + 4_096 + 2 * PIECE) as usize + 77,
        3,
    );
    let others = wanted(&[(PIECE + 5, PIECE + 9), (3 * PIECE, 3 * PIECE + 9)]);
    match disk.tier.pieces(key(1), &others).await {
        Lookup::Hit(pieces) => {
            assert_eq!(pieces.numbers, [1, 3]);
            assert_eq!(pieces, Pieces::of(&block, &others));
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(disk.tier.usage().read, 4_096 + PIECE + 4_096);
    let short = wanted(&[(0, 3 * PIECE + 10)]);
    let past = disk.tier.pieces(key(1), &short).await;
    assert!(
        matches!(past, Lookup::Busy) && disk.tier.has(&key(1)),
        "no fault of the disk"
    );
    let damaged = wanted(&[(0, 1), (2 * PIECE, 2 * PIECE + 1)]);
    let missed = disk.tier.pieces(key(1), &damaged);
    assert!(matches!(missed.await, Lookup::Miss));
    assert_eq!(disk.tier.departed(), [key(1)]);
    assert_eq!(disk.tier.usage().corrupt, 1);
    disk.end().await;
}

#[tokio::test]
async fn an_offer_that_finds_no_room_is_refused_and_counted() {
    let disk = Running::over(&FaultyFiles::default(), 32).await;
    // Nothing is written before this task yields.
    let taken = (0..2_000).filter(|number| disk.tier.offer(key(*number), &block(*number)));
    let taken = taken.count();
    assert!(
        (100..1_000).contains(&taken),
        "{taken} fit the queue's megabyte"
    );
    assert_eq!(disk.tier.usage().skipped, 2_000 - taken as u64);
    disk.end().await;
}

#[tokio::test]
async fn a_new_number_changes_no_byte_on_disk() {
    let files = FaultyFiles::default();
    let disk = Running::over(&files, 32).await;
    assert_eq!(disk.durable(1).await, Ok(()));
    let before = files.written();
    let mut renamed = key(1);
    renamed.copy.copy = CopyNumber(77);
    assert_eq!(
        disk.tier.renamed(&key(1), renamed),
        Some(Brief::of(&block(1).meta))
    );
    assert_eq!(disk.tier.renamed(&key(1), renamed), None);
    assert!(disk.hit(renamed).await && !disk.hit(key(1)).await);
    assert_eq!(files.written(), before);
    disk.end().await;
}

#[derive(Debug, Clone)]
enum Step {
    Offer(u64),
    Durable(u64),
    Remove(u64),
    Read(u64),
    Restart,
    /// The seed chooses what is kept of what was not synced.
    Cut(u64),
    Fail(u8),
    Heal,
    Flip(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let number = 0..30_u64;
    let step = prop_oneof![
        4 => number.clone().prop_map(Step::Offer),
        4 => number.clone().prop_map(Step::Durable),
        1 => number.clone().prop_map(Step::Remove),
        4 => number.clone().prop_map(Step::Read),
        1 => Just(Step::Restart),
        1 => any::<u64>().prop_map(Step::Cut),
        1 => (0..5_u8).prop_map(Step::Fail),
        2 => Just(Step::Heal),
        1 => number.prop_map(Step::Flip),
    ];
    prop::collection::vec(step, 1..60)
}

/// Runs steps; what is read is always right, and what was durable and not removed, and no
/// bit of it flipped, is always there.
async fn follows_the_model(steps: Vec<Step>) {
    let mut files = FaultyFiles::default();
    let mut disk = Running::over(&files, 1_000).await;
    let mut durable: BTreeSet<u64> = BTreeSet::new();
    // Nothing is promised of those any more.
    let mut flipped: BTreeSet<u64> = BTreeSet::new();
    // After a start, copies have other numbers.
    let mut keys: BTreeMap<u64, CopyKey> = (0..30).map(|number| (number, key(number))).collect();
    for step in steps {
        match step {
            Step::Offer(number) => drop(disk.tier.offer(keys[&number], &block(number))),
            Step::Durable(number) => {
                let until = Instant::now() + Duration::from_millis(500);
                let block = block(number);
                let done = disk.tier.make_durable(keys[&number], &block, until);
                if done.await.is_ok() && !flipped.contains(&number) {
                    durable.insert(number);
                }
            }
            Step::Remove(number) => {
                disk.tier.forget(&keys[&number]);
                durable.remove(&number);
            }
            Step::Read(number) => {
                let hit = disk.hit(keys[&number]).await;
                assert!(hit || !durable.contains(&number));
                if !hit {
                    durable.remove(&number);
                }
            }
            Step::Restart | Step::Cut(_) => {
                if let Step::Cut(mut seed) = step {
                    files = files.cut(|| {
                        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                        seed >> 63 == 0
                    });
                    disk.end().await;
                } else {
                    disk.written().await;
                    disk.end().await;
                    files.fail(Faults::default());
                }
                disk = Running::over(&files, 1_000).await;
                let found = disk.found_numbers();
                assert!(found.is_superset(&durable), "{durable:?} in {found:?}");
                keys = (0..30).map(|number| (number, key(number))).collect();
                for found in &disk.found {
                    keys.insert(found.brief.put_hlc.0, found.key);
                }
            }
            Step::Fail(which) => files.fail(Faults {
                writes: which == 0,
                short: (which == 1).then_some(5_000),
                syncs: which == 2,
                creates: which == 3,
                full: which == 4,
                reads: false,
            }),
            Step::Heal => {
                files.fail(Faults::default());
                tokio::time::advance(Duration::from_secs(6)).await;
            }
            Step::Flip(number) => {
                let place = match disk.tier.shared.state().index.get(&keys[&number]) {
                    Some(Copied::Written(written)) => written.place,
                    _ => continue,
                };
                files.flip(
                    place.segment,
                    place.offset as usize + number as usize * 100,
                    1,
                );
                flipped.insert(number);
                durable.remove(&number);
            }
        }
    }
    disk.end().await;
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn the_disk_is_its_model(steps in steps()) {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_all().start_paused(true).build();
        runtime.unwrap().block_on(follows_the_model(steps));
    }
}
