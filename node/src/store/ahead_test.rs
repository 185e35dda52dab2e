use std::path::Path;

use kvmesh_client::Ranges;
use tokio::{
    task::yield_now,
    time::{Instant, advance, pause, resume},
};

use super::*;
use crate::store::floors::floors_test::{COST, Running, block};

/// A store after a start: memory for 10 blocks is empty, the disk has 30.
async fn started(dir: &Path) -> (Running, Vec<CopyKey>) {
    let before = Running::over(dir, 40).await;
    for number in 0..30 {
        before.keep(number).await;
        before.written(number).await;
    }
    before.end().await;
    let running = Running::over(dir, 10).await;
    let found = running.found.iter();
    let mut keys: Vec<_> = found.map(|it| (it.brief.put_hlc, it.key)).collect();
    keys.sort_unstable();
    let keys: Vec<_> = keys.into_iter().map(|(_, key)| key).collect();
    assert_eq!(keys.len(), 30);
    (running, keys)
}

/// Runs the reads ahead until nothing is wished for.
async fn settled(store: &Store) {
    let quiet = || {
        let wishes = store.ahead.wishes();
        wishes.queue.is_empty() && wishes.coming.is_empty()
    };
    let until = Instant::now() + Duration::from_secs(10);
    let stop = CancellationToken::new();
    let watching = async {
        while !quiet() {
            assert!(Instant::now() < until, "wishes are taken up");
            yield_now().await;
        }
        stop.cancel();
    };
    tokio::join!(store.run_ahead(stop.clone()), watching);
}

fn in_memory(store: &Store, keys: &[CopyKey]) -> usize {
    let ledger = store.ledger();
    let here = |key: &&CopyKey| ledger.held(**key).is_some_and(|held| held.in_memory);
    keys.iter().filter(here).count()
}

async fn later() {
    pause();
    advance(Duration::from_secs(2)).await;
    resume();
}

#[tokio::test]
async fn what_is_read_next_is_in_memory_before_and_is_read_once() {
    let dir = tempfile::tempdir().unwrap();
    let (running, keys) = started(dir.path()).await;
    running.store.read_ahead(&keys[..5], true);
    settled(&running.store).await;
    assert_eq!(running.store.usage().used, 5 * COST);
    let read = running.disk.usage().read;
    for (number, key) in (0..).zip(&keys[..5]) {
        assert!(running.reads(*key, number).await);
    }
    assert_eq!(running.disk.usage().read, read, "out of memory");
    running.end().await;
}

#[tokio::test]
async fn nothing_goes_that_was_used_as_lately() {
    let dir = tempfile::tempdir().unwrap();
    let (running, keys) = started(dir.path()).await;
    later().await;
    for (number, key) in (0..).zip(&keys[..10]) {
        assert!(running.reads(*key, number).await);
    }
    let read = running.disk.usage().read;
    for soon in [false, true] {
        running.store.read_ahead(&keys[10..14], soon);
        settled(&running.store).await;
        assert_eq!(in_memory(&running.store, &keys[..10]), 10, "soon: {soon}");
    }
    assert_eq!(running.disk.usage().read, read, "nothing is read in vain");
    later().await;
    running.store.read_ahead(&keys[20..24], false);
    settled(&running.store).await;
    assert_eq!(in_memory(&running.store, &keys[20..24]), 0, "never used");
    running.store.read_ahead(&keys[14..18], true);
    settled(&running.store).await;
    assert_eq!(in_memory(&running.store, &keys[14..18]), 4);
    assert_eq!(in_memory(&running.store, &keys[..10]), 6);
    running.end().await;
}

#[tokio::test]
async fn who_asks_for_what_is_being_read_waits_for_that_read_only() {
    let dir = tempfile::tempdir().unwrap();
    let (running, keys) = started(dir.path()).await;
    running.store.read_ahead(&keys[..2], true);
    let read = running.disk.usage().read;
    let (key, came) = running.store.next_wish().unwrap();
    assert_eq!(key, keys[0]);
    let bringing = async {
        yield_now().await;
        came.send_replace(Some(block(0)));
    };
    let (hit, ()) = tokio::join!(running.reads(key, 0), bringing);
    assert!(hit);
    assert_eq!(running.disk.usage().read, read);
    // One that brings nothing, and one that takes too long.
    let (key, came) = running.store.next_wish().unwrap();
    let failing = async {
        yield_now().await;
        drop(came);
    };
    let (hit, ()) = tokio::join!(running.reads(key, 1), failing);
    assert!(hit && running.disk.usage().read > read);
    running.store.read_ahead(&keys[2..3], true);
    let _stuck = running.store.next_wish().unwrap();
    assert!(running.reads(keys[2], 2).await);
    running.end().await;
}

#[tokio::test]
async fn wishes_are_bounded_and_the_oldest_go() {
    let dir = tempfile::tempdir().unwrap();
    let (running, keys) = started(dir.path()).await;
    let ahead = &running.store.ahead;
    let numbered = |number: u64| CopyKey {
        copy: kvmesh_directory::Copy {
            copy: kvmesh_directory::CopyNumber(number),
            ..keys[0].copy
        },
        ..keys[0]
    };
    let many: Vec<_> = (0..1_000).map(numbered).collect();
    ahead.wish(&many);
    ahead.wish(&many[900..]);
    assert_eq!(ahead.wishes().queue.len(), WISHES_MAX);
    assert_eq!(ahead.wishes().queue.back(), many.last());
    // Of what is not here nothing comes, and nothing is left over.
    settled(&running.store).await;
    running.end().await;
}

#[tokio::test]
async fn ranges_that_are_wanted_again_bring_their_block_back() {
    let dir = tempfile::tempdir().unwrap();
    let (running, keys) = started(dir.path()).await;
    let ranges = Ranges::new([5..9, 20..24]).unwrap();
    // What was found counts as used long ago.
    for expected in [0, 1] {
        let read = running.store.read_pieces(keys[0], &ranges).await;
        assert!(matches!(read, Lookup::Hit(_)));
        settled(&running.store).await;
        assert_eq!(in_memory(&running.store, &keys[..1]), expected);
        later().await;
    }
    running.end().await;
}
