//! Puts of a client on this host: what a call of `Put` says frame by frame comes in packets,
//! and pieces lie in the connection's staging. One put at a time.
//!
//! Not here: what is done with a block (`put`, `put_block`); who may connect (`local`).

use std::{pin::pin, sync::Arc};

use kvmesh_client::{
    Problem,
    convert::local::{Answer, Ask, PutPart, Response},
    local::socket::Socket,
};
use kvmesh_directory::{
    NamespaceId,
    limits::{LOCAL_PIECES_MAX, PIECE_BYTES},
};
use kvmesh_proto::v1 as wire;
use tokio::{
    sync::mpsc,
    time::{Duration, Instant, sleep},
};
use tonic::Status;

use super::put::{ANSWERS_MAX, Answers, Call, Counted, SILENCE_MAX};
use crate::{
    local::packets::{self, Over},
    node::Node,
    receive::{Piece, Staged},
    store::arena::Staging,
};

/// Answers of one packet.
const TOLD_MAX: usize = 32;
/// Places that can be filled anew are told with the next answer, once they may be half of the
/// staging, and after so long at the latest: each packet wakes the client.
const TAKEN_WITHIN: Duration = Duration::from_millis(1);

/// One connection.
struct Door<'a> {
    node: &'a Arc<Node>,
    socket: &'a Socket,
    namespace: NamespaceId,
    staging: Arc<Staging>,
    answers: Answers,
    taken: mpsc::Sender<u64>,
}

/// Why a put is not read on.
enum End {
    Over(Over),
    /// The client is to know.
    Failed(Status),
}

/// Serves a connection until it is over. Blocks of which all pieces came are settled also then.
pub(crate) async fn serve(
    node: &Arc<Node>,
    socket: &Socket,
    namespace: NamespaceId,
    staging: Arc<Staging>,
) -> Over {
    let (answers, answered) = mpsc::channel(ANSWERS_MAX);
    let (taken, took) = mpsc::channel(LOCAL_PIECES_MAX);
    let taken_max = (staging.bytes() as usize / PIECE_BYTES / 2).max(1);
    let door = Door {
        node,
        socket,
        namespace,
        staging,
        answers,
        taken,
    };
    let reading = async {
        match door.read().await {
            End::Over(over) => over,
            End::Failed(status) => {
                // After what was answered before. Who tells it ends the connection.
                let _ = door.answers.send(Err(status)).await;
                std::future::pending().await
            }
        }
    };
    tokio::select! {
        over = reading => over,
        over = tell(socket, answered, (took, taken_max)) => over,
    }
}

impl Door<'_> {
    async fn read(&self) -> End {
        let mut call = None;
        loop {
            let part = match packets::within(self.socket, SILENCE_MAX).await {
                Ok(request) => request.ask,
                Err(over) => return End::Over(over),
            };
            let Some(Ask::Put(part)) = part else {
                let why = "this connection is for puts";
                return End::Over(Over::Wrong(why.to_owned()));
            };
            if let Err(end) = self.on_part(part, &mut call).await {
                return end;
            }
        }
    }

    async fn on_part(&self, part: PutPart, call: &mut Option<Call>) -> Result<(), End> {
        if let Some(open) = part.open {
            *call = Some(self.open(&open).await.map_err(End::failed)?);
        }
        let missing = || Problem::invalid("open", "it is missing: it is in a put's first packet");
        let call = call.as_mut().ok_or_else(|| End::failed(missing()))?;
        for offer in part.offers {
            call.offer(offer).await.map_err(End::Failed)?;
        }
        for (id, at) in part.pieces {
            let taken = self.taken.clone().try_reserve_owned();
            let taken = taken.map_err(|_| {
                End::Over(Over::Wrong(format!(
                    "over {LOCAL_PIECES_MAX} pieces that were not taken yet"
                )))
            })?;
            let piece = Piece::Staged(Staged::new(&self.staging, at, taken));
            call.piece(id, piece).await.map_err(End::Failed)?;
        }
        Ok(())
    }

    async fn open(&self, open: &wire::PutOpen) -> Result<Call, Problem> {
        if open.namespace_id[..] != self.namespace.0 {
            let why = "the connection is for another namespace";
            return Err(Problem::invalid("open.namespace_id", why));
        }
        if open.fill {
            let why = "clients put blocks of their own: gateways fill";
            return Err(Problem::invalid("open.fill", why));
        }
        let counted = Counted::of(self.staging.bytes());
        Call::open(self.node, open, &self.answers, Some(counted)).await
    }
}

impl End {
    fn failed(problem: Problem) -> Self {
        Self::Failed(problem.into())
    }
}

/// Sends answers, and which places can be filled anew, as they come.
async fn tell(
    socket: &Socket,
    mut answered: mpsc::Receiver<Result<wire::PutResponse, Status>>,
    (mut took, taken_max): (mpsc::Receiver<u64>, usize),
) -> Over {
    loop {
        let (mut answers, mut taken, mut failed) = (Vec::new(), Vec::new(), None);
        let mut within = pin!(sleep(Duration::MAX));
        while answers.is_empty() && failed.is_none() && taken.len() < taken_max {
            tokio::select! {
                biased;
                Some(answer) = answered.recv() => note(answer, &mut answers, &mut failed),
                Some(at) = took.recv() => {
                    if taken.is_empty() {
                        within.as_mut().reset(Instant::now() + TAKEN_WITHIN);
                    }
                    taken.push(at);
                }
                () = &mut within => break,
                else => return Over::Gone,
            }
        }
        // What else is there goes with it.
        while answers.len() < TOLD_MAX && failed.is_none() {
            match answered.try_recv() {
                Ok(answer) => note(answer, &mut answers, &mut failed),
                Err(_) => break,
            }
        }
        while taken.len() < LOCAL_PIECES_MAX {
            match took.try_recv() {
                Ok(at) => taken.push(at),
                Err(_) => break,
            }
        }
        if let Err(over) = say(socket, Answer::Puts { answers, taken }).await {
            return over;
        }
        if let Some(status) = failed {
            return fail(socket, &status).await;
        }
    }
}

fn note(
    answer: Result<wire::PutResponse, Status>,
    answers: &mut Vec<wire::PutResponse>,
    failed: &mut Option<Status>,
) {
    match answer {
        Ok(answer) => answers.push(answer),
        Err(status) => *failed = Some(status),
    }
}

async fn fail(socket: &Socket, status: &Status) -> Over {
    let answer = Answer::Failed {
        code: status.code().into(),
        message: status.message().to_owned(),
        details: status.details().to_vec().into(),
    };
    match say(socket, answer).await {
        Ok(()) => Over::Wrong(format!("its put failed: {}", status.message())),
        Err(over) => over,
    }
}

async fn say(socket: &Socket, answer: Answer) -> Result<(), Over> {
    let response = Response {
        answer: Some(answer),
        ..Response::default()
    };
    packets::send(socket, &response, &[]).await
}
