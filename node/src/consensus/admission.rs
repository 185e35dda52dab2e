//! Whether this node's store may vote.
//!
//! A store that was made anew under an old number has forgotten what it voted for and what it
//! acknowledged. So a store votes only once it was *admitted*: when the region was formed with
//! it, or when the region has committed its number as this node's. Until then it follows.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use bytes::Bytes;
use tracing::info;

use super::{
    log_disk::{LogDisk, Mark},
    raft::Raft,
};

/// Value of the mark. Stored on disk; its presence is what counts.
const ADMITTED: &[u8] = b"\x01";

/// See the module.
pub(super) struct Admission {
    disk: Arc<dyn LogDisk>,
    store: u64,
    admitted: AtomicBool,
}

impl Admission {
    /// As the disk says.
    pub(super) fn new(disk: Arc<dyn LogDisk>, store: u64, admitted: bool) -> Self {
        Self {
            disk,
            store,
            admitted: AtomicBool::new(admitted),
        }
    }

    /// The store's number; 0 for one that was made before stores had numbers.
    pub(super) fn store(&self) -> u64 {
        self.store
    }

    /// Whether it may vote.
    pub(super) fn is_admitted(&self) -> bool {
        self.admitted.load(Ordering::Acquire)
    }

    /// From now on it may, also after a power cut.
    pub(super) async fn admit(&self, raft: &Raft) -> io::Result<()> {
        if self.is_admitted() {
            return Ok(());
        }
        let mark = Bytes::from_static(ADMITTED);
        self.disk.save(Mark::Admitted, mark).await?;
        self.admitted.store(true, Ordering::Release);
        raft.runtime_config().elect(true);
        info!(store = self.store, "the raft store may vote");
        Ok(())
    }
}
