//! Serves `Prefetch`: begins, joins or ends one, and tells how far it is.

use std::{sync::Arc, time::Duration};

use kvmesh_client::{FromWire, Problem, ToWire, convert};
use kvmesh_directory::{BlockKey, Namespace, RegionId};
use kvmesh_proto::v1 as wire;
use tokio::{sync::mpsc, time::timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::{cache::Answers, decode};
use crate::{
    asker::Asker,
    context::Gateway,
    prefetch::{self, End, Order, Prefetch, Progress},
};

/// Blocks that one call names by their keys.
const KEYS_MAX: usize = 4_096;
/// Least time between two answers; the last one does not wait.
const PERIOD: Duration = Duration::from_millis(100);
/// An answer comes at least so often.
const HEARTBEAT: Duration = Duration::from_millis(500);
/// A client that takes no answer for so long is left; the prefetch goes on.
const SLOW_MAX: Duration = Duration::from_secs(10);

pub(super) async fn serve(
    gateway: &Arc<Gateway>,
    asker: &Asker,
    request: wire::PrefetchRequest,
) -> Result<Answers<wire::PrefetchResponse>, Problem> {
    let room = gateway.admit()?;
    gateway.views.fresh()?;
    let prefetch = find_or_begin(gateway, asker, request)?;
    let (out, answers) = mpsc::channel(1);
    let stop = gateway.stop.clone();
    gateway.tasks.spawn(async move {
        let _room = room;
        tokio::select! {
            () = tell(&prefetch, &out) => {}
            () = stop.cancelled() => {
                let ends = Problem::unavailable("this gateway ends: prefetch at another one");
                let _ = out.try_send(Err(Status::from(ends)));
            }
        }
    });
    Ok(Box::pin(ReceiverStream::new(answers)))
}

fn find_or_begin(
    gateway: &Arc<Gateway>,
    asker: &Asker,
    request: wire::PrefetchRequest,
) -> Result<Arc<Prefetch>, Problem> {
    let namespace = decode::namespace_of(gateway, asker, request.namespace_id)?;
    if !request.handle.is_empty() {
        let known = gateway.prefetches.find(&request.handle, namespace.id)?;
        if request.cancel {
            known.cancel();
        }
        return Ok(known);
    }
    if request.cancel {
        let why = "it is missing: name the prefetch that is to end";
        return Err(Problem::invalid("handle", why));
    }
    let region = match request.region.is_empty() {
        true => None,
        false => Some(RegionId::from_wire(request.region)?),
    };
    let queries = decode::queries(request.chains, &namespace)?;
    let keys = keys(request.keys, &namespace)?;
    if !keys.is_empty() && (region.is_none() || !queries.is_empty()) {
        let why = "it goes with `region`, and without `chains`";
        return Err(Problem::invalid("keys", why));
    }
    let longest = prefetch::TIME_MAX.as_millis() as u64;
    let order = Order {
        namespace: Arc::new(namespace),
        queries,
        keys,
        region,
        limit: decode::millis(request.deadline_ms, longest),
    };
    prefetch::begin(gateway, order)
}

/// Blocks of one call; the parts are the namespace's.
fn keys(wire: Vec<wire::BlockKey>, namespace: &Namespace) -> Result<Vec<BlockKey>, Problem> {
    if wire.len() > KEYS_MAX {
        let why = format!("{} blocks, the limit is {KEYS_MAX}", wire.len());
        return Err(Problem::invalid("keys", why));
    }
    let keys: Vec<BlockKey> = convert::all(wire)?;
    match keys
        .iter()
        .all(|key| namespace.description.has_part(key.part))
    {
        true => Ok(keys),
        false => Err(Problem::invalid("keys", "the namespace has no such part")),
    }
}

/// Tells until it has ended, or nobody listens.
async fn tell(prefetch: &Prefetch, out: &mpsc::Sender<Result<wire::PrefetchResponse, Status>>) {
    let mut progress = prefetch.progress();
    loop {
        let now = progress.borrow_and_update().clone();
        let over = now.end.is_some();
        let sent = out.send(Ok(encode(&prefetch.handle, now)));
        if !matches!(timeout(SLOW_MAX, sent).await, Ok(Ok(()))) || over {
            return;
        }
        let wait = async {
            let _ = timeout(HEARTBEAT, progress.changed()).await;
            let ended = progress.wait_for(|progress| progress.end.is_some());
            let _ = timeout(PERIOD, ended).await;
        };
        tokio::select! {
            () = wait => {}
            () = out.closed() => return,
        }
    }
}

fn encode(handle: &str, progress: Progress) -> wire::PrefetchResponse {
    let end = match progress.end {
        None => wire::PrefetchEnd::Unspecified,
        Some(End::Complete) => wire::PrefetchEnd::Complete,
        Some(End::Partial) => wire::PrefetchEnd::Partial,
        Some(End::Cancelled) => wire::PrefetchEnd::Cancelled,
        Some(End::OutOfTime) => wire::PrefetchEnd::OutOfTime,
    };
    wire::PrefetchResponse {
        handle: handle.to_owned(),
        done_blocks: progress.done,
        total_blocks: progress.total,
        done_bytes: progress.done_bytes,
        total_bytes: progress.total_bytes,
        failed_blocks: progress.failed,
        end: end.into(),
        position: progress.position.map(|at| at.to_wire()),
    }
}
