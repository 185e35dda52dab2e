use super::*;
use crate::store::{
    BlockTier, Lookup,
    disk::{
        DiskTier,
        disk_test::{Running, SEGMENT, block, key},
        faulty_io::FaultyFiles,
        io::Files,
        record::Header,
        shared::KEPT_PART,
    },
};

const SEGMENTS: u64 = 12;

/// What the store does with a segment that can go.
async fn reclaim(disk: &mut Running, pinned: &BTreeSet<u64>) -> Vec<u64> {
    let mut gone = Vec::new();
    let is_pinned = |key: &CopyKey| pinned.contains(&key.copy.copy.0);
    while let Some(number) = disk.reclaimer.emptied(&is_pinned).await {
        let copies = disk.tier.copies_of(number);
        copies.iter().for_each(|key| disk.tier.forget(key));
        gone.extend(copies.iter().map(|key| key.copy.copy.0));
        disk.reclaimer.discard(number).await;
    }
    gone
}

fn held(tier: &DiskTier, numbers: std::ops::Range<u64>) -> Vec<u64> {
    numbers.filter(|number| tier.has(&key(*number))).collect()
}

/// Books are full long before the disk is where blocks are small.
#[tokio::test]
async fn the_oldest_go_where_the_books_are_full_and_what_is_pinned_or_read_stays() {
    // A segment has room for more than twelve.
    for copies in [64, 12] {
        books_are_full(copies).await;
    }
}

async fn books_are_full(copies: usize) {
    let files = FaultyFiles::default();
    // None of these needs to go for bytes.
    let segments = 700;
    let mut disk = Running::listing(&files, segments, copies).await;
    let pinned: BTreeSet<u64> = [3].into();
    for number in 0..600 {
        assert_eq!(disk.durable(number).await, Ok(()), "{number}");
        if number >= 7 {
            assert!(disk.hit(key(7)).await, "it is read again and again");
        }
        reclaim(&mut disk, &pinned).await;
        if number % 100 == 99 {
            // What is there at a start is in the books as well.
            let after = Running::listing(&files.cut(|| false), segments, copies).await;
            assert!(
                after.found.len() <= copies,
                "{} are found",
                after.found.len()
            );
            after.end().await;
        }
    }
    let left = held(&disk.tier, 0..600);
    assert!(left.len() <= copies && left.len() > copies / 2, "{left:?}");
    for number in [3, 7, 599] {
        assert!(left.contains(&number), "{number} stays: {left:?}");
    }
    disk.end().await;
}

/// Else it would look empty, and go with what was written to it.
#[tokio::test]
async fn a_segment_is_not_closed_before_what_it_has_is_listed() {
    let files = FaultyFiles::default();
    let mut disk = Running::over(&files, SEGMENTS).await;
    let record = |number| Record {
        header: Header {
            name: key(number).name,
            meta: block(number).meta.clone(),
            log: disk.reclaimer.shared.log(),
        },
        block: block(number),
    };
    let records: Vec<Record> = (0..60).map(record).collect();
    let (mut done, mut segments) = (0, BTreeSet::new());
    while done < records.len() {
        let (places, stopped) = disk.reclaimer.appender.append(&records[done..]).await;
        assert!(stopped.is_none() && !places.is_empty());
        let state = disk.reclaimer.shared.state();
        for place in &places {
            assert!(!state.index.segments()[&place.segment].closed);
        }
        segments.extend(places.iter().map(|place| place.segment));
        done += places.len();
    }
    assert!(segments.len() > 3);
    disk.end().await;
}

#[tokio::test]
async fn the_oldest_go_what_is_pinned_or_read_stays_and_the_budget_holds() {
    let files = FaultyFiles::default();
    let mut disk = Running::over(&files, SEGMENTS).await;
    let pinned: BTreeSet<u64> = [3, 50].into();
    let mut evicted = BTreeSet::new();
    for number in 0..600 {
        assert_eq!(disk.durable(number).await, Ok(()), "{number}");
        assert!(number < 3 || disk.tier.has(&key(3)), "it is pinned");
        if number >= 7 {
            assert!(disk.hit(key(7)).await, "it is read again and again");
        }
        evicted.extend(reclaim(&mut disk, &pinned).await);
        assert!(disk.tier.usage().used <= SEGMENTS * SEGMENT);
        if number % 25 == 24 {
            let after = Running::over(&files.cut(|| false), SEGMENTS).await;
            let found = after.found_numbers();
            let there = held(&disk.tier, 0..600);
            assert!(
                there.iter().all(|it| found.contains(it)),
                "{there:?} in {found:?}"
            );
            after.end().await;
        }
    }
    let left = held(&disk.tier, 0..600);
    for number in [3, 7, 50, 599] {
        assert!(left.contains(&number), "{number} stays");
    }
    assert!(evicted.contains(&0) && !left.contains(&0));
    let all: BTreeSet<u64> = left.iter().chain(&evicted).copied().collect();
    assert_eq!(all.len(), 600, "what went was told");
    for number in left {
        assert!(disk.hit(key(number)).await);
    }
    disk.end().await;
}

#[tokio::test]
async fn a_disk_that_nobody_makes_room_on_takes_no_more_than_its_budget() {
    let files = FaultyFiles::default();
    let disk = Running::over(&files, SEGMENTS).await;
    let mut number = 0;
    while disk.durable(number).await.is_ok() {
        number += 1;
        assert!(number < 200, "the budget has room for fewer");
        assert!(
            disk.tier.usage().used < SEGMENTS * SEGMENT,
            "one is left to the reclaimer"
        );
    }
    assert!(number > 50);
    assert_eq!(held(&disk.tier, 0..number).len() as u64, number);
    disk.end().await;
}

/// Puts until nothing is taken, or so many blocks; how many were.
async fn put(disk: &mut Running, numbers: std::ops::Range<u64>, pinned: &BTreeSet<u64>) -> u64 {
    let first = numbers.start;
    for number in numbers {
        disk.reclaimer.look().await;
        reclaim(disk, pinned).await;
        if disk.durable(number).await.is_err() {
            return number - first;
        }
        assert!(disk.hit(key(number)).await);
    }
    disk.reclaimer.look().await;
    reclaim(disk, pinned).await;
    u64::MAX
}

#[tokio::test]
async fn where_others_fill_the_file_system_the_oldest_go_and_a_part_stays() {
    let files = FaultyFiles::default();
    // Of 100 segments 95 may be in use; others leave 32.
    let others = |segments| files.shares(100 * SEGMENT, segments * SEGMENT);
    let held_segments = || files.bytes() / SEGMENT;
    others(63);
    let mut disk = Running::over(&files, 48).await;
    let pinned: BTreeSet<u64> = [3].into();
    let (all, least) = (u64::MAX, 32 / KEPT_PART);
    assert_eq!(put(&mut disk, 0..600, &pinned).await, all);
    assert!((27..=32).contains(&held_segments()), "{}", held_segments());
    assert_eq!(disk.tier.usage().max, 32 * SEGMENT, "it says so");
    assert!(disk.tier.has(&key(3)) && !disk.tier.has(&key(4)));

    // They want more: it gives way, and goes on.
    others(75);
    assert_eq!(put(&mut disk, 600..1_000, &pinned).await, all);
    assert!((15..=20).contains(&held_segments()), "{}", held_segments());
    assert!(disk.tier.has(&key(3)) && disk.tier.has(&key(999)));

    // They want all: a part stays and is read, nothing is written.
    others(95);
    assert!(put(&mut disk, 1_000..1_100, &pinned).await < 100);
    assert_eq!(disk.tier.usage().max, (least + SPARE + 1) * SEGMENT);
    let left = held_segments();
    assert!((least..=least + SPARE).contains(&left), "{left}");
    let stays = held(&disk.tier, 0..1_100);
    assert!(stays.contains(&3) && stays.len() > 30, "{stays:?}");
    for number in &stays {
        assert!(disk.hit(key(*number)).await);
    }

    // They are gone: it has its budget again.
    others(0);
    let again = async {
        while disk.durable(1_100).await.is_err() {
            disk.reclaimer.crowded().await;
        }
    };
    timeout(Duration::from_secs(20), again).await.unwrap();
    assert_eq!(put(&mut disk, 1_101..1_700, &pinned).await, all);
    assert!((43..=48).contains(&held_segments()), "{}", held_segments());
    disk.end().await;
}

#[tokio::test]
async fn what_is_more_than_fits_at_a_start_goes_once_it_may() {
    let files = FaultyFiles::default();
    let mut disk = Running::over(&files, 48).await;
    assert_eq!(put(&mut disk, 0..250, &BTreeSet::new()).await, u64::MAX);
    disk.end().await;
    let before = files.bytes() / SEGMENT;
    assert!(before > 30, "{before}");

    // 95 may be in use, and 99 are or so.
    let others = 99 - before;
    files.shares(100 * SEGMENT, others * SEGMENT);
    let mut disk = Running::over(&files, 48).await;
    let mut pinned: BTreeSet<u64> = disk.found.iter().map(|it| it.key.copy.copy.0).collect();
    let read = files.read();
    assert_eq!(reclaim(&mut disk, &pinned).await, [0; 0]);
    assert_eq!(files.read(), read, "nothing is read in vain");
    assert_eq!(files.bytes() / SEGMENT, before);
    // A few are not claimed yet.
    let kept = pinned.split_off(&(pinned.len() as u64 - 9));
    reclaim(&mut disk, &kept).await;
    let left = files.bytes() / SEGMENT;
    assert!(left <= 95 - others - SPARE, "{left}");
    for found in &disk.found {
        let number = found.key.copy.copy.0;
        assert!(!kept.contains(&number) || disk.hit(found.key).await);
    }
    assert_eq!(disk.durable(900).await, Ok(()));
    disk.end().await;
}

#[tokio::test]
async fn what_is_written_again_is_bounded() {
    let files = FaultyFiles::default();
    let mut disk = Running::over(&files, SEGMENTS).await;
    let none = BTreeSet::new();
    for number in 0..1_500 {
        assert_eq!(disk.durable(number).await, Ok(()));
        // Everything is read: all of it would be carried on.
        for number in held(&disk.tier, number.saturating_sub(150)..number) {
            if number % 2 == 0 {
                disk.tier.forget(&key(number));
            } else {
                disk.tier.shared.state().index.read(&key(number));
            }
        }
        reclaim(&mut disk, &none).await;
    }
    let usage = disk.tier.usage();
    assert!(usage.carried > 0, "something was carried on");
    assert!(usage.carried * 2 <= usage.written, "{usage:?}");
    disk.end().await;
}

#[tokio::test]
async fn who_reads_a_segment_that_goes_reads_it_to_the_end() {
    let files = FaultyFiles::default();
    let mut disk = Running::over(&files, SEGMENTS).await;
    assert_eq!(disk.durable(0).await, Ok(()));
    let segment = disk
        .tier
        .shared
        .state()
        .open
        .values()
        .next()
        .cloned()
        .unwrap();
    let Lookup::Hit(held) = disk.tier.get(key(0)).await else {
        panic!("it is there");
    };
    for number in 1..300 {
        assert_eq!(disk.durable(number).await, Ok(()));
        reclaim(&mut disk, &BTreeSet::new()).await;
        disk.tier.forget(&key(0));
    }
    assert!(!files.list().unwrap().contains(&segment.number), "it went");
    let (_, read) = segment
        .record(0, super::super::record::record_bytes(&held.meta))
        .unwrap();
    assert_eq!((&read, &*held), (&*block(0), &*block(0)));
    disk.end().await;
}
