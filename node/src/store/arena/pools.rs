//! The segments of namespaces that have, or had, clients on this host.
//!
//! Invariants: a namespace's pool grows only while it has a client; all segments together
//! take at most a part of the budget; a segment that is empty goes, unless it is the only one
//! of a namespace with a client.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use kvmesh_directory::{
    NamespaceId,
    limits::{MAPPED_MEMORY_PART, PIECE_BYTES},
};
use tracing::warn;

use super::{map::Slot, segment::Segment};

/// Segments into which the budget could be cut: enough that several namespaces find one each,
/// and few enough that a client maps them all.
const SEGMENTS_OF_BUDGET: u64 = 64;
/// Of one segment, at least and at most.
const SEGMENT_BYTES: (u64, u64) = (4 << 20, 256 << 20);
const _: () = assert!(SEGMENT_BYTES.0.is_multiple_of(PIECE_BYTES as u64));

#[derive(Debug, Default)]
struct Pool {
    clients: usize,
    segments: Vec<Arc<Segment>>,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Pools {
    pools: Mutex<BTreeMap<NamespaceId, Pool>>,
    /// Of all segments that somebody has, those apart that only clients still map.
    bytes: Arc<AtomicU64>,
    bytes_max: u64,
    segment_bytes: usize,
    next: AtomicU64,
}

impl Pools {
    pub(super) fn for_budget(budget: u64) -> Self {
        let (least, most) = SEGMENT_BYTES;
        let wanted = (budget / SEGMENTS_OF_BUDGET).clamp(least, most);
        Self {
            pools: Mutex::default(),
            bytes: Arc::default(),
            bytes_max: budget / MAPPED_MEMORY_PART,
            segment_bytes: wanted as usize / PIECE_BYTES * PIECE_BYTES,
            next: AtomicU64::new(1),
        }
    }

    fn pools(&self) -> MutexGuard<'_, BTreeMap<NamespaceId, Pool>> {
        self.pools.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes of all segments.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// A client of a namespace came.
    pub(super) fn enter(&self, namespace: NamespaceId) {
        self.pools().entry(namespace).or_default().clients += 1;
    }

    /// It left.
    pub(super) fn leave(&self, namespace: NamespaceId) {
        if let Some(pool) = self.pools().get_mut(&namespace) {
            pool.clients = pool.clients.saturating_sub(1);
        }
        self.retire();
    }

    /// Lets empty segments go.
    pub(super) fn retire(&self) {
        self.pools().retain(|_, pool| {
            let mut spare = usize::from(pool.clients > 0);
            pool.segments.retain(|segment| {
                let stays = !segment.is_empty() || std::mem::take(&mut spare) > 0;
                if !stays {
                    segment.retire();
                }
                stays
            });
            pool.clients > 0 || !pool.segments.is_empty()
        });
    }

    /// Room for one piece of a namespace. None: it has no segments, or there is no room.
    pub(super) fn slot(&self, namespace: NamespaceId, bytes: usize) -> Option<Slot> {
        let mut pools = self.pools();
        let pool = pools.get_mut(&namespace)?;
        let found = pool.segments.iter().find_map(|segment| segment.slot(bytes));
        if found.is_some() || pool.clients == 0 {
            return found;
        }
        if self.bytes() + self.segment_bytes as u64 > self.bytes_max {
            return None;
        }
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let segment = match Segment::new(id, self.segment_bytes, &self.bytes) {
            Ok(segment) => segment,
            Err(error) => {
                warn!(%error, "no memory can be shared: clients on this host get gRPC");
                return None;
            }
        };
        let slot = segment.slot(bytes);
        pool.segments.push(Arc::new(segment));
        slot
    }

    /// Where a piece of a namespace lies in its segments. None: elsewhere.
    pub(super) fn find(&self, namespace: NamespaceId, piece: &[u8]) -> Option<(Arc<Segment>, u64)> {
        let pools = self.pools();
        let mut segments = pools.get(&namespace)?.segments.iter();
        segments.find_map(|segment| Some((Arc::clone(segment), segment.offset(piece)?)))
    }
}
