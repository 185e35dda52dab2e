use std::{io, path::Path};

use bytes::Bytes;
use kvmesh_directory::NodeId;

use super::{
    StartError,
    log_disk::{LogDisk, Mark, MemoryDisk},
    log_disk_sled::SledDisk,
    reserve::Reserve,
};

/// Waits for one that was open before: a thread of its own closes it.
async fn open(dir: &Path) -> Result<SledDisk, StartError> {
    super::testing::until_some("the lock of the store", || async {
        let opened = open_with(dir, Reserve::none()).await;
        let locked = |error: &StartError| format!("{error:?}").contains("acquire lock");
        match &opened {
            Err(error) if locked(error) => None,
            _ => Some(opened),
        }
    })
    .await
}

async fn open_with(dir: &Path, reserve: Reserve) -> Result<SledDisk, StartError> {
    SledDisk::open(dir, &"here".parse().unwrap(), NodeId(1), reserve).await
}

fn entry(index: u64) -> (u64, Bytes) {
    (index, Bytes::from(format!("entry {index}")))
}

async fn fill(disk: &dyn LogDisk) -> io::Result<()> {
    disk.save(Mark::Vote, Bytes::from_static(b"vote")).await?;
    disk.append((0..300).map(entry).collect()).await?;
    disk.truncate(290).await?;
    disk.append((290..295).map(entry).collect()).await?;
    disk.purge(9, Bytes::from_static(b"purged")).await?;
    disk.save(Mark::Committed, Bytes::from_static(b"committed"))
        .await?;
    disk.append(vec![entry(295)]).await
}

async fn check(disk: &dyn LogDisk) {
    let found = disk.load().await.unwrap();
    assert_eq!(found.vote.as_deref(), Some(b"vote".as_slice()));
    assert_eq!(found.committed.as_deref(), Some(b"committed".as_slice()));
    assert_eq!(found.purged.as_deref(), Some(b"purged".as_slice()));
    assert_eq!(found.last, Some(entry(295).1));
    let all = disk.read(0, u64::MAX, usize::MAX).await.unwrap();
    let want: Vec<_> = (10..296).map(|index| entry(index).1).collect();
    assert_eq!(all, want);
    let some = disk.read(10, 296, 25).await.unwrap();
    assert_eq!(some.len(), 3);
    let one = disk.read(10, 296, 1).await.unwrap();
    assert_eq!(one.len(), 1, "at least one");
}

#[tokio::test]
async fn a_log_in_memory_and_one_on_disk_do_the_same_and_a_disk_keeps_it() {
    let memory = MemoryDisk::default();
    fill(&memory).await.unwrap();
    check(&memory).await;

    let dir = tempfile::tempdir().unwrap();
    let disk = open(dir.path()).await.unwrap();
    fill(&disk).await.unwrap();
    check(&disk).await;
    drop(disk);
    let disk = open(dir.path()).await.unwrap();
    check(&disk).await;

    let last = Bytes::from_static(b"without an append behind it");
    disk.save(Mark::Committed, last.clone()).await.unwrap();
    drop(disk);
    let found = open(dir.path()).await.unwrap().load().await.unwrap();
    assert_eq!(found.committed, Some(last));
}

#[tokio::test]
async fn what_is_purged_goes_with_what_is_appended() {
    let dir = tempfile::tempdir().unwrap();
    let disk = open(dir.path()).await.unwrap();
    let mut next = 300;
    disk.append((1..next).map(entry).collect()).await.unwrap();
    disk.purge(200, Bytes::from_static(b"purged"))
        .await
        .unwrap();
    let left = async || disk.read(0, 300, usize::MAX).await.unwrap().len();
    let (mut before, mut appends) = (left().await, 0);
    while before > 99 {
        disk.append(vec![entry(next)]).await.unwrap();
        (next, appends) = (next + 1, appends + 1);
        let now = left().await;
        assert!(
            now < before && before - now <= 20,
            "{before} entries, then {now}"
        );
        before = now;
    }
    assert!(appends > 5, "not all at once: {appends}");
    disk.append(vec![entry(next)]).await.unwrap();
    assert_eq!(left().await, 99, "what is not purged stays");
    let all = (201..=next).map(|index| entry(index).1.len() as u64);
    assert_eq!(disk.bytes_after(200).await.unwrap(), all.sum::<u64>());
}

#[tokio::test]
async fn another_nodes_store_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(dir.path()).await.unwrap());
    let region = "there".parse().unwrap();
    let foreign = SledDisk::open(dir.path(), &region, NodeId(1), Reserve::none()).await;
    assert!(matches!(foreign.err(), Some(StartError::Foreign { .. })));
    let foreign = SledDisk::open(
        dir.path(),
        &"here".parse().unwrap(),
        NodeId(2),
        Reserve::none(),
    )
    .await;
    let error = foreign.err().unwrap().to_string();
    assert!(
        error.contains("belongs to node 1 of region here"),
        "{error}"
    );
}

#[tokio::test]
async fn large_entries_lie_in_the_log_s_own_file_and_come_back() {
    let dir = tempfile::tempdir().unwrap();
    let large = |index: u64| (index, Bytes::from(vec![index as u8; 40_000]));
    let all: Vec<_> = (1..100).map(|index| large(index).1).collect();
    let disk = open(dir.path()).await.unwrap();
    for first in (1..100).step_by(3) {
        let entries = (first..first + 3).map(large).collect();
        disk.append(entries).await.unwrap();
    }
    let read = disk.read(0, u64::MAX, usize::MAX).await.unwrap();
    assert!(read == all, "as they were");
    assert_eq!(disk.bytes_after(97).await.unwrap(), 80_000);
    disk.truncate(98).await.unwrap();
    disk.purge(50, Bytes::from_static(b"purged")).await.unwrap();
    // Removes what is purged, a whole entry at a time.
    for index in 98..104 {
        disk.append(vec![large(index)]).await.unwrap();
        let left = disk.read(0, u64::MAX, usize::MAX).await.unwrap();
        assert_eq!(left.first().map(Bytes::len), Some(40_000));
    }
    drop(disk);
    let disk = open(dir.path()).await.unwrap();
    assert_eq!(disk.load().await.unwrap().last, Some(large(103).1));
    let kept = disk.read(51, 98, usize::MAX).await.unwrap();
    assert!(kept[..] == all[50..97], "as they were");
    let files = std::fs::read_dir(dir.path().join("log/blobs")).unwrap();
    assert_eq!(files.count(), 0, "sled would not sync them");
}

#[tokio::test]
async fn a_start_that_was_cut_short_does_not_harm_the_next_one() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(dir.path()).await.unwrap());
    let tables = || {
        let files = std::fs::read_dir(dir.path().join("log")).unwrap();
        let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
        let mut tables: Vec<_> = names.filter(|name| name.starts_with("snap.")).collect();
        tables.sort();
        tables
    };
    let disk = open(dir.path()).await.unwrap();
    fill(&disk).await.unwrap();
    drop(disk);
    // Written, and older ones removed, by a thread of sled's.
    super::testing::until("a table of the log", || !tables().is_empty()).await;
    let newest = tables().pop().unwrap();
    let cut = dir.path().join("log").join(format!("{newest}.generating"));
    std::fs::write(cut, [7; 5]).unwrap();
    check(&open(dir.path()).await.unwrap()).await;
}

#[tokio::test]
async fn the_log_never_grows_where_nothing_is_allocated() {
    use std::os::unix::fs::MetadataExt;
    let dir = tempfile::tempdir().unwrap();
    let reserve = Reserve::open(dir.path(), 64 << 20, "test").unwrap();
    let disk = open_with(dir.path(), reserve).await.unwrap();
    let ahead = || {
        let file = std::fs::metadata(dir.path().join("log/db")).unwrap();
        (file.blocks() * 512).saturating_sub(file.len())
    };
    for index in 0..200 {
        let before = ahead();
        let entries = vec![(index, Bytes::from(vec![7; 100_000]))];
        disk.append(entries).await.unwrap();
        assert!(index == 0 || before >= 1 << 20, "{before} at {index}");
    }
}
