//! Opens what a node keeps, and builds Raft over it.

use std::{fs, io, path::PathBuf, sync::Arc};

use kvmesh_client::channel::Channels;
use openraft::Config;
use tokio::sync::Notify;

use super::{
    admission::Admission,
    blocking::blocking,
    error::StartError,
    log_disk::LogDisk,
    log_disk_sled::SledDisk,
    log_store::LogStore,
    network::{Links, Removed},
    raft::Raft,
    reserve::Reserve,
    settings::{Settings, Storage},
    snapshot_files::SnapshotFiles,
    snapshot_policy::SnapshotPolicy,
    snapshot_store::SnapshotStore,
    state_machine::StateMachine,
};
use crate::directory::SharedDirectory;

/// Entries of one replication message; their bytes are bounded as well.
const REPLICATE_ENTRIES_MAX: u64 = 256;
/// Bytes of one segment of a snapshot.
pub(super) const SEGMENT_BYTES: u64 = 1 << 20;
/// Entries that are purged at once.
const PURGE_ENTRIES: u64 = 1_000;
/// How long a snapshot may take to be loaded by its receiver, with the last segment.
const INSTALL_MAX_MS: u64 = 300_000;

/// What was opened.
pub(super) struct Opened {
    pub(super) raft: Raft,
    pub(super) admission: Arc<Admission>,
    pub(super) snapshots: Arc<dyn SnapshotStore>,
    pub(super) policy: SnapshotPolicy,
    pub(super) reserve: Reserve,
}

/// Opens the store, rebuilds the directory and starts Raft.
pub(super) async fn open(
    settings: &Settings,
    channels: Channels,
    directory: SharedDirectory,
    removed: Removed,
    instance: &str,
) -> Result<Opened, StartError> {
    let (disk, snapshots, path, reserve) = disks(settings, instance).await?;
    let unreadable = |source: io::Error| StartError::Store {
        path: path.clone(),
        source: source.into(),
    };
    let log = LogStore::open(disk).await.map_err(unreadable)?;
    let machine = StateMachine::open(directory, Arc::clone(&snapshots)).await;
    let machine = machine.map_err(unreadable)?;
    if log.purged() > machine.applied() {
        let missing = "the snapshot that the log builds on is missing or damaged";
        return Err(unreadable(io::Error::other(missing)));
    }
    let newest = machine.applied().map_or(0, |id| id.index);
    let written = log.written();
    written.add(log.bytes_after(newest).await.map_err(unreadable)?);
    let damaged = Arc::new(Notify::new());
    let links = Links {
        node: settings.node.0,
        channels,
        removed,
        damaged: Arc::clone(&damaged),
    };
    let admission = log.admission();
    let config = config(settings, admission.is_admitted())?;
    let raft = Raft::new(settings.node.0, config, links, log, machine).await;
    let raft = raft.map_err(|error| StartError::Raft(error.to_string()))?;
    let policy = SnapshotPolicy {
        raft: raft.clone(),
        snapshots: Arc::clone(&snapshots),
        written,
        again: damaged,
        settings: settings.snapshots,
    };
    Ok(Opened {
        raft,
        admission,
        snapshots,
        policy,
        reserve,
    })
}

type Disks = (Arc<dyn LogDisk>, Arc<dyn SnapshotStore>, PathBuf, Reserve);

async fn disks(settings: &Settings, instance: &str) -> Result<Disks, StartError> {
    match &settings.storage {
        Storage::Memory(memory) => Ok((
            Arc::new(memory.log.clone()),
            Arc::new(memory.snapshots.clone()),
            PathBuf::from("memory"),
            Reserve::none(),
        )),
        Storage::Directory(path) => {
            let unreadable = |source: io::Error| StartError::Store {
                path: path.clone(),
                source: source.into(),
            };
            fs::create_dir_all(path).map_err(unreadable)?;
            let (dir, bytes, instance) =
                (path.clone(), settings.reserve_bytes, instance.to_owned());
            let reserve = blocking(move || Reserve::open(&dir, bytes, &instance)).await;
            let reserve = reserve.map_err(unreadable)?;
            let disk = SledDisk::open(path, &settings.region, settings.node, reserve.clone());
            let disk = Arc::new(disk.await?);
            let snapshots = SnapshotFiles::open(path, reserve.clone()).map_err(unreadable)?;
            Ok((disk, Arc::new(snapshots), path.clone(), reserve))
        }
    }
}

/// `elect`: whether this node may stand for election from the start.
fn config(settings: &Settings, elect: bool) -> Result<Arc<Config>, StartError> {
    let millis =
        |duration: std::time::Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let config = Config {
        cluster_name: settings.region.to_string(),
        heartbeat_interval: millis(settings.heartbeat),
        // A follower stands for election after a silence of Raft's largest timeout (the old
        // leader's lease) plus a random one: together they stay below the setting.
        election_timeout_min: millis(settings.election_min) / 2,
        election_timeout_max: millis(settings.election_max) / 2,
        install_snapshot_timeout: INSTALL_MAX_MS,
        max_payload_entries: REPLICATE_ENTRIES_MAX,
        snapshot_policy: openraft::SnapshotPolicy::Never, // see `snapshot_policy`
        snapshot_max_chunk_size: SEGMENT_BYTES,
        max_in_snapshot_log_to_keep: settings.kept_entries,
        enable_elect: elect,
        purge_batch_size: PURGE_ENTRIES.min(settings.kept_entries.max(1)),
        ..Config::default()
    };
    let config = config.validate();
    let config = config.map_err(|error| StartError::Settings(error.to_string()))?;
    Ok(Arc::new(config))
}
