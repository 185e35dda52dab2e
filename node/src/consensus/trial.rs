//! A node's directory with its snapshots, without Raft around it, for benches: what openraft
//! asks of the state machine is asked here in the same order.

use std::{io, path::Path, sync::Arc};

use kvmesh_directory::Command;
use openraft::{CommittedLeaderId, EntryPayload, RaftSnapshotBuilder, storage::RaftStateMachine};
use tokio::{
    io::{AsyncReadExt, AsyncSeekExt, AsyncWriteExt},
    time::{Duration, Instant},
};

use super::{
    logged::Logged,
    raft::{Entry, LogId, SnapshotMeta},
    reserve::Reserve,
    snapshot_data::SnapshotData,
    snapshot_files::SnapshotFiles,
    snapshot_store::SnapshotStore,
    state_machine::{SnapshotBuilder, StateMachine},
    storage::SEGMENT_BYTES,
};
use crate::directory::SharedDirectory;

/// See the module.
pub struct Trial {
    machine: StateMachine,
    snapshots: Arc<dyn SnapshotStore>,
}

/// A frozen directory, to be encoded.
pub struct Frozen(SnapshotBuilder);

/// A snapshot that came whole, not installed yet.
pub struct Received {
    meta: SnapshotMeta,
    data: SnapshotData,
    /// How long it took to come over.
    pub took: Duration,
}

impl Trial {
    /// Opens a store, which may be empty, and loads what it has into a directory.
    ///
    /// # Errors
    /// When it cannot be opened or read.
    pub async fn open(dir: &Path, directory: SharedDirectory) -> io::Result<Self> {
        let snapshots: Arc<dyn SnapshotStore> =
            Arc::new(SnapshotFiles::open(dir, Reserve::none())?);
        let machine = StateMachine::open(directory, Arc::clone(&snapshots)).await?;
        Ok(Self { machine, snapshots })
    }

    /// Applies one entry of the log.
    ///
    /// # Errors
    /// Never, as things are.
    pub async fn apply(&mut self, index: u64, command: Arc<Command>) -> io::Result<()> {
        let entry = Entry {
            log_id: LogId::new(CommittedLeaderId::new(1, 1), index),
            payload: EntryPayload::Normal(Logged::new(command)),
        };
        let applied = self.machine.apply([entry]).await;
        applied.map(drop).map_err(io::Error::other)
    }

    /// The directory as it is now.
    pub async fn freeze(&mut self) -> Frozen {
        Frozen(self.machine.get_snapshot_builder().await)
    }

    /// Bytes of the newest snapshot.
    ///
    /// # Errors
    /// When the disk fails.
    pub async fn snapshot_bytes(&self) -> io::Result<u64> {
        self.snapshots.bytes().await
    }

    /// Gets another one's newest snapshot, in the segments in which Raft sends it, and
    /// verifies it.
    ///
    /// # Errors
    /// When a disk fails, there is none, or what came is damaged.
    pub async fn receive(&mut self, from: &Self) -> io::Result<Received> {
        let began = Instant::now();
        let opened = from.snapshots.open().await?;
        let (meta, mut sent) = opened.ok_or(io::ErrorKind::NotFound)?;
        let begun = self.machine.begin_receiving_snapshot().await;
        let mut data = *begun.map_err(io::Error::other)?;
        sent.seek(io::SeekFrom::Start(0)).await?;
        loop {
            let mut segment = Vec::new();
            let mut part = (&mut sent).take(SEGMENT_BYTES);
            if part.read_to_end(&mut segment).await? == 0 {
                break;
            }
            data.write_all(&segment).await?;
        }
        data.shutdown().await?;
        if !self.snapshots.is_whole(&meta, &data).await? {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let took = began.elapsed();
        Ok(Received { meta, data, took })
    }

    /// Puts what was received in the place of the directory.
    ///
    /// # Errors
    /// When the disk fails.
    pub async fn install(&mut self, received: Received) -> io::Result<()> {
        let Received { meta, data, .. } = received;
        let installed = self.machine.install_snapshot(&meta, Box::new(data)).await;
        installed.map_err(io::Error::other)
    }
}

impl Frozen {
    /// Encodes it into a file, and lets it go.
    ///
    /// # Errors
    /// When the disk fails.
    pub async fn build(mut self) -> io::Result<()> {
        let built = self.0.build_snapshot().await;
        built.map(drop).map_err(io::Error::other)
    }
}
