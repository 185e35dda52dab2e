//! A client's stream of puts: offers and pieces in, decisions and acknowledgements out, each
//! block by a task of its own.
//!
//! Invariants: at most [`AT_ONCE`] blocks of a call are with their owners; no piece is in
//! memory that the budget does not cover; a block that is not whole when the stream ends is
//! not stored.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use kvmesh_client::Problem;
use kvmesh_directory::{Namespace, namespace::AckLevel};
use tokio::{
    sync::{Semaphore, mpsc},
    time::Instant,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::Instrument;

use crate::{
    budget::Share,
    context::{Gateway, exhausted},
    deadline::Deadline,
    pieces::{Arriving, End},
    request::Order,
    rpc::messages::{Message, Messages},
    write::{self, NotAcked, Offer, Outgoing, Reason, Refused, Replies, Reply},
};

/// Blocks of one call that are with their owners at once.
const AT_ONCE: usize = 64;
/// Offers of one call.
const OFFERS_MAX: usize = 65_536;

/// How a put begins.
pub(crate) struct Open {
    pub(crate) namespace: Arc<Namespace>,
    pub(crate) level: AckLevel,
    /// Of one block.
    pub(crate) deadline: Duration,
    /// Of the call.
    pub(crate) until: Instant,
}

/// One block of a call.
struct Incoming {
    outgoing: Outgoing,
    share: Mutex<Option<Share>>,
    /// Refused at the door after it had been offered.
    spoilt: Mutex<Option<Refused>>,
    over: AtomicBool,
}

struct Call {
    gateway: Arc<Gateway>,
    open: Open,
    replies: Replies,
    blocks: BTreeMap<u64, (Arc<Incoming>, usize)>,
    /// Refused at the door: what still comes of them is dropped.
    refused: BTreeSet<u64>,
    tasks: TaskTracker,
    room: Arc<Semaphore>,
    stop: CancellationToken,
    /// Told of the first block of which nobody knows whether it is stored.
    unknown: mpsc::Sender<Problem>,
}

/// Takes a call's messages until the client has said everything and every block is answered.
pub(crate) async fn run(
    gateway: Arc<Gateway>,
    open: Open,
    mut messages: Messages,
    replies: Replies,
) -> Result<(), Problem> {
    let stop = CancellationToken::new();
    let (unknown, mut broken) = mpsc::channel(1);
    let _stop_blocks = stop.clone().drop_guard();
    let mut call = Call {
        gateway,
        open,
        replies: replies.clone(),
        blocks: BTreeMap::new(),
        refused: BTreeSet::new(),
        tasks: TaskTracker::new(),
        room: Arc::new(Semaphore::new(AT_ONCE)),
        stop,
        unknown,
    };
    let until = call.open.until;
    loop {
        let message = tokio::select! {
            message = tokio::time::timeout_at(until, messages.next()) => message,
            // No answer of ours would be true of that block: the call ends instead.
            Some(problem) = broken.recv() => return Err(problem),
            () = replies.closed() => return Ok(()),
        };
        match message {
            Ok(Ok(Some(message))) => call.take(message).await?,
            Ok(Ok(None)) => break,
            Ok(Err(problem)) => return Err(problem),
            Err(_) => return Err(Problem::OutOfTime("the put")),
        }
    }
    for (block, _) in call.blocks.values() {
        // Of no effect on those that are whole.
        block.outgoing.pieces.end(End::Lost);
    }
    call.tasks.close();
    tokio::select! {
        biased;
        Some(problem) = broken.recv() => Err(problem),
        () = call.tasks.wait() => broken.try_recv().map_or(Ok(()), Err),
        () = replies.closed() => Ok(()),
    }
}

impl Call {
    async fn take(&mut self, message: Message) -> Result<(), Problem> {
        match message {
            Message::Offer(id, offer) => self.offer(id, offer).await,
            Message::Piece(id, data) => self.piece(id, data).await,
        }
    }

    async fn offer(&mut self, id: u64, offer: Result<Offer, Refused>) -> Result<(), Problem> {
        if self.blocks.contains_key(&id) || self.refused.contains(&id) {
            let why = format!("{id} was offered already: every block has its own id");
            return Err(Problem::invalid("offer.id", why));
        }
        if self.blocks.len() + self.refused.len() == OFFERS_MAX {
            return Err(exhausted("65536 offers of one call"));
        }
        let offer = match offer {
            Ok(offer) => offer,
            Err(refused) => {
                self.refused.insert(id);
                self.gateway.meters.put_block("refused", 0);
                let reply = self.replies.send((id, Reply::Refused(refused))).await;
                return reply.map_err(|_| Problem::Internal("the client has gone".to_owned()));
            }
        };
        let block = Arc::new(Incoming {
            outgoing: Outgoing {
                namespace: Arc::clone(&self.open.namespace),
                offer,
                pieces: Arriving::default(),
            },
            share: Mutex::default(),
            spoilt: Mutex::default(),
            over: AtomicBool::new(false),
        });
        self.blocks.insert(id, (Arc::clone(&block), 0));
        let task = BlockTask {
            gateway: Arc::clone(&self.gateway),
            block,
            id,
            level: self.open.level,
            deadline: self.open.deadline,
            until: self.open.until,
            replies: self.replies.clone(),
            unknown: self.unknown.clone(),
        };
        let (room, stop) = (Arc::clone(&self.room), self.stop.clone());
        let running = async move {
            tokio::select! {
                () = task.run(room) => {}
                () = stop.cancelled() => {}
            }
        };
        self.tasks.spawn(running.in_current_span());
        Ok(())
    }

    async fn piece(&mut self, id: u64, data: Bytes) -> Result<(), Problem> {
        self.gateway.meters.put_received(data.len() as u64);
        if self.refused.contains(&id) {
            return Ok(());
        }
        let Some((block, received)) = self.blocks.get_mut(&id) else {
            let why = format!("{id} was not offered: offer a block before its pieces");
            return Err(Problem::invalid("piece.id", why));
        };
        if block.over.load(Ordering::Relaxed) || block.outgoing.pieces.ended().is_some() {
            return Ok(());
        }
        let meta = &block.outgoing.offer.meta;
        let want = meta.piece_len(*received);
        if data.len() != want {
            let got = data.len();
            let message = format!("piece {received} has {got} bytes, expected {want}");
            block.spoil(Refused::finally(Reason::Invalid, message));
            return Ok(());
        }
        if !block.has_share() {
            // A client that sends unasked is slowed down for a moment, then refused.
            let wait = Instant::now() + self.gateway.owner_timeout(0);
            match self.gateway.put_bytes.take(meta.bytes, wait).await {
                Ok(share) => block.keep_share(share),
                Err(_) => {
                    block.spoil(no_space());
                    return Ok(());
                }
            }
        }
        *received += 1;
        block.outgoing.pieces.push(data);
        if *received == meta.piece_count() {
            block.outgoing.pieces.end(End::Whole);
        }
        Ok(())
    }
}

impl Incoming {
    fn has_share(&self) -> bool {
        let share = self.share.lock().unwrap_or_else(PoisonError::into_inner);
        share.is_some()
    }

    fn keep_share(&self, share: Share) {
        let mut kept = self.share.lock().unwrap_or_else(PoisonError::into_inner);
        kept.get_or_insert(share);
    }

    fn spoil(&self, refused: Refused) {
        let mut spoilt = self.spoilt.lock().unwrap_or_else(PoisonError::into_inner);
        spoilt.get_or_insert(refused);
        drop(spoilt);
        self.outgoing.pieces.end(End::Lost);
    }

    /// Gives memory back; later pieces are dropped.
    fn finish(&self) {
        self.over.store(true, Ordering::Relaxed);
        self.outgoing.pieces.forget();
        self.share
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
    }
}

fn no_space() -> Refused {
    let message = "the gateway has too many bytes of puts in memory: put the block again later";
    Refused::for_now(Reason::NoSpace, message)
}

struct BlockTask {
    gateway: Arc<Gateway>,
    block: Arc<Incoming>,
    id: u64,
    level: AckLevel,
    deadline: Duration,
    until: Instant,
    replies: Replies,
    unknown: mpsc::Sender<Problem>,
}

impl BlockTask {
    async fn run(self, room: Arc<Semaphore>) {
        let Ok(_room) = room.acquire().await else {
            return;
        };
        let bytes = self.block.outgoing.offer.meta.bytes;
        let result = self.put().await;
        self.block.finish();
        let reply = match result {
            Ok(ack) => {
                self.gateway.meters.put_block("acked", bytes);
                Reply::Acked(ack)
            }
            Err(NotAcked::Unknown(last)) => {
                self.gateway.meters.put_block("unknown", bytes);
                // Full: the call is being ended already.
                let _ = self.unknown.try_send(last.unknown());
                return;
            }
            Err(NotAcked::Refused(refused)) => {
                self.gateway.meters.put_block("refused", bytes);
                let mut spoilt = self
                    .block
                    .spoilt
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner);
                Reply::Refused(spoilt.take().unwrap_or(refused))
            }
        };
        let _ = self.replies.send((self.id, reply)).await;
    }

    async fn put(&self) -> Result<write::Ack, NotAcked> {
        let at = self.until.min(Instant::now() + self.deadline);
        let outgoing = &self.block.outgoing;
        let _under_way = self.gateway.pending.begin(outgoing.offer.name);
        if !self.block.has_share() {
            let bytes = outgoing.offer.meta.bytes;
            let share = self.gateway.put_bytes.take(bytes, at).await;
            let share = share.map_err(|_| NotAcked::Refused(no_space()))?;
            self.block.keep_share(share);
        }
        let order = Order {
            level: self.level,
            fill: false,
            aside: false,
            deadline: Deadline { at, named: true },
        };
        write::put(
            &self.gateway,
            outgoing,
            order,
            Some((&self.replies, self.id)),
        )
        .await
    }
}
