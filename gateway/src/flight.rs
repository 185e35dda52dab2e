//! Single flight: concurrent gets of one missing block share one fetch.
//!
//! A flight is in the table from the first get that wants the block until it is lost, kept
//! here, or overtaken by a delete: whoever comes then begins another one. Waiters see pieces
//! as they arrive, each at its own pace; none waits for another.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use kvmesh_client::BlockMeta;
use kvmesh_directory::{BlockName, Hlc, RegionId};
use tokio::{sync::watch, time::Instant};

use crate::{
    budget::Share,
    fill::Filled,
    pieces::{Arriving, End, Next, Reader},
};

/// One block on its way from another region.
pub(crate) struct Flight {
    pub(crate) name: BlockName,
    pub(crate) arriving: Arriving,
    header: OnceLock<(RegionId, BlockMeta)>,
    filled: OnceLock<Filled>,
    missing: AtomicBool,
    /// Whoever waits wants it to stay here, whatever the policy does with gets.
    kept: AtomicBool,
    /// Somebody here waits for it who does not only copy it.
    wanted: AtomicBool,
    waiters: AtomicUsize,
    until: Mutex<Instant>,
    /// Told when the last waiter leaves.
    left: Arc<watch::Sender<()>>,
    share: Mutex<Option<Share>>,
}

/// Flights by name. Bounded by the blocks that admitted gets want.
#[derive(Clone, Default)]
pub(crate) struct Flights {
    open: Arc<Mutex<HashMap<BlockName, Arc<Flight>>>>,
}

/// One waiter of a flight, until dropped.
pub(crate) struct Ticket {
    flight: Arc<Flight>,
    reader: Reader,
    begun: bool,
    pieces: usize,
}

/// What a waiter sees next.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Event {
    Header(RegionId, BlockMeta),
    Piece(Bytes),
    Whole,
    /// The region does not have it.
    Missing,
    /// The fetch failed.
    Lost,
}

impl Flights {
    /// Joins the flight of a block, or begins one; then the second value is the flight, and the
    /// caller fetches it and tells `left` to whoever does. A flight that carries a block which
    /// is not `visible` any more was begun before its delete and is not joined.
    pub(crate) fn join(
        &self,
        name: BlockName,
        until: Instant,
        left: &Arc<watch::Sender<()>>,
        visible: impl Fn(&BlockName, Hlc) -> bool,
    ) -> (Ticket, Option<Arc<Flight>>) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let joined = open.get(&name).filter(|flight| match flight.header() {
            Some((_, meta)) => visible(&name, meta.put_hlc),
            // Whether it is visible is looked at when it is announced.
            None => true,
        });
        if let Some(flight) = joined {
            flight.waiters.fetch_add(1, Ordering::Relaxed);
            let mut longest = flight.until.lock().unwrap_or_else(PoisonError::into_inner);
            *longest = until.max(*longest);
            drop(longest);
            return (Ticket::new(Arc::clone(flight)), None);
        }
        let flight = Arc::new(Flight {
            name,
            arriving: Arriving::default(),
            header: OnceLock::new(),
            filled: OnceLock::new(),
            missing: AtomicBool::new(false),
            kept: AtomicBool::new(false),
            wanted: AtomicBool::new(false),
            waiters: AtomicUsize::new(1),
            until: Mutex::new(until),
            left: Arc::clone(left),
            share: Mutex::new(None),
        });
        open.insert(name, Arc::clone(&flight));
        (Ticket::new(Arc::clone(&flight)), Some(flight))
    }

    /// Whether a block is being fetched.
    pub(crate) fn has(&self, name: &BlockName) -> bool {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.contains_key(name)
    }

    /// Ends a flight that does not arrive.
    pub(crate) fn lose(&self, flight: &Flight, missing: bool) {
        flight.missing.store(missing, Ordering::Relaxed);
        self.land(flight);
        flight.end(End::Lost);
    }

    /// Forgets a flight that has ended: who comes from now on begins another.
    pub(crate) fn land(&self, flight: &Flight) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        remove(&mut open, flight);
    }

    /// Forgets flights if nobody waits for any of them; says whether it did.
    pub(crate) fn abandon(&self, flights: &[Arc<Flight>]) -> bool {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let mut unfinished = flights.iter().filter(|it| it.arriving.ended().is_none());
        if unfinished.any(|it| it.waiters.load(Ordering::Relaxed) > 0) {
            return false;
        }
        for flight in flights.iter().filter(|it| it.arriving.ended().is_none()) {
            remove(&mut open, flight);
        }
        true
    }
}

/// Takes a flight out of the table, unless another one of the same block took its place.
fn remove(open: &mut HashMap<BlockName, Arc<Flight>>, flight: &Flight) {
    let it = open.get(&flight.name);
    if it.is_some_and(|it| std::ptr::eq(&**it, flight)) {
        open.remove(&flight.name);
    }
}

impl Flight {
    /// Announces the block, and what it takes of the budget.
    pub(crate) fn announce(&self, region: RegionId, meta: BlockMeta, share: Share) {
        *self.share.lock().unwrap_or_else(PoisonError::into_inner) = Some(share);
        let _ = self.header.set((region, meta));
    }

    /// The announcement.
    pub(crate) fn header(&self) -> Option<&(RegionId, BlockMeta)> {
        self.header.get()
    }

    /// The block is whole; `filled` tells whether it will be kept here, if it is to be.
    pub(crate) fn complete(&self, filled: Option<Filled>) {
        if let Some(filled) = filled {
            let _ = self.filled.set(filled);
        }
        self.end(End::Whole);
    }

    /// Whether some waiter wants it to be kept.
    pub(crate) fn is_kept(&self) -> bool {
        self.kept.load(Ordering::Relaxed)
    }

    /// Whether somebody waits for it who does not only copy it here.
    pub(crate) fn is_wanted(&self) -> bool {
        self.wanted.load(Ordering::Relaxed)
    }

    /// Whether anybody waits for it now, and not only copies.
    pub(crate) fn is_awaited(&self) -> bool {
        self.is_wanted() && self.waiters.load(Ordering::Relaxed) > 0
    }

    /// The deadline of its longest waiter.
    pub(crate) fn until(&self) -> Instant {
        *self.until.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn end(&self, end: End) {
        self.arriving.end(end);
        self.release();
    }

    /// Gives the budget back once nobody reads the block any more; the fill has its own.
    fn release(&self) {
        let over = self.arriving.ended().is_some();
        if over && self.waiters.load(Ordering::Relaxed) == 0 {
            self.share
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .take();
        }
    }
}

impl Ticket {
    fn new(flight: Arc<Flight>) -> Self {
        Self {
            reader: flight.arriving.reader(),
            flight,
            begun: false,
            pieces: 0,
        }
    }

    /// Waits for what comes next. May be dropped at any time.
    pub(crate) async fn next(&mut self) -> Event {
        let next = self.reader.wait(self.pieces).await;
        match next {
            Next::End(End::Lost) if self.flight.missing.load(Ordering::Relaxed) => Event::Missing,
            Next::End(End::Lost) => Event::Lost,
            _ if !self.begun => {
                self.begun = true;
                match self.flight.header() {
                    Some((region, meta)) => Event::Header(region.clone(), meta.clone()),
                    None => Event::Lost,
                }
            }
            Next::Piece(piece) => {
                self.pieces += 1;
                Event::Piece(piece)
            }
            Next::End(End::Whole) => Event::Whole,
        }
    }

    /// Waits until the block is whole or does not come. May be dropped at any time.
    pub(crate) async fn arrived(&mut self) {
        self.reader.ended().await;
    }

    /// Whoever holds the ticket wants the block, and does not only copy it here.
    pub(crate) fn want(&self) {
        self.flight.wanted.store(true, Ordering::Relaxed);
    }

    /// The block is to be kept here.
    pub(crate) fn keep(&self) {
        self.flight.kept.store(true, Ordering::Relaxed);
    }

    /// Whether the block is kept here, once it is whole; none: it is not to be.
    pub(crate) fn filled(&self) -> Option<Filled> {
        self.flight.filled.get().cloned()
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if self.flight.waiters.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.flight.release();
            self.flight.left.send_replace(());
        }
    }
}

#[cfg(test)]
#[path = "flight_test.rs"]
mod flight_test;
