//! What becomes of a disk that is started again and again.

use std::collections::BTreeSet;

use super::*;
use crate::store::{
    CopyKey,
    disk::{
        disk_test::{Running, SEGMENT},
        faulty_io::FaultyFiles,
    },
};

const SEGMENTS: u64 = 12;

/// What the store does with segments that can go; how many copies went with them.
async fn reclaim(disk: &mut Running) -> usize {
    let mut gone = 0;
    while let Some(number) = disk.reclaimer.emptied(&|_: &CopyKey| false).await {
        let copies = disk.tier.copies_of(number);
        copies.iter().for_each(|key| disk.tier.forget(key));
        gone += copies.len();
        disk.reclaimer.discard(number).await;
    }
    gone
}

#[tokio::test]
async fn many_starts_of_little_each_evict_nothing_and_leave_few_files() {
    let mut files = FaultyFiles::default();
    for number in 0..40 {
        let mut disk = Running::over(&files, SEGMENTS).await;
        assert_eq!(disk.durable(number).await, Ok(()));
        assert_eq!(reclaim(&mut disk).await, 0, "start {number}");
        let usage = disk.tier.usage();
        assert!(usage.live <= SEGMENTS * SEGMENT * 2 / 3, "{usage:?}");
        // Ended in order, or by a power cut.
        let mut kept = number % 5;
        let cut = files.cut(|| {
            kept = (kept + 1) % 3;
            kept == 0
        });
        disk.end().await;
        if number % 3 > 0 {
            files = cut;
        }
        assert!(files.list().unwrap().len() as u64 <= SEGMENTS);
    }
    let after = Running::over(&files, SEGMENTS).await;
    let all: BTreeSet<u64> = (0..40).collect();
    assert_eq!(after.found_numbers(), all);
    for found in &after.found {
        assert!(after.hit(found.key).await);
    }
    let usage = after.tier.usage();
    assert!(usage.used - usage.live <= SEGMENT, "{usage:?}");
    after.end().await;
}

#[tokio::test]
async fn what_lives_in_mostly_dead_segments_is_carried_after_a_start_too() {
    let files = FaultyFiles::default();
    let disk = Running::over(&files, SEGMENTS).await;
    let mut last = 0;
    while disk.durable(last).await.is_ok() {
        last += 1;
    }
    disk.end().await;
    let mut disk = Running::over(&files, SEGMENTS).await;
    assert!(disk.found.len() > 50);
    let (mut live, mut dead) = (Vec::new(), Vec::new());
    for found in &disk.found {
        match found.brief.put_hlc.0 % 5 {
            0 => live.push(found.key),
            _ => dead.push(found.key),
        }
    }
    dead.iter().for_each(|key| disk.tier.forget(key));
    let begun = disk.tier.usage();
    assert_eq!(reclaim(&mut disk).await, 0, "{begun:?}");
    for key in live {
        assert!(disk.hit(key).await);
    }
    let usage = disk.tier.usage();
    assert!(usage.used < begun.used && usage.carried > 0, "{usage:?}");
    // Now there is room again.
    for number in last..last + 5 {
        assert_eq!(disk.durable(number).await, Ok(()));
    }
    disk.end().await;
}
