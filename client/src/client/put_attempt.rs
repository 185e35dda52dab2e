//! One stream of a put: offers go ahead, pieces follow as they are wanted.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use tokio::{sync::mpsc, time::timeout};

use super::{CallError, PutBlock, PutResult, attempts::Attempts, put::Results};
use crate::{
    local::{Door, PutStream},
    rpc::{CacheRpc, PutAnswer, PutAnswers, PutCall, PutFrame, PutOpen, RpcError},
};

/// Offers that wait for their decision at a time.
const UNDECIDED_MAX: usize = 256;
/// Frames between the sender and the transport; a frame is at most a piece.
const FRAMES_QUEUED: usize = 8;
/// A stream whose blocks are all answered has so long to end.
const END_WAIT: Duration = Duration::from_secs(1);

/// Which way frames go.
pub(super) enum Way {
    Rpc(CacheRpc),
    /// Through the memory of a node on this host.
    Memory(Door),
}

enum Answers {
    Rpc(Box<PutAnswers>),
    Memory(Box<PutStream>),
}

impl Way {
    async fn put(self, call: PutCall) -> Result<Answers, RpcError> {
        match self {
            Self::Rpc(rpc) => rpc.put(call).await.map(|it| Answers::Rpc(Box::new(it))),
            Self::Memory(door) => {
                let stream = PutStream::new(door, call);
                Ok(Answers::Memory(Box::new(stream)))
            }
        }
    }
}

impl Answers {
    async fn next(&mut self) -> Result<Option<(u64, PutAnswer)>, RpcError> {
        match self {
            Self::Rpc(answers) => answers.next().await,
            Self::Memory(answers) => answers.next().await,
        }
    }
}

/// Why a stream failed.
pub(super) enum AttemptError {
    Rpc(RpcError),
    Protocol(&'static str),
}

impl AttemptError {
    pub(super) fn explain(self, attempts: &Attempts) -> CallError {
        match self {
            Self::Rpc(error) => attempts.explain(error),
            Self::Protocol(what) => attempts.protocol(what),
        }
    }
}

impl From<RpcError> for AttemptError {
    fn from(error: RpcError) -> Self {
        Self::Rpc(error)
    }
}

/// What the server decided about a block: whether it wants the bytes.
type Decision = (usize, bool);

/// Puts the `pending` of `blocks`; `results` are written as they come, so that they stay
/// when the attempt is dropped, and so is `given`: the blocks of which all was sent. A block's
/// index is its id.
pub(super) async fn run(
    way: Way,
    open: PutOpen,
    blocks: &[PutBlock],
    pending: &[usize],
    results: &mut Results,
    given: &mut BTreeSet<usize>,
) -> Result<(), AttemptError> {
    let (frames, queued) = mpsc::channel(FRAMES_QUEUED);
    // Each block is decided at most once, so that the receiver never waits for the sender.
    let (decide, decisions) = mpsc::channel(pending.len());
    let call = PutCall {
        open,
        frames: queued,
    };
    let sending = async {
        send(blocks, pending, frames, decisions, given).await;
        std::future::pending::<()>().await;
    };
    // The answers say how it ends; a sender that is cut off loses nothing.
    tokio::select! {
        biased;
        ended = receive(way, call, pending, decide, results) => ended,
        () = sending => Ok(()),
    }
}

/// Ends when every block was decided and every wanted one was sent, or nobody listens.
async fn send(
    blocks: &[PutBlock],
    pending: &[usize],
    frames: mpsc::Sender<PutFrame>,
    mut decisions: mpsc::Receiver<Decision>,
    given: &mut BTreeSet<usize>,
) {
    let mut offers = pending.iter().copied();
    let mut undecided = 0;
    loop {
        // Pieces first: the server keeps room for what it wants.
        let decided = match decisions.try_recv() {
            Ok(decided) => Some(decided),
            Err(_) if undecided < UNDECIDED_MAX => match offers.next() {
                Some(index) => {
                    undecided += 1;
                    if frames.send(offer(index, &blocks[index])).await.is_err() {
                        return;
                    }
                    continue;
                }
                None if undecided == 0 => return,
                None => decisions.recv().await,
            },
            Err(_) => decisions.recv().await,
        };
        let Some((index, wanted)) = decided else {
            return;
        };
        undecided -= 1;
        if wanted {
            if !send_pieces(index, &blocks[index], &frames).await {
                return;
            }
            given.insert(index);
        }
    }
}

fn offer(index: usize, block: &PutBlock) -> PutFrame {
    PutFrame::Offer {
        id: index as u64,
        hash: block.hash.clone(),
        part: block.part,
        meta: block.block.meta.clone(),
    }
}

async fn send_pieces(index: usize, block: &PutBlock, frames: &mpsc::Sender<PutFrame>) -> bool {
    for piece in &block.block.pieces {
        let frame = PutFrame::Piece {
            id: index as u64,
            data: piece.clone(),
        };
        if frames.send(frame).await.is_err() {
            return false;
        }
    }
    true
}

async fn receive(
    way: Way,
    call: PutCall,
    pending: &[usize],
    decide: mpsc::Sender<Decision>,
    results: &mut Results,
) -> Result<(), AttemptError> {
    let mut answers = way.put(call).await?;
    // Whether each open block was decided.
    let mut open: BTreeMap<usize, bool> = pending.iter().map(|index| (*index, false)).collect();
    while !open.is_empty() {
        let Some((id, answer)) = answers.next().await? else {
            return Ok(());
        };
        let index = usize::try_from(id).unwrap_or(usize::MAX);
        let Some(decided) = open.get_mut(&index) else {
            return Err(AttemptError::Protocol(
                "it answered for a block that is not open",
            ));
        };
        if !*decided {
            *decided = true;
            let wanted = matches!(answer, PutAnswer::Send);
            // A sender that is gone has nothing left to send.
            let _ = decide.try_send((index, wanted));
        }
        let result = match answer {
            PutAnswer::Send | PutAnswer::Have => continue,
            PutAnswer::Refused(refused) => PutResult::Refused(refused),
            PutAnswer::Acked(acked) => PutResult::Acked(acked),
        };
        results[index] = Some(result);
        open.remove(&index);
    }
    drop(decide);
    // Let the server end the stream by itself; everything is answered, however it ends.
    let _ = timeout(END_WAIT, answers.next()).await;
    Ok(())
}
