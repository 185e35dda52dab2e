//! One block of a put: decision, pieces, commit, answer.

use std::sync::Arc;

use kvmesh_client::{BlockMeta, FromWire, ToWire, WireError, convert::required};
use kvmesh_directory::{BlockHash, BlockName, Namespace, Part};
use kvmesh_process::telemetry::SPANS;
use kvmesh_proto::v1::{self as wire, put_decision::Verdict, put_response::Frame};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    time::{Duration, Instant, sleep, timeout_at},
};
use tracing::{Instrument, info_span};

use super::put::{Answers, turn_wait};
use crate::{
    node::Node,
    receive::{Piece, Receiving},
    store::arena::footprint,
    write::{self, Acked, Decision, Failure, Reason, Terms},
};

/// A caller that does not read its answers for so long gets none.
const READ_WAIT: Duration = Duration::from_secs(30);

/// A caller whose block waits for another put is told so this often.
const WAIT_EVERY: Duration = Duration::from_millis(500);

/// A block that was offered and can be.
pub(super) struct Offered {
    pub(super) node: Arc<Node>,
    pub(super) terms: Arc<Terms>,
    pub(super) answers: Answers,
    /// Blocks of this call that come or are committed at a time.
    pub(super) active: Arc<Semaphore>,
    pub(super) id: u64,
    pub(super) name: BlockName,
    pub(super) meta: BlockMeta,
    /// It comes from a client on this host, in memory that counts as in flight as well.
    pub(super) staging: Option<Arc<OwnedSemaphorePermit>>,
}

/// Reads an offer and finds out whether it can be.
pub(super) fn read(
    offer: &wire::PutOffer,
    terms: &Terms,
    namespace: &Namespace,
) -> Result<(BlockName, BlockMeta), Failure> {
    let invalid = |error: WireError| Failure::never(Reason::Invalid, error);
    let got = offer.hash.len();
    let width = namespace.description.width_where(got as u32);
    if got as u32 != width {
        let message = format!("field hash has {got} bytes, the namespace's hashes have {width}");
        return Err(Failure::never(Reason::Invalid, message));
    }
    let hash = BlockHash::from_engine(&offer.hash);
    let hash = hash.map_err(|error| Failure::never(Reason::Invalid, error))?;
    let part = match offer.part {
        None => Part::default(),
        Some(part) => Part::from_wire(part).map_err(invalid)?,
    };
    if !namespace.description.has_part(part) {
        let (shard, group) = (part.shard, part.group);
        let message =
            format!("field part is ({shard}, {group}), which the namespace does not have");
        return Err(Failure::never(Reason::Invalid, message));
    }
    let meta: BlockMeta = required("meta", offer.meta.clone()).map_err(invalid)?;
    meta.check().map_err(|error| Failure::of_block(&error))?;
    write::check_fill(terms, namespace, &meta)?;
    let name = BlockName {
        namespace: namespace.id,
        hash,
        part,
    };
    Ok((name, meta))
}

/// Settles one offered block and answers.
pub(super) async fn serve(offered: Offered, pieces: mpsc::Receiver<Piece>) {
    let settled = settle(&offered, pieces).await;
    let Offered {
        node, answers, id, ..
    } = offered;
    match settled {
        Ok(acked) => acknowledge(&node, &answers, id, &acked).await,
        Err(failure) => refuse(&node, &answers, id, failure).await,
    }
}

async fn settle(offered: &Offered, mut pieces: mpsc::Receiver<Piece>) -> Result<Acked, Failure> {
    let Offered { node, terms, .. } = offered;
    let deadline = write::due(terms);
    let flight = match decided(offered, deadline).await? {
        Decision::Have(acked) => {
            decision(&offered.answers, offered.id, Verdict::Have).await;
            return Ok(acked);
        }
        Decision::Send(flight) => flight,
    };
    let no_room = || {
        Failure::later(
            Reason::NoSpace,
            "too many bytes are on their way: try later",
        )
    };
    let turn = timeout_at(deadline, offered.active.acquire()).await;
    let Ok(Ok(_turn)) = turn else {
        return Err(no_room());
    };
    let until = deadline.min(Instant::now() + turn_wait(node));
    let room = node
        .put_gate
        .enter(footprint(offered.meta.bytes), until)
        .await;
    let _room = room.ok_or_else(no_room)?;
    decision(&offered.answers, offered.id, Verdict::Send).await;

    let room = node.store.room(offered.name.namespace);
    let mut receiving =
        Receiving::new(offered.meta.clone(), room).map_err(|error| Failure::of_block(&error))?;
    while !receiving.is_whole() {
        match timeout_at(deadline, pieces.recv()).await {
            Ok(Some(piece)) => {
                let taken = receiving.take(piece);
                taken.map_err(|error| Failure::of_piece(&error))?;
                if let Some(flight) = &flight {
                    flight.gets_on();
                }
            }
            // The stream ended: `finish` says what is missing.
            Ok(None) => break,
            Err(_) => {
                let message = "the block's bytes took longer than the deadline";
                return Err(Failure::later(Reason::OutOfTime, message));
            }
        }
    }
    drop(pieces);
    let block = receiving
        .finish()
        .map_err(|error| Failure::of_block(&error))?;
    let span = info_span!(target: SPANS, "store", kvmesh.bytes = offered.meta.bytes);
    let storing = write::commit(node, offered.name, block, terms, deadline);
    let acked = storing.instrument(span).await;
    drop(flight);
    if acked.as_ref().is_ok_and(|acked| !acked.existed) {
        node.metrics.put_bytes.increment(offered.meta.bytes);
        if offered.staging.is_some() {
            node.metrics.local.put_blocks.increment(1);
            node.metrics.local.put_bytes.increment(offered.meta.bytes);
        }
    }
    acked
}

/// Decides; a caller that understands it is told again and again that this takes time.
async fn decided(offered: &Offered, deadline: Instant) -> Result<Decision, Failure> {
    let Offered { node, terms, .. } = offered;
    let deciding = write::decide(node, offered.name, terms, deadline);
    tokio::pin!(deciding);
    loop {
        tokio::select! {
            decided = &mut deciding => return decided,
            () = offered.answers.closed() => {
                let message = "the caller has gone";
                return Err(Failure::later(Reason::Truncated, message));
            }
            () = sleep(WAIT_EVERY), if terms.waits => {
                decision(&offered.answers, offered.id, Verdict::Wait).await;
            }
        }
    }
}

async fn decision(answers: &Answers, id: u64, verdict: Verdict) {
    let decision = wire::PutDecision {
        verdict: verdict.into(),
        ..Default::default()
    };
    answer(answers, id, Frame::Decision(decision)).await;
}

async fn acknowledge(node: &Node, answers: &Answers, id: u64, acked: &Acked) {
    match acked.existed {
        true => node.metrics.puts_existed.increment(1),
        false => node.metrics.puts_stored.increment(1),
    }
    let ack = wire::PutAck {
        level: acked.level.to_wire(),
        position: Some(acked.position.to_wire()),
        copies: acked.copies,
        existed: acked.existed,
        put_hlc: acked.put_hlc.0,
    };
    answer(answers, id, Frame::Ack(ack)).await;
}

/// Says that nothing of a block was stored; where that is not known, the call fails, and
/// says nothing about what it did not acknowledge.
pub(super) async fn refuse(node: &Node, answers: &Answers, id: u64, failure: Failure) {
    node.metrics.puts_refused.increment(1);
    match failure {
        Failure::Refused {
            reason,
            message,
            retry_after,
        } => {
            tracing::debug!(?reason, message, "a block is refused");
            if reason == Reason::Checksum {
                node.metrics.checksum_failures.increment(1);
            }
            let decision = wire::PutDecision {
                verdict: Verdict::Refused.into(),
                reason: reason.to_wire(),
                message,
                retry_after_ms: millis(retry_after),
            };
            answer(answers, id, Frame::Decision(decision)).await;
        }
        Failure::Unknown(problem) => {
            let _ = answers.send_timeout(Err(problem.into()), READ_WAIT).await;
        }
    }
}

fn millis(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX)
}

async fn answer(answers: &Answers, id: u64, frame: Frame) {
    let response = wire::PutResponse {
        id,
        frame: Some(frame),
    };
    // When the caller is gone there is nobody to tell.
    let _ = answers.send_timeout(Ok(response), READ_WAIT).await;
}
