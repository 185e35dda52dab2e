//! Serves `Watch`.

use std::sync::Arc;

use futures::StreamExt;
use kvmesh_client::{FromWire, Problem, ToWire, convert::each};
use kvmesh_directory::FeedPosition;
use kvmesh_proto::v1 as wire;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::{cache::Answers, decode};
use crate::{
    asker::Asker,
    context::{Gateway, exhausted},
    watch::{self, Message},
};

/// Messages that wait for a slow client.
const BUFFERED: usize = 8;

pub(super) async fn serve(
    gateway: &Arc<Gateway>,
    asker: &Asker,
    request: wire::WatchRequest,
) -> Result<Answers<wire::WatchResponse>, Problem> {
    let room = Arc::clone(&gateway.watches).try_acquire_owned();
    let room = room.map_err(|_| exhausted("watches at a time (256)"))?;
    let now = gateway.views.fresh()?;
    let namespace = decode::namespace_of(gateway, asker, request.namespace_id)?;
    let cursor = match request.after {
        Some(after) => FeedPosition::from_wire(after)?,
        None => now,
    };
    let (out, messages) = mpsc::channel(BUFFERED);
    let (failed, failure) = mpsc::channel(1);
    let shared = Arc::clone(gateway);
    gateway.tasks.spawn(async move {
        if let Err(problem) = watch::run(&shared, namespace.id, cursor, &out).await {
            let _ = failed.try_send(Err(Status::from(problem)));
        }
        drop(room);
    });
    let messages = ReceiverStream::new(messages).map(|message| Ok(encode(message)));
    Ok(Box::pin(messages.chain(ReceiverStream::new(failure))))
}

fn encode(message: Message) -> wire::WatchResponse {
    wire::WatchResponse {
        position: Some(message.position.to_wire()),
        appeared: each(&message.appeared),
        vanished: each(&message.vanished),
    }
}
