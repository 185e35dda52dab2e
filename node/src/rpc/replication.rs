//! `Replication`: copies from other owners, and effects of other regions.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use futures::future::join_all;
use kvmesh_client::{
    BlockMeta, Problem, ToWire,
    convert::{remote_effects, required},
};
use kvmesh_directory::{BlockName, Copy, DirectoryState, command::Refusal, residency};
use kvmesh_proto::v1::{self as wire, replication_server::Replication};
use tokio::{
    sync::{OwnedSemaphorePermit, mpsc},
    time::{Duration, Instant, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use tracing::Instrument;

use crate::{
    Settings,
    consensus::ProposeError,
    node::Node,
    receive::Receiving,
    store::{CopyKey, arena::footprint, disk::NotDurable},
    write::{Failure, Reason},
};

/// Blocks of one call that are not whole yet.
const OPEN_MAX: usize = 64;
/// Answers that wait to be sent.
const ANSWERS_MAX: usize = 64;
/// Copies that one call asks about.
const CONFIRM_MAX: usize = 4_096;
/// How long a copy waits for the disk, where it is to be on it.
const DISK_WAIT: Duration = Duration::from_secs(10);
/// How long a copy waits for room.
const ROOM_WAIT: Duration = Duration::from_millis(250);
/// A call that is silent for so long is ended.
const SILENCE_MAX: Duration = Duration::from_secs(30);

pub(super) struct ReplicationRpc(pub(super) Arc<Node>);

type Answers<T> = ReceiverStream<Result<T, Status>>;

#[tonic::async_trait]
impl Replication for ReplicationRpc {
    type CopyStream = Answers<wire::CopyResponse>;

    async fn copy(
        &self,
        request: Request<Streaming<wire::CopyRequest>>,
    ) -> Result<Response<Self::CopyStream>, Status> {
        let (answers, receiver) = mpsc::channel(ANSWERS_MAX);
        let node = Arc::clone(&self.0);
        let tracker = node.tasks.clone();
        let taking = take_copies(node, request.into_inner(), answers);
        tracker.spawn(taking.in_current_span());
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn confirm(
        &self,
        request: Request<wire::ConfirmRequest>,
    ) -> Result<Response<wire::ConfirmResponse>, Status> {
        let answer = confirm(&self.0, request.into_inner()).await?;
        Ok(Response::new(answer))
    }

    async fn apply_remote(
        &self,
        request: Request<wire::ApplyRemoteRequest>,
    ) -> Result<Response<wire::ApplyRemoteResponse>, Status> {
        let effects = request.into_inner().effects;
        let effects = effects.ok_or_else(|| Problem::invalid("effects", "it is missing"))?;
        let command = remote_effects(effects).map_err(Problem::from)?;
        let admitted = |state: &DirectoryState| residency::admitted(command, state);
        let command = self.0.directory.with(admitted);
        let command = command.map_err(|denied| Problem::Denied(denied.to_string()))?;
        let deadline = Instant::now() + Settings::millis(self.0.settings.now().put_deadline_ms);
        let position = match self.0.consensus.propose(command, deadline).await {
            Ok((position, _)) => position,
            // Another region-sync was faster: what it brought is here.
            Err(ProposeError::Refused(Refusal::Covered)) => self.0.position()?,
            Err(error) => return Err(Problem::from(error).into()),
        };
        let position = Some(position.to_wire());
        Ok(Response::new(wire::ApplyRemoteResponse { position }))
    }
}

/// Says which of the copies are not here, and renews the others.
async fn confirm(
    node: &Node,
    request: wire::ConfirmRequest,
) -> Result<wire::ConfirmResponse, Problem> {
    if request.copies.len() > CONFIRM_MAX {
        let got = request.copies.len();
        let why = format!("{got} copies, the limit is {CONFIRM_MAX}");
        return Err(Problem::invalid("copies", why));
    }
    // Who was cut off does not know what was deleted meanwhile. Whoever asks waits for the
    // owner's timeout: half of it may go for a leader that is a little late.
    let by = Instant::now() + Settings::millis(node.settings.now().owner_timeout_ms / 2);
    if !node.consensus.lease_valid_by(by).await {
        let why = "this node has not heard from its leader for a while: ask again";
        return Err(Problem::unavailable(why));
    }
    let (mut missing, mut held) = (Vec::new(), Vec::new());
    for (place, listed) in request.copies.into_iter().enumerate() {
        let key = CopyKey {
            name: required("copies.name", listed.name)?,
            copy: required("copies.copy", listed.copy)?,
        };
        if node.has(key) {
            node.store.put_again(key);
            node.store.touch(&[key]);
            held.push((place, key));
        } else {
            // A copy that the directory does not list here (any more) heals by itself.
            let gone = !node.store.holds(key);
            if gone && node.listed(&key.name).is_some_and(|(_, own)| own == key) {
                node.stale_claim(key);
            }
            missing.push(u32::try_from(place).unwrap_or(u32::MAX));
        }
    }
    if request.durable {
        let until = Instant::now() + DISK_WAIT;
        let making = held.into_iter().map(|(place, key)| async move {
            let made = node.store.make_durable(key, until).await;
            made.is_err().then_some(place)
        });
        let failed = join_all(making).await.into_iter().flatten();
        missing.extend(failed.map(|place| u32::try_from(place).unwrap_or(u32::MAX)));
        missing.sort_unstable();
    }
    Ok(wire::ConfirmResponse {
        missing,
        durable: request.durable,
    })
}

/// A block of which not all pieces have come.
struct Open {
    name: BlockName,
    receiving: Receiving,
    durable: bool,
    _room: OwnedSemaphorePermit,
}

async fn take_copies(
    node: Arc<Node>,
    mut requests: Streaming<wire::CopyRequest>,
    answers: mpsc::Sender<Result<wire::CopyResponse, Status>>,
) {
    let mut open = BTreeMap::new();
    loop {
        let next = tokio::select! {
            next = timeout(SILENCE_MAX, requests.message()) => next,
            () = node.stop.cancelled() => return,
        };
        let Ok(Ok(Some(request))) = next else {
            return;
        };
        let id = request.id;
        let answer = match take(&node, &mut open, request).await {
            Ok(None) => continue,
            Ok(Some((copy, durable))) => wire::CopyResponse {
                id,
                copy: Some(copy.to_wire()),
                durable,
                ..Default::default()
            },
            Err(failure) => {
                open.remove(&id);
                refusal(&node, id, failure)
            }
        };
        if answers.send(Ok(answer)).await.is_err() {
            return;
        }
    }
}

/// Takes one frame; the copy, when it was the block's last, and whether it is on disk.
async fn take(
    node: &Node,
    open: &mut BTreeMap<u64, Open>,
    request: wire::CopyRequest,
) -> Result<Option<(Copy, bool)>, Failure> {
    if let Some(header) = request.header {
        let durable = header.durable;
        if durable && !node.store.has_disk() {
            return Err(Failure::of_disk(NotDurable::NoDisk));
        }
        let (name, meta) = read_header(header)?;
        let until = Instant::now() + ROOM_WAIT;
        let room = node.copy_gate.enter(footprint(meta.bytes), until).await;
        let room = room.filter(|_| open.len() < OPEN_MAX).ok_or_else(|| {
            Failure::later(
                Reason::NoSpace,
                "too many copies are on their way: try later",
            )
        })?;
        let place = node.store.room(name.namespace);
        let receiving = Receiving::new(meta, place).map_err(|error| Failure::of_block(&error))?;
        let block = Open {
            name,
            receiving,
            durable,
            _room: room,
        };
        open.insert(request.id, block);
    }
    match open.get_mut(&request.id) {
        // The rest of a block that was refused.
        None => return Ok(None),
        Some(block) => push(block, &request.piece)?,
    }
    match open.remove(&request.id) {
        Some(block) if block.receiving.is_whole() => keep(node, block).await.map(Some),
        Some(block) => {
            open.insert(request.id, block);
            Ok(None)
        }
        None => Ok(None),
    }
}

fn push(block: &mut Open, piece: &Bytes) -> Result<(), Failure> {
    if piece.is_empty() {
        return Ok(());
    }
    let pushed = block.receiving.push(piece);
    pushed.map_err(|error| Failure::of_piece(&error))
}

async fn keep(node: &Node, block: Open) -> Result<(Copy, bool), Failure> {
    let whole = block.receiving.finish();
    let whole = whole.map_err(|error| Failure::of_block(&error))?;
    let kept = node.keep(block.name, Arc::new(whole)).await;
    let copy = kept.map_err(|problem| Failure::of_keeping(&problem))?;
    if block.durable {
        let key = CopyKey {
            name: block.name,
            copy,
        };
        let made = node
            .store
            .make_durable(key, Instant::now() + DISK_WAIT)
            .await;
        if made.is_err() {
            node.store.withdraw(key).await;
        }
        made.map_err(Failure::of_disk)?;
    }
    node.metrics.copies_received.increment(1);
    Ok((copy, block.durable))
}

fn read_header(header: wire::CopyHeader) -> Result<(BlockName, BlockMeta), Failure> {
    let read = || {
        let name: BlockName = required("header.name", header.name)?;
        let meta: BlockMeta = required("header.meta", header.meta)?;
        Ok((name, meta))
    };
    read().map_err(|error: kvmesh_client::WireError| Failure::never(Reason::Invalid, error))
}

fn refusal(node: &Node, id: u64, failure: Failure) -> wire::CopyResponse {
    let (refused, message) = match failure {
        Failure::Refused {
            reason, message, ..
        } => {
            if reason == Reason::Checksum {
                node.metrics.checksum_failures.increment(1);
            }
            (reason, message)
        }
        Failure::Unknown(problem) => (Reason::Unavailable, problem.to_string()),
    };
    wire::CopyResponse {
        id,
        copy: None,
        durable: false,
        refused: refused.to_wire(),
        message,
    }
}
