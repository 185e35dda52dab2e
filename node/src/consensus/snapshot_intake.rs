//! A snapshot on its way in: taken segment by segment, verified, and only then given to Raft.
//!
//! A snapshot that cannot be installed ends a member, so one whose bytes are not those of its
//! checksum never gets so far: it is refused and counted, and the leader makes another one.
//!
//! Not here: how the sender reacts (`network`).

use std::sync::Arc;

use metrics::Counter;
use openraft::{
    error::{Fatal, InstallSnapshotError, RaftError, SnapshotMismatch},
    network::snapshot_transport::{Chunked, SnapshotTransport, Streaming},
    raft::{InstallSnapshotRequest, InstallSnapshotResponse},
};
use tokio::sync::Mutex;
use tracing::warn;

use super::{
    convert,
    raft::{Raft, Snapshot, TypeConfig},
    snapshot_store::SnapshotStore,
};

/// What became of a segment.
pub(super) enum Taken {
    /// It is here; after the last one, all of it is installed.
    Here(InstallSnapshotResponse<u64>),
    /// Another segment was expected.
    Unexpected(InstallSnapshotError),
    /// It was the last one, and what came is not what was sent. All of it is forgotten.
    Damaged(InstallSnapshotError),
}

/// See the module.
pub(super) struct Intake {
    snapshots: Arc<dyn SnapshotStore>,
    /// One at a time, from its first segment until it is installed.
    coming: Mutex<Option<Streaming<TypeConfig>>>,
    refused: Counter,
}

impl Intake {
    pub(super) fn new(snapshots: Arc<dyn SnapshotStore>, refused: Counter) -> Self {
        Self {
            snapshots,
            coming: Mutex::new(None),
            refused,
        }
    }

    /// Takes a segment.
    ///
    /// # Errors
    /// When Raft has ended here.
    pub(super) async fn take(
        &self,
        raft: &Raft,
        request: InstallSnapshotRequest<TypeConfig>,
    ) -> Result<Taken, Fatal<u64>> {
        let vote = raft.with_raft_state(|state| *state.vote_ref()).await?;
        if request.vote < vote {
            return Ok(Taken::Here(InstallSnapshotResponse { vote }));
        }
        let (leads, got) = (request.vote, convert::segment(&request));
        let mut coming = self.coming.lock().await;
        let received = match Chunked::receive_snapshot(&mut coming, raft, request).await {
            Ok(Some(snapshot)) => snapshot,
            Ok(None) => return Ok(Taken::Here(InstallSnapshotResponse { vote })),
            Err(RaftError::APIError(mismatch)) => return Ok(Taken::Unexpected(mismatch)),
            Err(RaftError::Fatal(fatal)) => return Err(fatal),
        };
        if !self.is_whole(&received).await {
            self.refused.increment(1);
            warn!(id = %got.id, "refusing a snapshot that is not what its checksum says");
            let mut expect = got.clone();
            expect.offset = 0;
            return Ok(Taken::Damaged(SnapshotMismatch { expect, got }.into()));
        }
        let installed = raft.install_full_snapshot(leads, received).await?;
        Ok(Taken::Here(installed.into()))
    }

    async fn is_whole(&self, received: &Snapshot) -> bool {
        let read = self.snapshots.is_whole(&received.meta, &received.snapshot);
        read.await.unwrap_or_else(|error| {
            warn!(%error, "a received snapshot cannot be read back");
            false
        })
    }
}

#[cfg(test)]
#[path = "snapshot_intake_test.rs"]
mod tests;
