use std::{io, path::Path};

use bytes::Bytes;
use kvmesh_directory::NodeId;

use super::{
    StartError,
    log_disk::{LogDisk, Mark, MemoryDisk},
    log_disk_sled::SledDisk,
};

async fn open(dir: &Path) -> Result<SledDisk, StartError> {
    SledDisk::open(dir, &"here".parse().unwrap(), NodeId(1)).await
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
    check(&open(dir.path()).await.unwrap()).await;
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
    let foreign = SledDisk::open(dir.path(), &region, NodeId(1)).await;
    assert!(matches!(foreign.err(), Some(StartError::Foreign { .. })));
    let foreign = SledDisk::open(dir.path(), &"here".parse().unwrap(), NodeId(2)).await;
    let error = foreign.err().unwrap().to_string();
    assert!(
        error.contains("belongs to node 1 of region here"),
        "{error}"
    );
}
