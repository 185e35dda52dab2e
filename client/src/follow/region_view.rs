//! A region's directory as a follower keeps it, shared by everybody in the process.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use kvmesh_directory::{
    Command, DirectoryState, FeedPosition, Ring,
    view::{Followed, RegionView},
};
use tokio::{
    sync::watch,
    time::{Instant, timeout_at},
};

use super::changes::{Changes, Told};

struct Inner {
    view: RwLock<RegionView>,
    ring: RwLock<Arc<Ring>>,
    heard: RwLock<Instant>,
    unformed: AtomicBool,
    position: watch::Sender<Option<FeedPosition>>,
    changes: Mutex<Changes>,
}

/// A view of one region. Cheap to clone; clones share it.
#[derive(Clone)]
pub struct SharedRegionView {
    inner: Arc<Inner>,
}

impl SharedRegionView {
    /// Of a state; written by a [`super::RegionFollower`] from then on.
    #[must_use]
    pub fn new(state: DirectoryState) -> Self {
        let mut changes = Changes::default();
        changes.restart(state.position());
        let inner = Inner {
            changes: Mutex::new(changes),
            ring: RwLock::new(Arc::new(Ring::build(state.topology()))),
            heard: RwLock::new(Instant::now()),
            unformed: AtomicBool::new(false),
            position: watch::Sender::new(state.position()),
            view: RwLock::new(RegionView::new(state)),
        };
        Self {
            inner: Arc::new(inner),
        }
    }

    /// Reads the directory under a short lock. Do not call back into the view from `read`.
    pub fn with<T>(&self, read: impl FnOnce(&DirectoryState) -> T) -> T {
        let view = self.inner.view.read();
        read(view.unwrap_or_else(PoisonError::into_inner).state())
    }

    /// The ring of the topology that the view last saw.
    #[must_use]
    pub fn ring(&self) -> Arc<Ring> {
        let ring = self.inner.ring.read();
        Arc::clone(&ring.unwrap_or_else(PoisonError::into_inner))
    }

    /// Where the view stands; none before the region is known.
    #[must_use]
    pub fn position(&self) -> Option<FeedPosition> {
        self.inner.position.borrow().clone()
    }

    /// The position, and its changes.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<Option<FeedPosition>> {
        self.inner.position.subscribe()
    }

    /// Time since the feed was last heard; since the view was made when it never was.
    #[must_use]
    pub fn age(&self) -> Duration {
        let heard = self.inner.heard.read();
        heard.unwrap_or_else(PoisonError::into_inner).elapsed()
    }

    /// Who was asked last for the feed said that the region was never made.
    #[must_use]
    pub fn is_unformed(&self) -> bool {
        self.inner.unformed.load(Ordering::Relaxed)
    }

    /// Waits until the view shows everything that a view at `position` shows, at most until
    /// `deadline`. Says whether it does.
    pub async fn wait_for(&self, position: &FeedPosition, deadline: Instant) -> bool {
        let mut changes = self.changes();
        let covered = changes.wait_for(|at| at.as_ref().is_some_and(|at| at.covers(position)));
        matches!(timeout_at(deadline, covered).await, Ok(Ok(_)))
    }

    /// What appeared and vanished after a position, as far as it is kept; at most
    /// `steps_max` steps of it.
    #[must_use]
    pub fn told_after(&self, after: &FeedPosition, steps_max: usize) -> Told {
        self.tail().after(after, steps_max)
    }

    fn tail(&self) -> MutexGuard<'_, Changes> {
        let changes = self.inner.changes.lock();
        changes.unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes whether the region was never made.
    pub(super) fn note_unformed(&self, unformed: bool) {
        self.inner.unformed.store(unformed, Ordering::Relaxed);
    }

    /// Notes that the feed was heard.
    pub(super) fn hear(&self) {
        self.note_unformed(false);
        let mut heard = self
            .inner
            .heard
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        *heard = Instant::now();
    }

    /// Becomes another state.
    pub(super) fn replace(&self, state: DirectoryState) {
        let position = state.position();
        let ring =
            (state.topology().epoch != self.ring().epoch()).then(|| Ring::build(state.topology()));
        let old = {
            let mut view = self
                .inner
                .view
                .write()
                .unwrap_or_else(PoisonError::into_inner);
            std::mem::replace(&mut *view, RegionView::new(state))
        };
        // A large state takes its time to go: not under the lock.
        drop(old);
        self.tail().restart(position.clone());
        self.publish(ring, position);
    }

    /// Takes a step; false: steps are missing before it.
    pub(super) fn step(&self, position: FeedPosition, command: Option<&Command>) -> bool {
        let (followed, topology, at) = {
            let mut view = self
                .inner
                .view
                .write()
                .unwrap_or_else(PoisonError::into_inner);
            let followed = view.step(position.index, command);
            let state = view.state();
            let topology =
                (state.topology().epoch != self.ring().epoch()).then(|| state.topology().clone());
            (followed, topology, state.position())
        };
        match &followed {
            Followed::Gap => return false,
            Followed::Applied(events) => self.tail().step(position.index, events, at.clone()),
            Followed::Repeated => {}
        }
        self.publish(topology.map(|topology| Ring::build(&topology)), at);
        true
    }

    fn publish(&self, ring: Option<Ring>, position: Option<FeedPosition>) {
        if let Some(ring) = ring {
            let mut current = self
                .inner
                .ring
                .write()
                .unwrap_or_else(PoisonError::into_inner);
            *current = Arc::new(ring);
        }
        self.inner.position.send_replace(position);
    }
}
