//! `Put` on a node: one call. Routes offers and pieces to the tasks of their blocks.

use std::{
    collections::BTreeMap,
    sync::{Arc, Weak},
    time::Duration,
};

use kvmesh_client::{BlockMeta, Problem, convert};
use kvmesh_directory::{Hlc, RingEpoch};
use kvmesh_proto::v1::{self as wire, put_request::Frame};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    time::timeout,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};
use tracing::Instrument;

use super::{
    Frames, namespace_of,
    put_block::{self, Offered},
};
use crate::{
    Settings,
    node::Node,
    receive::Piece,
    store::arena::footprint,
    write::{Failure, Reason, Terms},
};

/// Blocks of one call whose pieces come or that are being committed.
const ACTIVE_MAX: usize = 64;
/// Blocks offered in one call.
const OFFERS_PER_CALL_MAX: usize = 65_536;
/// Pieces of one block that wait to be looked at.
const PIECES_MAX: usize = 2;
/// Answers that wait to be sent.
pub(super) const ANSWERS_MAX: usize = 64;
/// A call that is silent for so long is ended.
pub(super) const SILENCE_MAX: Duration = Duration::from_secs(120);

pub(super) type Answers = mpsc::Sender<Result<wire::PutResponse, Status>>;

pub(super) fn put(
    node: &Arc<Node>,
    requests: Streaming<wire::PutRequest>,
) -> Frames<wire::PutResponse> {
    let (answers, receiver) = mpsc::channel(ANSWERS_MAX);
    let node_of_task = Arc::clone(node);
    let serving = async move {
        if let Err(status) = serve(&node_of_task, requests, &answers).await {
            // When the caller is gone there is nobody to tell.
            let _ = answers.send(Err(status)).await;
        }
    };
    node.tasks.spawn(serving.in_current_span());
    ReceiverStream::new(receiver)
}

async fn serve(
    node: &Arc<Node>,
    mut requests: Streaming<wire::PutRequest>,
    answers: &Answers,
) -> Result<(), Status> {
    let Some(first) = next(node, &mut requests).await? else {
        return Err(Problem::invalid("open", "it is missing: it is a put's first message").into());
    };
    let Some(Frame::Open(open)) = first.frame else {
        return Err(Problem::invalid("open", "it is a put's first message").into());
    };
    let mut call = Call::open(node, &open, answers, None).await?;
    while !answers.is_closed() {
        match next(node, &mut requests)
            .await?
            .map(|request| request.frame)
        {
            None => break,
            Some(Some(Frame::Offer(offer))) => call.offer(offer).await?,
            Some(Some(Frame::Piece(piece))) => {
                call.piece(piece.id, Piece::Sent(piece.data)).await?
            }
            Some(Some(Frame::Open(_))) => {
                return Err(Problem::invalid("open", "it came twice in one put").into());
            }
            Some(None) => return Err(Problem::invalid("frame", "it is missing").into()),
        }
    }
    Ok(())
}

async fn next(
    node: &Node,
    requests: &mut Streaming<wire::PutRequest>,
) -> Result<Option<wire::PutRequest>, Status> {
    tokio::select! {
        next = timeout(SILENCE_MAX, requests.message()) => match next {
            Ok(next) => next,
            Err(_) => Err(Problem::OutOfTime("the put's next message").into()),
        },
        () = node.stop.cancelled() => {
            Err(Problem::unavailable("this node is shutting down: ask another one").into())
        }
    }
}

async fn terms(node: &Node, open: &wire::PutOpen) -> Result<Terms, Problem> {
    let namespace = namespace_of(node, &open.namespace_id)?;
    let ack = convert::ack_level(open.ack)?;
    let deadline = Duration::from_millis(match open.deadline_ms {
        0 => node.settings.now().put_deadline_ms,
        named => u64::from(named),
    });
    let epoch = RingEpoch(open.ring_epoch);
    let terms = Terms {
        waits: open.waits,
        aside: open.aside && open.fill,
        ..Terms::new(&namespace, ack, epoch, deadline, open.fill)
    };
    node.at_epoch(epoch).await?;
    Ok(terms)
}

/// One call of `Put`, or one put of a client on this host.
pub(super) struct Call {
    node: Arc<Node>,
    terms: Arc<Terms>,
    answers: Answers,
    active: Arc<Semaphore>,
    /// Where the pieces of each offered block go. None: it was refused.
    pieces: BTreeMap<u64, Option<mpsc::Sender<Piece>>>,
    staging: Option<Counted>,
}

/// Staging is in flight, too, while a block of its connection is not settled.
pub(super) struct Counted {
    bytes: u64,
    room: Weak<OwnedSemaphorePermit>,
}

impl Counted {
    pub(super) fn of(bytes: u64) -> Self {
        let room = Weak::new();
        Self { bytes, room }
    }

    /// Counts it for one more block.
    fn enter(
        &mut self,
        node: &Node,
        meta: &BlockMeta,
    ) -> Result<Arc<OwnedSemaphorePermit>, Failure> {
        let no_room = |why| Failure::later(Reason::NoSpace, why);
        if footprint(meta.bytes) + self.bytes > node.put_gate.bytes_max() {
            return Err(no_room("it is too large for this way: put it over gRPC"));
        }
        if let Some(room) = self.room.upgrade() {
            return Ok(room);
        }
        let room = node.put_gate.try_enter(self.bytes).map(Arc::new);
        let room = room.ok_or_else(|| no_room("too many bytes are on their way"))?;
        self.room = Arc::downgrade(&room);
        Ok(room)
    }
}

impl Call {
    /// Begins one; of a client on this host what it has to put blocks into is counted.
    pub(super) async fn open(
        node: &Arc<Node>,
        open: &wire::PutOpen,
        answers: &Answers,
        staging: Option<Counted>,
    ) -> Result<Self, Problem> {
        Ok(Self {
            terms: Arc::new(terms(node, open).await?),
            node: Arc::clone(node),
            answers: answers.clone(),
            active: Arc::new(Semaphore::new(ACTIVE_MAX)),
            pieces: BTreeMap::new(),
            staging,
        })
    }

    pub(super) async fn offer(&mut self, offer: wire::PutOffer) -> Result<(), Status> {
        let id = offer.id;
        if self.pieces.contains_key(&id) {
            let why = format!("{id} was offered before: every block has its own id in a put");
            return Err(Problem::invalid("offer.id", why).into());
        }
        if self.pieces.len() >= OFFERS_PER_CALL_MAX {
            let why = format!("over {OFFERS_PER_CALL_MAX} blocks in one put: begin another one");
            return Err(Problem::invalid("offer", why).into());
        }
        match self.admit(offer) {
            Ok((offered, room)) => {
                let (sender, receiver) = mpsc::channel(PIECES_MAX);
                self.pieces.insert(id, Some(sender));
                let task = put_block::serve(offered, receiver);
                let settling = async move {
                    task.await;
                    drop(room);
                };
                self.node.tasks.spawn(settling.in_current_span());
            }
            Err(failure) => {
                self.pieces.insert(id, None);
                put_block::refuse(&self.node, &self.answers, id, failure).await;
            }
        }
        Ok(())
    }

    fn admit(&mut self, offer: wire::PutOffer) -> Result<(Offered, OwnedSemaphorePermit), Failure> {
        let current = self.node.placement.epoch();
        if current != self.terms.epoch {
            let message = format!("the ring epoch is {current}: ask again with the current one");
            return Err(Failure::later(Reason::StaleEpoch, message));
        }
        let namespace = self.node.namespace(self.terms.namespace);
        let namespace = namespace.map_err(|problem| Failure::never(Reason::Invalid, problem))?;
        let (name, mut meta) = put_block::read(&offer, &self.terms, &namespace)?;
        if !self.terms.fill {
            meta.put_hlc = Hlc(0);
        }
        if self.terms.aside && self.node.is_worth_more(&name, &meta) {
            let why = "what would go for the block was used since it was put";
            return Err(Failure::later(Reason::NoSpace, why));
        }
        let staging = self.staging.as_mut();
        let staging = staging.map(|counted| counted.enter(&self.node, &meta));
        let staging = staging.transpose()?;
        let room = Arc::clone(&self.node.offers).try_acquire_owned();
        let room = room.map_err(|_| {
            Failure::later(
                Reason::NoSpace,
                "too many blocks are offered: try again later",
            )
        })?;
        let offered = Offered {
            node: Arc::clone(&self.node),
            terms: Arc::clone(&self.terms),
            answers: self.answers.clone(),
            active: Arc::clone(&self.active),
            id: offer.id,
            name,
            meta,
            staging,
        };
        Ok((offered, room))
    }

    pub(super) async fn piece(&mut self, id: u64, piece: Piece) -> Result<(), Status> {
        match self.pieces.get_mut(&id) {
            None => {
                let why = format!("{id} was not offered: offer a block before its pieces");
                Err(Problem::invalid("piece.id", why).into())
            }
            Some(route) => {
                let settled = match route {
                    // An error means that the block is settled: the rest is not wanted.
                    Some(sender) => sender.send(piece).await.is_err(),
                    None => true,
                };
                if settled {
                    *route = None;
                }
                Ok(())
            }
        }
    }
}

/// How long one block may wait for its turn: others of the same call come first.
pub(super) fn turn_wait(node: &Node) -> Duration {
    Settings::millis(node.settings.now().owner_timeout_ms)
}
