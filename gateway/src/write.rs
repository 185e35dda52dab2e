//! The whole write policy: which owner gets a block, how long it may take, and who is next.
//!
//! A block goes to the primary of its preference list. An owner that cannot be reached, falls
//! silent or lacks peers is skipped for the next one; a stale ring is refreshed; both go on
//! until the block's deadline. What is wrong with the block itself is final.
//!
//! Not here: a client's stream (`intake`), and how an owner is spoken to (`rpc::hand`).

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
pub(crate) use kvmesh_client::RefusalReason as Reason;
use kvmesh_client::{BlockMeta, Problem};
use kvmesh_directory::{
    BlockName, FeedPosition, Namespace, NodeId, Ring, RingEpoch, namespace::AckLevel,
};
use kvmesh_process::telemetry::SPANS;
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until, timeout_at},
};
use tracing::{Instrument, info_span};

use crate::{
    context::{Gateway, RETRY_AFTER},
    pieces::{Arriving, End, Next},
    request::Order,
    rpc::hand::{Answer, Failure, Hand},
};

/// Pauses between two rounds over the owners, the first and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_millis(800));
/// An acknowledgement may take as long as so many owners: the primary waits for the others.
const OWNERS_WAITED_FOR: u32 = 3;

/// What a block is announced as.
#[derive(Debug, Clone)]
pub(crate) struct Offer {
    /// As the engine made it.
    pub(crate) hash: Bytes,
    pub(crate) name: BlockName,
    pub(crate) meta: BlockMeta,
}

/// A block to be put. Its pieces stay until it is acknowledged, so that another owner can get them.
#[derive(Debug, Clone)]
pub(crate) struct Outgoing {
    pub(crate) namespace: Arc<Namespace>,
    pub(crate) offer: Offer,
    pub(crate) pieces: Arriving,
}

/// A block was not stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refused {
    pub(crate) reason: Reason,
    /// What is wrong and what to do.
    pub(crate) message: String,
    /// Zero: never as it is.
    pub(crate) retry_after: Duration,
}

impl Refused {
    /// Never as it is.
    pub(crate) fn finally(reason: Reason, message: impl Into<String>) -> Self {
        Self {
            reason,
            message: message.into(),
            retry_after: Duration::ZERO,
        }
    }

    /// Worth another try.
    pub(crate) fn for_now(reason: Reason, message: impl Into<String>) -> Self {
        Self {
            reason,
            message: message.into(),
            retry_after: RETRY_AFTER,
        }
    }

    fn out_of_time() -> Self {
        Self::for_now(
            Reason::OutOfTime,
            "the put took longer than its deadline: put it again",
        )
    }

    /// The last failure of a put that an owner may have stored.
    pub(crate) fn unknown(self) -> Problem {
        let what = format!("the block may be stored, and may not: {}", self.message);
        Problem::unavailable(what)
    }

    fn truncated() -> Self {
        let message = "the stream ended before the block was whole: put it again";
        Self::for_now(Reason::Truncated, message)
    }
}

/// A block was not acknowledged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum NotAcked {
    /// No owner has stored it.
    Refused(Refused),
    /// An owner that was given all of it did not say: it may be stored. The last failure.
    Unknown(Refused),
}

/// A block is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ack {
    /// The level reached.
    pub(crate) level: AckLevel,
    pub(crate) position: Option<FeedPosition>,
    pub(crate) copies: u32,
    pub(crate) existed: bool,
    pub(crate) put_hlc: u64,
}

/// What a client is told about one of its blocks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Reply {
    Send,
    Have,
    Refused(Refused),
    Acked(Ack),
}

/// Replies to the blocks of one call, by their ids.
pub(crate) type Replies = mpsc::Sender<(u64, Reply)>;

/// How one owner's attempt ended.
enum Attempt {
    Acked(Ack),
    Final(Refused),
    /// The owner has another ring.
    Stale(Refused),
    /// The next owner may do better.
    Next(Refused),
}

/// What a put has come to, over all owners that were tried.
#[derive(Default)]
struct Progress {
    /// The client was told to send.
    wanted: bool,
    /// An owner had everything, and gave no answer: it may have stored the block.
    perhaps: bool,
}

/// Nodes of the region that live.
pub(crate) fn living(gateway: &Gateway) -> usize {
    let local = &gateway.views.local;
    local.with(|state| state.nodes().filter(|node| node.alive).count())
}

/// Puts one block; `replies` (with the block's id there) are told when its bytes are wanted.
pub(crate) async fn put(
    gateway: &Arc<Gateway>,
    block: &Outgoing,
    order: Order,
    replies: Option<(&Replies, u64)>,
) -> Result<Ack, NotAcked> {
    let mut progress = Progress::default();
    let put = try_owners(gateway, block, order, replies, &mut progress).await;
    put.map_err(|refused| match progress.perhaps {
        false => NotAcked::Refused(refused),
        true => NotAcked::Unknown(refused),
    })
}

async fn try_owners(
    gateway: &Arc<Gateway>,
    block: &Outgoing,
    order: Order,
    replies: Option<(&Replies, u64)>,
    progress: &mut Progress,
) -> Result<Ack, Refused> {
    let until = order.deadline.at;
    let enough = match order.level {
        AckLevel::Memory => 1,
        AckLevel::Replicated | AckLevel::Durable => block.namespace.policy.replicas as usize,
    };
    let mut pause = PAUSES.0;
    let mut last = Refused::for_now(
        Reason::Unavailable,
        "the region has no nodes: run `meshctl region init`",
    );
    loop {
        let ring = gateway.views.ring();
        let mut stale = false;
        for (node, address) in owners_in_turn(gateway, &ring, &block.offer.name) {
            let mut attempt = Hand {
                gateway,
                block,
                order,
                epoch: ring.epoch(),
                address: &address,
            };
            let span = info_span!(
                target: SPANS,
                "put to owner",
                otel.kind = "client",
                kvmesh.node = %node,
            );
            let trying = try_owner(&mut attempt, replies, progress);
            match trying.instrument(span).await {
                Attempt::Acked(ack) => return Ok(ack),
                Attempt::Final(refused) => return Err(refused),
                Attempt::Stale(refused) => {
                    (last, stale) = (refused, true);
                    break;
                }
                Attempt::Next(refused) => {
                    tracing::debug!(%node, why = refused.message, "an owner is skipped");
                    last = refused;
                }
            }
            if Instant::now() >= until {
                return Err(Refused::out_of_time());
            }
        }
        // Where there are too few nodes, waiting for the deadline would not help.
        if !stale && living(gateway) < enough {
            return Err(last);
        }
        if stale && refreshed(gateway, ring.epoch(), until).await {
            continue;
        }
        let jitter = kvmesh_client::random::in_range(0.5..1.0);
        let next = Instant::now() + pause.mul_f64(jitter);
        if next >= until {
            return Err(last);
        }
        sleep_until(next).await;
        pause = (pause * 2).min(PAUSES.1);
    }
}

/// The preference list, those that live and did not fail a moment ago first.
fn owners_in_turn(gateway: &Gateway, ring: &Ring, name: &BlockName) -> Vec<(NodeId, String)> {
    gateway.views.local.with(|state| {
        let owners = ring.preference(name).iter().filter_map(|&node| {
            let member = state.topology().member(node)?;
            Some((node, member.address.clone()))
        });
        let mut owners: Vec<(NodeId, String)> = owners.collect();
        owners.sort_by_key(|(node, address)| {
            let alive = state.node(*node).is_some_and(|record| record.alive);
            !alive || gateway.peers.is_failing(address)
        });
        owners
    })
}

/// Waits for another ring than the one that an owner found stale.
async fn refreshed(gateway: &Gateway, stale: RingEpoch, until: Instant) -> bool {
    let wait = Duration::from_millis(gateway.settings.now().epoch_wait_ms);
    let until = until.min(Instant::now() + wait);
    gateway.views.epoch(|epoch| epoch != stale.0, until).await
}

/// Where an attempt stands.
enum Phase {
    Offered,
    /// The place of the next piece.
    Sending(usize),
    Sent,
}

async fn try_owner(
    attempt: &mut Hand<'_>,
    replies: Option<(&Replies, u64)>,
    progress: &mut Progress,
) -> Attempt {
    let (gateway, block) = (attempt.gateway, attempt.block);
    let until = attempt.order.deadline.at;
    let piece_patience = gateway.owner_timeout(block.offer.meta.piece_len(0) as u64);
    let ack_patience = gateway.owner_timeout(block.offer.meta.bytes) * OWNERS_WAITED_FOR;
    // Before it decides, an owner may wait for another put of the block, or make missing copies.
    let offer_patience = ack_patience;
    let opening = timeout_at(until.min(Instant::now() + piece_patience), attempt.open());
    let (pieces, mut answers) = match opening.await {
        Ok(Ok(opened)) => opened,
        Ok(Err(failure)) => return failed(attempt, failure),
        Err(_) => {
            // A process that lives accepts a call at once.
            gateway.peers.failed(attempt.address);
            return silent(attempt);
        }
    };
    let mut reader = block.pieces.reader();
    let mut phase = Phase::Offered;
    let last = block.offer.meta.piece_count();
    let (mut existed, mut given) = (false, false);
    loop {
        let patience = match phase {
            Phase::Offered => Some(offer_patience),
            Phase::Sending(at) => reader.at(at).map(|_| piece_patience),
            Phase::Sent => Some(ack_patience),
        };
        let limit = patience.map_or(until, |patience| until.min(Instant::now() + patience));
        let at = match phase {
            Phase::Sending(at) => Some(at),
            Phase::Offered | Phase::Sent => None,
        };
        let next = async {
            let next = reader.wait(at.unwrap_or_default()).await;
            (next, pieces.room().await)
        };
        tokio::select! {
            biased;
            answer = timeout_at(limit, answers.next()) => match answer {
                Err(_) => {
                    progress.perhaps |= given || existed;
                    return silent(attempt);
                }
                Ok(Err(failure)) => {
                    progress.perhaps |= given || existed;
                    return failed(attempt, failure);
                }
                // The owner lives, and its patience begins anew.
                Ok(Ok(Answer::Wait)) => {}
                Ok(Ok(Answer::Send)) => {
                    if let (false, Some((replies, id))) = (progress.wanted, replies) {
                        let _ = timeout_at(until, replies.send((id, Reply::Send))).await;
                    }
                    progress.wanted = true;
                    phase = Phase::Sending(0);
                }
                Ok(Ok(Answer::Have)) => {
                    existed = true;
                    phase = Phase::Sent;
                }
                Ok(Ok(Answer::Refused(refused))) => return judge(refused),
                Ok(Ok(Answer::Acked(ack))) => {
                    // Only now is it sure that the client need not send.
                    if let (true, false, Some((replies, id))) = (existed, progress.wanted, replies) {
                        let _ = timeout_at(until, replies.send((id, Reply::Have))).await;
                    }
                    return Attempt::Acked(ack);
                }
            },
            (next, room) = next, if at.is_some() => match (next, room) {
                (Next::Piece(piece), Some(room)) => {
                    room.send(piece);
                    let sent = at.unwrap_or_default() + 1;
                    given = sent == last;
                    phase = Phase::Sending(sent);
                }
                (Next::End(End::Whole), _) => phase = Phase::Sent,
                (Next::End(End::Lost), _) => return Attempt::Final(Refused::truncated()),
                // The owner does not listen any more: its answer says why.
                (Next::Piece(_), None) => phase = Phase::Sent,
            },
        }
    }
}

fn silent(attempt: &Hand<'_>) -> Attempt {
    if Instant::now() >= attempt.order.deadline.at {
        return Attempt::Next(Refused::out_of_time());
    }
    let message = "an owner of the block did not answer in time: put it again";
    Attempt::Next(Refused::for_now(Reason::Unavailable, message))
}

fn failed(attempt: &Hand<'_>, failure: Failure) -> Attempt {
    match failure {
        Failure::Unreachable(message) => {
            attempt.gateway.peers.failed(attempt.address);
            Attempt::Next(Refused::for_now(Reason::Unavailable, message))
        }
        Failure::Answered(refused) => judge(refused),
    }
}

/// What is wrong with the block is final; what is wrong with the owner is not.
fn judge(refused: Refused) -> Attempt {
    match refused.reason {
        Reason::StaleEpoch => Attempt::Stale(refused),
        Reason::Unavailable | Reason::OutOfTime => Attempt::Next(refused),
        Reason::Invalid
        | Reason::TooLarge
        | Reason::Checksum
        | Reason::NoSpace
        | Reason::Overtaken
        | Reason::Truncated => Attempt::Final(refused),
    }
}
