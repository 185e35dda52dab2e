//! The directory as openraft's state machine.
//!
//! The directory lives in memory; what survives a restart is the newest snapshot and the log.

use std::{io, sync::Arc};

use kvmesh_directory::{DirectoryState, Outcome};
use openraft::{
    EntryPayload, ErrorSubject, ErrorVerb, OptionalSend, RaftSnapshotBuilder,
    storage::RaftStateMachine,
};

use super::{
    raft::{Entry, LogId, Snapshot, SnapshotMeta, StorageError, StoredMembership, TypeConfig},
    snapshot_data::SnapshotData,
    snapshot_store::SnapshotStore,
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
        if let Some((meta, state)) = machine.snapshots.load().await? {
            machine.install(&meta, state)?;
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
        let replaced = self.directory.install(state);
        self.snapshots.discard(replaced);
        self.applied = meta.last_log_id;
        self.membership = meta.last_membership.clone();
        Ok(())
    }

    fn apply_one(&mut self, entry: Entry) -> Outcome {
        let index = entry.log_id.index;
        self.applied = Some(entry.log_id);
        match entry.payload {
            EntryPayload::Normal(logged) => {
                self.directory.apply(index, Some(logged.into_command()))
            }
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

/// Encodes the directory as it was when the builder was made.
pub(super) struct SnapshotBuilder {
    state: DirectoryState,
    meta: SnapshotMeta,
    snapshots: Arc<dyn SnapshotStore>,
}

impl RaftSnapshotBuilder<TypeConfig> for SnapshotBuilder {
    async fn build_snapshot(&mut self) -> Result<Snapshot, StorageError> {
        // Nothing of it stays here: the store lets it go where nobody waits.
        let state = std::mem::replace(&mut self.state, DirectoryState::empty());
        let built = self.snapshots.build(self.meta.clone(), state).await;
        let meta = built.map_err(failed(ErrorVerb::Write))?;
        let opened = self
            .snapshots
            .open()
            .await
            .map_err(failed(ErrorVerb::Read))?;
        match opened {
            // A newer one may have been received meanwhile: it is as good.
            Some((opened, data)) if opened.last_log_id >= meta.last_log_id => {
                Ok(snapshot(opened, data))
            }
            _ => {
                let missing = io::Error::other("the snapshot that was just made is gone");
                Err(failed(ErrorVerb::Read)(missing))
            }
        }
    }
}

fn snapshot(meta: SnapshotMeta, data: SnapshotData) -> Snapshot {
    Snapshot {
        meta,
        snapshot: Box::new(data),
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
        SnapshotBuilder {
            state: self.directory.freeze(),
            meta: SnapshotMeta {
                last_log_id: self.applied,
                last_membership: self.membership.clone(),
                snapshot_id: String::new(), // given when it is whole
            },
            snapshots: Arc::clone(&self.snapshots),
        }
    }

    async fn begin_receiving_snapshot(&mut self) -> Result<Box<SnapshotData>, StorageError> {
        let begun = self.snapshots.begin().await;
        begun.map(Box::new).map_err(failed(ErrorVerb::Write))
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        received: Box<SnapshotData>,
    ) -> Result<(), StorageError> {
        let finished = self.snapshots.finish(meta, *received).await;
        let state = finished.map_err(failed(ErrorVerb::Read))?;
        self.install(meta, state).map_err(failed(ErrorVerb::Read))
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot>, StorageError> {
        let opened = self.snapshots.open().await;
        let opened = opened.map_err(failed(ErrorVerb::Read))?;
        Ok(opened.map(|(meta, data)| snapshot(meta, data)))
    }
}
