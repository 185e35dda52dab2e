//! What the parts of the disk tier share.
//!
//! Lock order: `state` is the innermost lock of a node, and held for no call of the disk.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use kvmesh_directory::LogIncarnation;
use tokio::{
    sync::Notify,
    time::{Duration, Instant},
};

use super::{
    index::{Index, Place},
    io::{Files, Space},
    reclaim::SPARE,
    record::{ALIGN, Header, aligned},
    segment::Segment,
};
use crate::{
    gate::ByteGate,
    store::{CopyKey, pool::Pool},
};

/// Reads of the disk at a time.
const READS: usize = 16;
/// Writes of the disk at a time: the writer's and the reclaimer's.
const WRITES: usize = 4;
/// A disk that takes longer for one call has failed.
const CALL_MAX: Duration = Duration::from_secs(10);
/// For so long nothing is written after the disk failed or was full.
const REST: Duration = Duration::from_secs(5);
/// Bytes of a segment, at least and at most.
const SEGMENT_BYTES: (u64, u64) = (1 << 20, 128 << 20);
/// Segments that a disk has, at least.
const SEGMENTS_MIN: u64 = 32;
/// Of what a store could have when it was opened, others on its file system leave it this part.
pub(super) const KEPT_PART: u64 = 4;

/// How large things are.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shape {
    pub(super) disk_bytes: u64,
    pub(super) segment_bytes: u64,
    /// Over so much of the file system nothing is written.
    pub(super) stop_percent: u64,
    /// Copies on disk: their books are in memory.
    pub(super) copies_max: usize,
    /// Of blocks that wait to be written.
    pub(super) queue_bytes: u64,
}

impl Shape {
    /// Copies that one segment takes, at most: of small ones a disk has many segments as well, so
    /// that some can go.
    pub(super) fn segment_copies(&self) -> usize {
        (self.copies_max / SEGMENTS_MIN as usize).max(1)
    }

    /// Bytes of a file system that may be in use.
    pub(super) fn stop_bytes(&self, space: Space) -> u64 {
        space.total / 100 * self.stop_percent
    }

    /// Of a budget.
    pub(super) fn segment_of(disk_bytes: u64) -> u64 {
        let (min, max) = SEGMENT_BYTES;
        (disk_bytes / SEGMENTS_MIN / ALIGN * ALIGN).clamp(min, max)
    }
}

#[derive(Default)]
pub(super) struct State {
    pub(super) index: Index,
    pub(super) open: BTreeMap<u64, Segment>,
    /// Number of the next segment.
    pub(super) next: u64,
    /// Segments of earlier starts that are to be gone on with: where their records end, and
    /// which. So a disk has no more files for being started more often.
    pub(super) resumable: BTreeSet<(u64, u64)>,
    /// Copies that were lost: the disk failed, or gave back other bytes. Bounded by those
    /// that were listed.
    pub(super) departed: Vec<CopyKey>,
    rests_until: Option<Instant>,
}

/// What is counted; see the runbook.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) written: AtomicU64,
    pub(super) carried: AtomicU64,
    pub(super) read: AtomicU64,
    pub(super) corrupt: AtomicU64,
    pub(super) failures: AtomicU64,
    pub(super) skipped: AtomicU64,
    pub(super) torn: AtomicU64,
    pub(super) syncs: AtomicU64,
}

pub(super) fn count(counter: &AtomicU64, by: u64) {
    counter.fetch_add(by, Ordering::Relaxed);
}

pub(super) struct Shared {
    pub(super) files: Arc<dyn Files>,
    pub(super) shape: Shape,
    /// Random number of the store.
    pub(super) store: [u8; 16],
    pub(super) reads: Pool,
    pub(super) writes: Pool,
    pub(super) queue_gate: ByteGate,
    /// There may be room for a segment now.
    pub(super) room: Notify,
    /// Room may be short, or a segment empty.
    pub(super) crowded: Notify,
    pub(super) counts: Counts,
    state: Mutex<State>,
    log: AtomicU64,
    /// Bytes that files may take now.
    ceiling: AtomicU64,
    /// The least that `ceiling` can be.
    floor: AtomicU64,
}

impl Shared {
    pub(super) fn new(files: Arc<dyn Files>, shape: Shape, store: [u8; 16]) -> Self {
        Self {
            files,
            shape,
            store,
            reads: Pool::new(READS, CALL_MAX),
            writes: Pool::new(WRITES, CALL_MAX),
            queue_gate: ByteGate::new(shape.queue_bytes),
            room: Notify::new(),
            crowded: Notify::new(),
            counts: Counts::default(),
            state: Mutex::default(),
            log: AtomicU64::new(0),
            ceiling: AtomicU64::new(shape.disk_bytes),
            floor: AtomicU64::new(0),
        }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Log of the region's directory, which records name.
    pub(super) fn log(&self) -> LogIncarnation {
        LogIncarnation(self.log.load(Ordering::Relaxed))
    }

    pub(super) fn set_log(&self, log: LogIncarnation) {
        self.log.store(log.0, Ordering::Relaxed);
    }

    /// The disk failed: nothing is written for a while.
    pub(super) fn broke(&self) {
        count(&self.counts.failures, 1);
        self.rests();
    }

    /// Nothing is written for a while.
    pub(super) fn rests(&self) {
        self.state().rests_until = Some(Instant::now() + REST);
    }

    pub(super) fn is_resting(&self) -> bool {
        let until = self.state().rests_until;
        until.is_some_and(|until| until > Instant::now())
    }

    /// The record at a place was not what it should be.
    pub(super) fn corrupt(&self, place: Place) {
        count(&self.counts.corrupt, 1);
        let mut state = self.state();
        if let Some(key) = state.index.remove_at(place) {
            state.departed.push(key);
        }
    }

    /// Bytes of a segment that has room for a record.
    pub(super) fn segment_for(&self, header: &Header) -> u64 {
        let own = aligned(header.record_bytes()) + ALIGN;
        self.shape.segment_bytes.max(own)
    }

    /// Takes the segment of an earlier start that is filled least, for a record of so many
    /// bytes; where its records end, and by how much its file must grow. None: there is none
    /// with room, or the budget has none.
    pub(super) fn resume(&self, record: u64, spare: u64) -> Option<(Segment, u64, u64)> {
        let bytes = self.shape.segment_bytes;
        let mut state = self.state();
        let (end, number) = state.resumable.first().copied()?;
        let segment = state.open.get(&number).cloned()?;
        let more = bytes.checked_sub(segment.file.bytes())?;
        let held = state.index.file_bytes();
        if end + record + ALIGN > bytes || held + more + spare * bytes > self.ceiling() {
            return None;
        }
        state.resumable.pop_first();
        state.index.reopen(number, bytes);
        Some((segment, end, more))
    }

    /// Bytes that files may take now: the budget, or less where others fill the file system.
    pub(super) fn ceiling(&self) -> u64 {
        self.ceiling.load(Ordering::Relaxed)
    }

    /// Takes what the file system has at the start.
    pub(super) fn begins_with(&self, space: Space) {
        let could = self.left_by(space);
        // What is to spare is emptied first, and by whole segments.
        let spare = (SPARE + 1) * self.shape.segment_bytes;
        let floor = (could / KEPT_PART + spare).min(could);
        self.floor.store(floor, Ordering::Relaxed);
        self.ceiling.store(could, Ordering::Relaxed);
    }

    /// Takes what the file system has now.
    pub(super) fn shares(&self, space: Space) {
        let floor = self.floor.load(Ordering::Relaxed);
        let ceiling = self.left_by(space).max(floor);
        self.ceiling.store(ceiling, Ordering::Relaxed);
    }

    /// Of the budget, what others leave on a file system.
    fn left_by(&self, space: Space) -> u64 {
        let held = self.state().index.file_bytes();
        let others = space.used().saturating_sub(held);
        let left = self.shape.stop_bytes(space).saturating_sub(others);
        left.min(self.shape.disk_bytes)
    }

    /// Whether the books have room for so many full segments more.
    pub(super) fn lists(&self, spare: usize) -> bool {
        let listed = self.state().index.len();
        listed + spare * self.shape.segment_copies() <= self.shape.copies_max
    }

    /// Whether the budget has room for so many bytes and `spare` segments more.
    pub(super) fn fits(&self, bytes: u64, spare: u64) -> bool {
        let held = self.state().index.file_bytes();
        held + bytes + spare * self.shape.segment_bytes <= self.ceiling()
    }
}
