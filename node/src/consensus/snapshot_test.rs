use std::{
    fs,
    io::{self, ErrorKind},
    path::{Path, PathBuf},
};

use kvmesh_client::convert::snapshot;
use kvmesh_directory::{
    BlockHash, BlockName, ChangeKind, Checksum, Command, Copy, CopyNumber, DirectoryState, Hlc,
    Incarnation, LogIncarnation, Member, NodeId, Part,
    command::{BlockChange, Claim},
};
use openraft::CommittedLeaderId;
use prost::Message;
use tokio::io::{AsyncReadExt, AsyncSeekExt, AsyncWriteExt};

use super::{
    convert,
    raft::{LogId, SnapshotMeta},
    reserve::Reserve,
    snapshot_data::SnapshotData,
    snapshot_files::SnapshotFiles,
    snapshot_store::{MemorySnapshots, SnapshotStore},
    testing::namespace,
};

/// A region with so many blocks.
fn directory(blocks: u64) -> DirectoryState {
    let mut state = DirectoryState::empty();
    let member = Member {
        node: NodeId(1),
        address: "a:1".to_owned(),
        zone: "z".to_owned(),
        weight: 1,
        voter: true,
    };
    let mut index = 0;
    let mut apply = |command: Command| {
        index += 1;
        let (outcome, _) = state.apply(index, &command);
        assert_eq!(outcome.refused, None);
        outcome.incarnation
    };
    apply(Command::InitRegion {
        region: "here".parse().unwrap(),
        log_incarnation: LogIncarnation(7),
        members: vec![member],
        feature_level: kvmesh_directory::limits::FEATURE_LEVEL,
    });
    let incarnation = apply(begin()).unwrap();
    apply(Command::OpenNamespace(namespace("ns")));
    for block in 0..blocks {
        apply(Command::Blocks(vec![claim(block, incarnation)]));
    }
    state
}

fn begin() -> Command {
    Command::BeginIncarnation {
        node: NodeId(1),
        nonce: 1,
        store: 1,
        level: kvmesh_directory::limits::FEATURE_LEVEL,
    }
}

fn claim(block: u64, incarnation: Incarnation) -> BlockChange {
    let mut hash = [0; 32];
    hash[..8].copy_from_slice(&block.to_be_bytes());
    let copy = Copy {
        node: NodeId(1),
        incarnation,
        copy: CopyNumber(block + 1),
    };
    BlockChange {
        name: BlockName {
            namespace: namespace("ns").id,
            hash: BlockHash(hash),
            part: Part::default(),
        },
        kind: ChangeKind::Claim(Claim {
            put_hlc: Hlc(10),
            checksum: Checksum([1; 16]),
            bytes: 1,
            depth: 0,
            replicas: 1,
            copies: vec![copy],
        }),
    }
}

fn meta(index: u64) -> SnapshotMeta {
    SnapshotMeta {
        last_log_id: Some(LogId::new(CommittedLeaderId::new(3, 1), index)),
        ..SnapshotMeta::default()
    }
}

/// In segments, as Raft sends it.
async fn transfer(mut from: SnapshotData, to: &dyn SnapshotStore) -> io::Result<SnapshotData> {
    let mut into = to.begin().await?;
    let (mut at, end) = (0, from.seek(io::SeekFrom::End(0)).await?);
    while at < end {
        from.seek(io::SeekFrom::Start(at)).await?;
        let mut segment = Vec::new();
        (&mut from).take(1_000).read_to_end(&mut segment).await?;
        into.write_all(&segment).await?;
        at += segment.len() as u64;
    }
    into.shutdown().await?;
    Ok(into)
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let dir = fs::read_dir(dir.join("snapshots")).unwrap();
    let mut paths: Vec<_> = dir.map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|suffix| suffix == "snapshot"));
    paths
}

#[tokio::test]
async fn a_snapshot_goes_from_memory_to_a_file_and_back_and_is_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let memory = MemorySnapshots::default();
    let on_disk = SnapshotFiles::open(dir.path(), Reserve::none()).unwrap();
    let state = directory(5_000);
    for store in [&memory as &dyn SnapshotStore, &on_disk] {
        assert!(store.load().await.unwrap().is_none());
        assert!(store.open().await.unwrap().is_none());
    }
    let built = memory.build(meta(5_003), state.clone()).await.unwrap();
    let on_file = on_disk.build(meta(5_003), state.clone()).await.unwrap();
    assert_eq!(built, on_file, "the same bytes, and so the same checksum");

    let elsewhere = tempfile::tempdir().unwrap();
    let other = SnapshotFiles::open(elsewhere.path(), Reserve::none()).unwrap();
    let (sent, data) = memory.open().await.unwrap().unwrap();
    let received = transfer(data, &other).await.unwrap();
    assert!(other.finish(&sent, received).await.unwrap() == state);
    assert!(other.load().await.unwrap().unwrap() == (sent, state.clone()));

    let back = MemorySnapshots::default();
    let (sent, data) = other.open().await.unwrap().unwrap();
    let received = transfer(data, &back).await.unwrap();
    assert!(back.finish(&sent, received).await.unwrap() == state);
    assert!(back.load().await.unwrap().unwrap() == (built, state));
}

#[tokio::test]
async fn a_snapshot_that_changed_on_its_way_is_not_installed() {
    let dir = tempfile::tempdir().unwrap();
    let (memory, on_disk) = (
        MemorySnapshots::default(),
        SnapshotFiles::open(dir.path(), Reserve::none()).unwrap(),
    );
    memory.build(meta(103), directory(100)).await.unwrap();
    for store in [&memory as &dyn SnapshotStore, &on_disk] {
        let (sent, mut data) = memory.open().await.unwrap().unwrap();
        let mut chunks = Vec::new();
        data.read_to_end(&mut chunks).await.unwrap();
        // A holder's copy number: it can be decoded as well as before.
        let at = chunks.len() - 12;
        chunks[at] ^= 1;
        let mut into = store.begin().await.unwrap();
        into.write_all(&chunks).await.unwrap();
        into.shutdown().await.unwrap();
        assert!(store.finish(&sent, into).await.is_err());
    }
    assert!(on_disk.load().await.unwrap().is_none());
}

#[tokio::test]
async fn the_newest_whole_snapshot_is_kept_and_a_damaged_one_is_ignored() {
    let dir = tempfile::tempdir().unwrap();
    let store = SnapshotFiles::open(dir.path(), Reserve::none()).unwrap();
    store.build(meta(7), directory(4)).await.unwrap();
    let newer = store.build(meta(13), directory(10)).await.unwrap();
    store.build(meta(7), directory(4)).await.unwrap();
    assert_eq!(files(dir.path()).len(), 1, "the older ones are gone");
    let path = files(dir.path()).pop().unwrap();
    let whole = fs::read(&path).unwrap();
    assert_eq!(store.load().await.unwrap().unwrap().0, newer);

    let middle = whole.len() / 2;
    for cut in [0, 5, 11, 30, middle, whole.len() - 1] {
        fs::write(&path, &whole[..cut]).unwrap();
        assert!(store.load().await.unwrap().is_none(), "cut at {cut}");
    }
    for flipped in [9, middle, whole.len() - 30, whole.len() - 1] {
        let mut damaged = whole.clone();
        damaged[flipped] ^= 1;
        fs::write(&path, damaged).unwrap();
        assert!(
            store.load().await.unwrap().is_none(),
            "flipped at {flipped}"
        );
    }
    fs::write(dir.path().join("snapshots/unfinished"), &whole).unwrap();
    assert!(store.load().await.unwrap().is_none());
    let reopened = SnapshotFiles::open(dir.path(), Reserve::none()).unwrap();
    let missing = fs::metadata(dir.path().join("snapshots/unfinished"));
    assert_eq!(missing.unwrap_err().kind(), ErrorKind::NotFound);
    fs::write(&path, &whole).unwrap();
    assert!(reopened.load().await.unwrap().unwrap().1 == directory(10));
}

#[tokio::test]
async fn a_file_of_format_1_is_still_read_and_sent() {
    let dir = tempfile::tempdir().unwrap();
    let store = SnapshotFiles::open(dir.path(), Reserve::none()).unwrap();
    let state = directory(50);
    let mut chunks = Vec::new();
    for chunk in snapshot::chunks(state.clone()) {
        chunk.encode_length_delimited(&mut chunks).unwrap();
    }
    let old = SnapshotMeta {
        snapshot_id: "3-1-53".to_owned(),
        ..meta(53)
    };
    let raw = convert::meta_to_wire(&old).encode_to_vec();
    let mut file = b"kvmsnap\x01".to_vec();
    file.extend_from_slice(&u32::try_from(raw.len()).unwrap().to_be_bytes());
    file.extend_from_slice(&raw);
    file.extend_from_slice(&Checksum::of(&chunks).0);
    file.extend_from_slice(&chunks);
    let path = dir.path().join("snapshots/00000000000000000053.snapshot");
    fs::write(&path, &file).unwrap();
    assert!(store.load().await.unwrap().unwrap() == (old.clone(), state.clone()));

    let memory = MemorySnapshots::default();
    let (sent, data) = store.open().await.unwrap().unwrap();
    let received = transfer(data, &memory).await.unwrap();
    assert!(memory.finish(&sent, received).await.unwrap() == state);

    *file.last_mut().unwrap() ^= 1;
    fs::write(&path, &file).unwrap();
    assert!(store.load().await.unwrap().is_none());
}
