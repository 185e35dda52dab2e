//! The one task that writes blocks to disk, from a bounded queue. Who wants to know when they
//! are durable shares a sync with all others that wait.

use std::sync::Arc;

use tokio::{
    sync::{OwnedSemaphorePermit, mpsc, oneshot},
    time::{Duration, Instant, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    append::{Appender, Record, Stopped, WRITE_BYTES_MAX},
    index::Place,
    record::Header,
    shared::{Shared, count},
};

/// Orders that wait.
pub(super) const ORDERS_MAX: usize = 4_096;
/// Without news room is looked for so often: the file system is shared.
const ROOM_WAIT: Duration = Duration::from_millis(250);
/// After so long without room what waits is given up: before a gateway that waits for an owner
/// (a second, at least) takes it for one that does not answer.
const FULL_WAIT: Duration = Duration::from_millis(750);

/// What the writer is to do.
pub(super) enum Order {
    /// Write what waits under a ticket.
    Write(u64, OwnedSemaphorePermit),
    /// Tell when all that was ordered before is durable, or failed.
    Sync(oneshot::Sender<()>),
}

/// Writes until `stop`, and then what waits already, as far as there is room.
pub(super) async fn run(
    shared: Arc<Shared>,
    mut orders: mpsc::Receiver<Order>,
    stop: CancellationToken,
) {
    let mut appender = Appender::new(Arc::clone(&shared), 1);
    loop {
        let first = tokio::select! {
            biased;
            first = orders.recv() => first,
            () = stop.cancelled() => {
                orders.close();
                orders.try_recv().ok()
            }
        };
        let Some(first) = first else { break };
        let batch = Batch::collect(&shared, first, &mut orders);
        batch.write(&shared, &mut appender, &stop).await;
    }
    // What is sealed needs no verifying at the next start.
    let _ = appender.close().await;
}

#[derive(Default)]
struct Batch {
    tickets: Vec<u64>,
    records: Vec<Record>,
    permits: Vec<OwnedSemaphorePermit>,
    syncs: Vec<oneshot::Sender<()>>,
    bytes: u64,
}

impl Batch {
    /// Takes what waits, as much as one write has room for.
    fn collect(shared: &Shared, first: Order, orders: &mut mpsc::Receiver<Order>) -> Self {
        let mut batch = Self::default();
        let mut next = Some(first);
        while let Some(order) = next {
            batch.add(shared, order);
            next = match batch.bytes < WRITE_BYTES_MAX {
                true => orders.try_recv().ok(),
                false => None,
            };
        }
        batch
    }

    fn add(&mut self, shared: &Shared, order: Order) {
        match order {
            Order::Sync(done) => self.syncs.push(done),
            Order::Write(ticket, permit) => {
                // What was removed meanwhile is not written.
                let Some((key, block)) = shared.state().index.waiting(ticket) else {
                    return;
                };
                let header = Header {
                    name: key.name,
                    meta: block.meta.clone(),
                    log: shared.log(),
                };
                self.bytes += header.record_bytes();
                self.tickets.push(ticket);
                self.records.push(Record { header, block });
                self.permits.push(permit);
            }
        }
    }

    async fn write(self, shared: &Shared, appender: &mut Appender, stop: &CancellationToken) {
        let (mut done, patience) = (0, Instant::now() + FULL_WAIT);
        while done < self.records.len() {
            let (places, stopped) = appender.append(&self.records[done..]).await;
            self.note(shared, done, &places);
            done += places.len();
            match stopped {
                None => {}
                Some(Stopped::NoRoom) if !stop.is_cancelled() && Instant::now() < patience => {
                    let more = timeout(ROOM_WAIT, shared.room.notified());
                    tokio::select! {
                        _ = more => {}
                        () = stop.cancelled() => {}
                    }
                }
                Some(Stopped::NoRoom) => {
                    shared.rests();
                    break;
                }
                Some(Stopped::Failed) => break,
            }
        }
        self.give_up(shared, done);
        drop(self.permits);
        if !self.syncs.is_empty() {
            // Who waits looks itself at what became of its block.
            let _ = appender.sync().await;
            count(&shared.counts.syncs, 1);
        }
        for told in self.syncs {
            let _ = told.send(());
        }
    }

    /// Notes where the records from one on were written.
    fn note(&self, shared: &Shared, from: usize, places: &[Place]) {
        let mut state = shared.state();
        for (at, place) in (from..).zip(places) {
            count(&shared.counts.written, place.bytes);
            let log = self.records[at].header.log;
            state.index.written(self.tickets[at], *place, log);
        }
    }

    /// Forgets the blocks from one on: they were not written.
    fn give_up(&self, shared: &Shared, from: usize) {
        let mut state = shared.state();
        for ticket in &self.tickets[from..] {
            if let Some(key) = state.index.failed(*ticket) {
                state.departed.push(key);
            }
        }
    }
}
