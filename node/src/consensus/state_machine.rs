//! The directory as openraft's state machine.
//!
//! The directory lives in memory; what survives a restart is the newest snapshot and the log.

use std::{
    io::{self, Cursor},
    sync::Arc,
};

use bytes::{Buf, Bytes};
use kvmesh_client::convert::snapshot;
use kvmesh_directory::{DirectoryState, Outcome};
use kvmesh_proto::v1 as wire;
use openraft::{
    EntryPayload, ErrorSubject, ErrorVerb, OptionalSend, RaftSnapshotBuilder,
    storage::RaftStateMachine,
};
use prost::Message;
use tokio::task;

use super::{
    raft::{Entry, LogId, Snapshot, SnapshotMeta, StorageError, StoredMembership, TypeConfig},
    snapshot_store::{SnapshotStore, Stored},
};
use crate::directory::SharedDirectory;

/// See the module.
pub(super) struct StateMachine {
    directory: SharedDirectory,
    snapshots: Arc<dyn SnapshotStore>,
    applied: Option<LogId>,
    membership: StoredMembership,
}

impl StateMachine {
    /// Installs the newest snapshot, if there is one.
    ///
    /// # Errors
    /// When the snapshot cannot be read.
    pub(super) async fn open(
        directory: SharedDirectory,
        snapshots: Arc<dyn SnapshotStore>,
    ) -> io::Result<Self> {
        let mut machine = Self {
            directory,
            snapshots,
            applied: None,
            membership: StoredMembership::default(),
        };
        if let Some(stored) = machine.snapshots.load().await? {
            let state = decode(stored.chunks).await?;
            machine.install(&stored.meta, state)?;
        }
        Ok(machine)
    }

    /// The last entry applied.
    pub(super) fn applied(&self) -> Option<LogId> {
        self.applied
    }

    fn install(&mut self, meta: &SnapshotMeta, state: DirectoryState) -> io::Result<()> {
        let index = meta.last_log_id.map_or(0, |id| id.index);
        if state.applied_index() != index {
            return Err(io::Error::other(
                "the snapshot's content is not that of its index",
            ));
        }
        self.directory.install(state);
        self.applied = meta.last_log_id;
        self.membership = meta.last_membership.clone();
        Ok(())
    }

    fn apply_one(&mut self, entry: Entry) -> Outcome {
        let index = entry.log_id.index;
        self.applied = Some(entry.log_id);
        match entry.payload {
            EntryPayload::Normal(command) => self.directory.apply(index, Some(command)),
            EntryPayload::Blank => self.directory.apply(index, None),
            EntryPayload::Membership(membership) => {
                self.membership = StoredMembership::new(Some(entry.log_id), membership);
                self.directory.apply(index, None)
            }
        }
    }
}

fn failed(verb: ErrorVerb) -> impl FnOnce(io::Error) -> StorageError {
    move |error| StorageError::from_io_error(ErrorSubject::Snapshot(None), verb, error)
}

async fn encode(state: DirectoryState) -> io::Result<Bytes> {
    let mut raw = Vec::new();
    for chunk in snapshot::chunks(state) {
        chunk.encode_length_delimited(&mut raw)?;
        task::yield_now().await; // thousands of entries are encoded: let others run
    }
    Ok(raw.into())
}

async fn decode(mut chunks: Bytes) -> io::Result<DirectoryState> {
    let mut assembler = snapshot::Assembler::new();
    while chunks.has_remaining() {
        let chunk = wire::SnapshotChunk::decode_length_delimited(&mut chunks)?;
        if let Some(state) = assembler.push(chunk).map_err(io::Error::other)? {
            return Ok(state);
        }
        task::yield_now().await;
    }
    Err(io::Error::other("the snapshot has no last chunk"))
}

/// Encodes the directory as it was when the builder was made.
pub(super) struct SnapshotBuilder {
    state: DirectoryState,
    meta: SnapshotMeta,
    snapshots: Arc<dyn SnapshotStore>,
}

impl RaftSnapshotBuilder<TypeConfig> for SnapshotBuilder {
    async fn build_snapshot(&mut self) -> Result<Snapshot, StorageError> {
        let encoded = encode(self.state.clone()).await;
        let chunks = encoded.map_err(failed(ErrorVerb::Write))?;
        let stored = Stored {
            meta: self.meta.clone(),
            chunks,
        };
        let saved = self.snapshots.save(stored.clone()).await;
        saved.map_err(failed(ErrorVerb::Write))?;
        Ok(opened(stored))
    }
}

fn opened(stored: Stored) -> Snapshot {
    Snapshot {
        meta: stored.meta,
        snapshot: Box::new(Cursor::new(stored.chunks.into())),
    }
}

impl RaftStateMachine<TypeConfig> for StateMachine {
    type SnapshotBuilder = SnapshotBuilder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), StorageError> {
        Ok((self.applied, self.membership.clone()))
    }

    async fn apply<I>(&mut self, entries: I) -> Result<Vec<Outcome>, StorageError>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        Ok(entries
            .into_iter()
            .map(|entry| self.apply_one(entry))
            .collect())
    }

    async fn get_snapshot_builder(&mut self) -> SnapshotBuilder {
        let id = self.applied.map(|id| id.to_string()).unwrap_or_default();
        SnapshotBuilder {
            state: self.directory.freeze(),
            meta: SnapshotMeta {
                last_log_id: self.applied,
                last_membership: self.membership.clone(),
                snapshot_id: id,
            },
            snapshots: Arc::clone(&self.snapshots),
        }
    }

    async fn begin_receiving_snapshot(&mut self) -> Result<Box<Cursor<Vec<u8>>>, StorageError> {
        Ok(Box::default())
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        snapshot: Box<Cursor<Vec<u8>>>,
    ) -> Result<(), StorageError> {
        let chunks = Bytes::from(snapshot.into_inner());
        let decoded = decode(chunks.clone()).await;
        let state = decoded.map_err(failed(ErrorVerb::Read))?;
        let stored = Stored {
            meta: meta.clone(),
            chunks,
        };
        let saved = self.snapshots.save(stored).await;
        saved.map_err(failed(ErrorVerb::Write))?;
        self.install(meta, state).map_err(failed(ErrorVerb::Read))
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot>, StorageError> {
        let loaded = self.snapshots.load().await;
        Ok(loaded.map_err(failed(ErrorVerb::Read))?.map(opened))
    }
}
