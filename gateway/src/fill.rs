//! Keeps what was fetched from afar in this region, by the write path, from a bounded queue.

use std::sync::Arc;

use bytes::Bytes;
use kvmesh_client::Block;
use kvmesh_directory::{FeedPosition, Namespace, namespace::AckLevel};
use kvmesh_process::telemetry::{self, SPANS};
use tokio::{
    sync::{Semaphore, mpsc, watch},
    time::{Instant, timeout_at},
};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, Span, info_span};

use crate::{
    budget::{Budget, Share},
    context::Gateway,
    deadline::Deadline,
    flight::Flight,
    meters::{FillEnd, Meters},
    pieces::Arriving,
    request::Order,
    write::{self, NotAcked, Offer, Outgoing},
};

/// Blocks that may wait, whatever their size.
const QUEUE_BLOCKS: usize = 65_536;
/// Blocks that are put at once.
const AT_ONCE: usize = 32;

#[derive(Debug, Clone)]
enum Landing {
    Waiting,
    Kept(Option<FeedPosition>),
    Failed,
}

/// Whether a block will be kept. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Filled {
    landing: watch::Receiver<Landing>,
}

/// One block to be kept.
pub(crate) struct Job {
    namespace: Arc<Namespace>,
    hash: Bytes,
    flight: Arc<Flight>,
    block: Block,
    span: Span,
}

struct Queued {
    job: Job,
    landing: watch::Sender<Landing>,
    _share: Share,
}

/// The queue's front.
pub(crate) struct Fills {
    queue: mpsc::Sender<Queued>,
    pub(crate) bytes: Budget,
}

/// The queue's back; [`run`] empties it.
pub(crate) struct Queue(mpsc::Receiver<Queued>);

impl Job {
    /// `hash` is the engine's. `own` is the gateway's span.
    pub(crate) fn new(
        own: &Span,
        namespace: Arc<Namespace>,
        hash: Bytes,
        flight: Arc<Flight>,
        block: Block,
    ) -> Self {
        Self {
            namespace,
            hash,
            flight,
            span: telemetry::apart(info_span!(
                target: SPANS,
                parent: own,
                "fill",
                kvmesh.bytes = block.meta.bytes,
            )),
            block,
        }
    }
}

impl Filled {
    /// The position that shows the block here; none: it is not kept, or not known to be in time.
    pub(crate) async fn wait(mut self, until: Instant) -> Option<FeedPosition> {
        let over = self
            .landing
            .wait_for(|landing| !matches!(landing, Landing::Waiting));
        match timeout_at(until, over).await {
            Ok(Ok(landing)) => match &*landing {
                Landing::Kept(position) => position.clone(),
                Landing::Waiting | Landing::Failed => None,
            },
            Ok(Err(_)) | Err(_) => None,
        }
    }

    /// Whether it is decided already.
    pub(crate) fn is_over(&self) -> bool {
        !matches!(*self.landing.borrow(), Landing::Waiting)
    }
}

impl Fills {
    pub(crate) fn new(bytes: u64) -> (Self, Queue) {
        let (queue, jobs) = mpsc::channel(QUEUE_BLOCKS);
        let bytes = Budget::new("fill_queue_bytes", bytes);
        (Self { queue, bytes }, Queue(jobs))
    }

    /// Queues a block; over the queue's bound it is not kept.
    pub(crate) fn offer(&self, meters: &Meters, job: Job) -> Filled {
        let (landing, filled) = watch::channel(Landing::Waiting);
        if let Ok(share) = self.bytes.take_now(job.block.meta.bytes) {
            let queued = Queued {
                job,
                landing,
                _share: share,
            };
            if self.queue.try_send(queued).is_ok() {
                return Filled { landing: filled };
            }
        }
        meters.fill(FillEnd::Dropped);
        let (_, failed) = watch::channel(Landing::Failed);
        Filled { landing: failed }
    }
}

/// Empties the queue until `stop`.
pub(crate) async fn run(gateway: Arc<Gateway>, mut queue: Queue, stop: CancellationToken) {
    let room = Arc::new(Semaphore::new(AT_ONCE));
    loop {
        let next = async {
            let room = Arc::clone(&room).acquire_owned().await;
            room.ok().zip(queue.0.recv().await)
        };
        let next = tokio::select! {
            next = next => next,
            () = stop.cancelled() => None,
        };
        let Some((room, queued)) = next else { return };
        let shared = Arc::clone(&gateway);
        let span = queued.job.span.clone();
        let keeping = async move {
            keep(&shared, queued).await;
            drop(room);
        };
        gateway.tasks.spawn(keeping.instrument(span));
    }
}

async fn keep(gateway: &Arc<Gateway>, queued: Queued) {
    let Queued { job, landing, .. } = &queued;
    let name = job.flight.name;
    let outgoing = Outgoing {
        namespace: Arc::clone(&job.namespace),
        offer: Offer {
            hash: job.hash.clone(),
            name,
            meta: job.block.meta.clone(),
        },
        pieces: Arriving::whole(job.block.pieces.clone()),
    };
    let timeout = std::time::Duration::from_millis(gateway.settings.now().put_deadline_ms);
    let order = Order {
        level: level(gateway, &job.namespace),
        fill: true,
        aside: !job.flight.is_wanted(),
        deadline: Deadline {
            at: Instant::now() + timeout,
            named: false,
        },
    };
    let _under_way = gateway.pending.begin(name);
    match write::put(gateway, &outgoing, order, None).await {
        Ok(ack) => {
            gateway.meters.fill(FillEnd::Kept);
            landing.send_replace(Landing::Kept(ack.position));
        }
        Err(NotAcked::Refused(last) | NotAcked::Unknown(last)) => {
            tracing::debug!(%name.hash, reason = ?last.reason, "a fetched block is not kept");
            gateway.meters.fill(FillEnd::Failed);
            landing.send_replace(Landing::Failed);
        }
    }
    gateway.flights.land(&job.flight);
}

/// A fill can be fetched again: where there are too few nodes for the policy's level, one copy does.
fn level(gateway: &Gateway, namespace: &Namespace) -> AckLevel {
    match write::living(gateway) < namespace.policy.replicas as usize {
        true => AckLevel::Memory,
        false => namespace.policy.ack,
    }
}
