//! `Cache.Put`: offers blocks, sends those that the gateway wants, and asks again about
//! those that it refused for the moment.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use kvmesh_client::{FromWire, ToWire, block::Block};
use kvmesh_directory::{FeedPosition, NamespaceId, Part};
use kvmesh_proto::v1 as wire;
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, timeout_at},
};
use tokio_stream::wrappers::ReceiverStream;

use super::{CallError, Peer};

const WHAT: &str = "the put";
/// Frames between the sender and the transport; a frame is at most a piece.
const FRAMES_QUEUED: usize = 8;

/// A block to store.
#[derive(Debug, Clone)]
pub struct PutBlock {
    /// The engine's hash.
    pub hash: Vec<u8>,
    /// Position in the chain.
    pub depth: u32,
    /// Its bytes.
    pub bytes: Bytes,
}

/// A block that is stored as asked.
#[derive(Debug, Clone)]
pub struct Acked {
    /// A view at this position shows it.
    pub position: Option<FeedPosition>,
    /// Distinct nodes that hold it.
    pub copies: u32,
    /// It was there before.
    pub existed: bool,
    /// Bytes were sent.
    pub sent: bool,
}

/// A refusal that repeating does not help, or did not help in time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("block {depth} was refused ({reason}): {message}")]
pub struct Refused {
    /// Position in the chain.
    pub depth: u32,
    /// Name of the reason.
    pub reason: String,
    /// The gateway's words.
    pub message: String,
}

/// What the gateway made of one block in one call.
enum Verdict {
    Acked(Acked),
    Refused { retry: Duration, why: Refused },
}

impl Peer {
    /// Stores blocks at the namespace's level; answers come in the order of `blocks`.
    /// What the gateway refuses for the moment is offered again until the time is up.
    ///
    /// # Errors
    /// When a block cannot be stored, or the gateway does not answer in time.
    pub async fn put(
        &self,
        namespace: NamespaceId,
        blocks: &[PutBlock],
    ) -> anyhow::Result<Vec<Acked>> {
        let until = Instant::now() + self.timeout;
        let mut acked: BTreeMap<usize, Acked> = BTreeMap::new();
        while acked.len() < blocks.len() {
            let open: Vec<usize> = (0..blocks.len())
                .filter(|at| !acked.contains_key(at))
                .collect();
            let offered: Vec<&PutBlock> = open.iter().map(|&at| &blocks[at]).collect();
            let round = timeout_at(until, self.put_round(namespace, &offered)).await;
            let verdicts = round.map_err(|_| CallError::OutOfTime {
                what: WHAT,
                address: self.address.to_string(),
                limit: self.timeout,
            })??;
            let mut pause = Duration::ZERO;
            for (at, verdict) in open.into_iter().zip(verdicts) {
                match verdict {
                    Verdict::Acked(ack) => {
                        acked.insert(at, ack);
                    }
                    Verdict::Refused { retry, why } => {
                        if retry.is_zero() || Instant::now() + retry >= until {
                            return Err(why.into());
                        }
                        pause = pause.max(retry);
                    }
                }
            }
            sleep(pause).await;
        }
        Ok(acked.into_values().collect())
    }

    /// One call over some blocks; verdicts come in their order.
    async fn put_round(
        &self,
        namespace: NamespaceId,
        blocks: &[&PutBlock],
    ) -> Result<Vec<Verdict>, CallError> {
        let cut: Vec<Block> = blocks
            .iter()
            .map(|block| Block::of(&block.bytes, block.depth))
            .collect();
        let (frames, requests) = mpsc::channel(FRAMES_QUEUED);
        // As many ids as there are blocks: telling the sender never waits.
        let (wanted, ids) = mpsc::channel(blocks.len().max(1));
        let open = wire::PutOpen {
            namespace_id: namespace.0.to_vec().into(),
            deadline_ms: self.timeout_ms(),
            ..Default::default()
        };
        let sender = send(frames, ids, open, blocks, &cut);
        let receiver = self.receive(requests, wanted, blocks);
        let ((), verdicts) = tokio::join!(sender, receiver);
        verdicts
    }

    async fn receive(
        &self,
        requests: mpsc::Receiver<wire::PutRequest>,
        wanted: mpsc::Sender<usize>,
        blocks: &[&PutBlock],
    ) -> Result<Vec<Verdict>, CallError> {
        let request = self.request(ReceiverStream::new(requests));
        let answer = self.cache().put(request).await;
        let mut answers = answer.map_err(self.failed(WHAT))?.into_inner();
        let mut verdicts: Vec<Option<Verdict>> = blocks.iter().map(|_| None).collect();
        let mut sent = vec![false; blocks.len()];
        let mut open = blocks.len();
        while open > 0 {
            let Some(answer) = answers.message().await.map_err(self.failed(WHAT))? else {
                return Err(self.broken(WHAT, format!("it ended with {open} blocks unanswered")));
            };
            let at = usize::try_from(answer.id)
                .ok()
                .filter(|&at| verdicts.get(at).is_some_and(Option::is_none))
                .ok_or_else(|| self.broken(WHAT, "an answer about no open block"))?;
            let frame = answer
                .frame
                .ok_or_else(|| self.broken(WHAT, "an answer that says nothing"))?;
            if let Some(verdict) = self.verdict(frame, &mut sent[at], blocks[at].depth)? {
                verdicts[at] = Some(verdict);
                open -= 1;
            } else if sent[at] {
                // The sender may have ended only because the call has; then the next answer says so.
                let _ = wanted.try_send(at);
            }
        }
        Ok(verdicts.into_iter().flatten().collect())
    }

    /// What one answer decides; none while the block is still on its way.
    fn verdict(
        &self,
        frame: wire::put_response::Frame,
        sent: &mut bool,
        depth: u32,
    ) -> Result<Option<Verdict>, CallError> {
        use wire::put_decision::Verdict as Wire;
        match frame {
            wire::put_response::Frame::Ack(ack) => {
                let position = ack.position.map(FeedPosition::from_wire).transpose();
                Ok(Some(Verdict::Acked(Acked {
                    position: position.map_err(self.unread(WHAT))?,
                    copies: ack.copies,
                    existed: ack.existed,
                    sent: *sent,
                })))
            }
            wire::put_response::Frame::Decision(decision) => match decision.verdict() {
                Wire::Send => {
                    *sent = true;
                    Ok(None)
                }
                Wire::Have => Ok(None),
                Wire::Refused => Ok(Some(Verdict::Refused {
                    retry: Duration::from_millis(u64::from(decision.retry_after_ms)),
                    why: Refused {
                        depth,
                        reason: reason(decision.reason()).to_owned(),
                        message: decision.message,
                    },
                })),
                Wire::Unspecified => Err(self.broken(WHAT, "a decision without a verdict")),
            },
        }
    }
}

/// Opens, offers all, then sends the pieces of each block that is wanted. Ends when the
/// receiver does, or when the call is gone.
async fn send(
    frames: mpsc::Sender<wire::PutRequest>,
    mut wanted: mpsc::Receiver<usize>,
    open: wire::PutOpen,
    blocks: &[&PutBlock],
    cut: &[Block],
) {
    use wire::put_request::Frame;
    let send = async |frame| {
        let frame = Some(frame);
        frames.send(wire::PutRequest { frame }).await.is_ok()
    };
    if !send(Frame::Open(open)).await {
        return;
    }
    for (id, (block, cut)) in blocks.iter().zip(cut).enumerate() {
        let offer = wire::PutOffer {
            id: id as u64,
            hash: block.hash.clone().into(),
            part: Some(Part::default().to_wire()),
            meta: Some(cut.meta.to_wire()),
        };
        if !send(Frame::Offer(offer)).await {
            return;
        }
    }
    while let Some(id) = wanted.recv().await {
        for piece in &cut[id].pieces {
            let (id, data) = (id as u64, piece.clone());
            if !send(Frame::Piece(wire::PutPiece { id, data })).await {
                return;
            }
        }
    }
}

fn reason(reason: wire::RefusalReason) -> &'static str {
    use wire::RefusalReason as R;
    match reason {
        R::Unspecified => "no reason given",
        R::Invalid => "invalid",
        R::TooLarge => "too large",
        R::Checksum => "checksum",
        R::NoSpace => "no space",
        R::Unavailable => "unavailable",
        R::StaleEpoch => "stale epoch",
        R::Overtaken => "overtaken by a delete",
        R::Truncated => "truncated",
        R::OutOfTime => "out of time",
    }
}
