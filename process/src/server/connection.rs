//! One accepted connection.
//!
//! A call that comes alone is begun where it came, in the connection's task, and most are over
//! with that; one that has to wait goes on in a task of its own, as do those that come together
//! with others, which other cores may take.

use std::{
    future::poll_fn,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use h2::server::{Builder, Connection};
use kvmesh_client::channel::{
    BoxedIo, CONNECTION_WINDOW_BYTES, FRAME_BYTES_MAX, HEADER_BYTES_MAX, Heard, Link, Listening,
    STREAM_WINDOW_BYTES, UNSENT_CALL_BYTES_MAX,
};
use tokio::time::timeout;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::debug;

use super::{Answers, CALLS_PER_CONNECTION_MAX, PREFACE_MAX, call::Serving};

/// What all connections of a server share.
pub(super) struct Shared {
    pub(super) answers: Answers,
    /// Connections, and calls that have to wait.
    pub(super) tasks: TaskTracker,
    /// Calls in flight are to end, and no more are taken.
    pub(super) leave: CancellationToken,
    /// Nothing goes on.
    pub(super) over: CancellationToken,
}

/// Serves it until its other end leaves or is silent, it breaks, or the server ends.
pub(super) async fn serve(io: BoxedIo, shared: Arc<Shared>) {
    let served = shared.over.run_until_cancelled(serve_calls(io, &shared));
    if let Some(Err(error)) = served.await {
        debug!(%error, "a connection broke");
    }
}

async fn serve_calls(io: BoxedIo, shared: &Shared) -> Result<(), h2::Error> {
    let link = io.link().cloned();
    let heard = Heard::default();
    let opening = Builder::new()
        .initial_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_frame_size(FRAME_BYTES_MAX)
        .max_header_list_size(HEADER_BYTES_MAX)
        .max_concurrent_streams(CALLS_PER_CONNECTION_MAX)
        .max_send_buffer_size(UNSENT_CALL_BYTES_MAX)
        .handshake::<_, Bytes>(Listening::new(io, heard.clone()));
    let Ok(opened) = timeout(PREFACE_MAX, opening).await else {
        debug!("a connection said nothing");
        return Ok(());
    };
    let mut connection = opened?;
    let Some(pings) = connection.ping_pong() else {
        return Ok(());
    };
    let mut calls = Calls {
        connection,
        link,
        alone: None,
    };
    let mut silence = pin!(heard.silence(pings));
    tokio::select! {
        biased;
        ended = poll_fn(|cx| calls.poll(cx, shared)) => return ended,
        () = &mut silence => {
            debug!("a connection's other end is silent");
            return Ok(());
        }
        () = shared.leave.cancelled() => calls.connection.graceful_shutdown(),
    }
    tokio::select! {
        biased;
        ended = poll_fn(|cx| calls.poll(cx, shared)) => ended,
        () = silence => Ok(()),
    }
}

struct Calls {
    connection: Connection<Listening, Bytes>,
    link: Option<Link>,
    /// The call that came last, while it is not known whether another one came with it.
    alone: Option<Serving>,
}

impl Calls {
    fn poll(&mut self, cx: &mut Context<'_>, shared: &Shared) -> Poll<Result<(), h2::Error>> {
        loop {
            match self.connection.poll_accept(cx)? {
                Poll::Ready(None) => return Poll::Ready(Ok(())),
                Poll::Ready(Some((request, respond))) => {
                    let (answers, link) = (&shared.answers, self.link.as_ref());
                    let call = Serving::new(answers, link, request, respond);
                    if let Some(earlier) = self.alone.replace(call) {
                        shared.tasks.spawn(earlier);
                    }
                }
                Poll::Pending => match self.alone.take() {
                    None => return Poll::Pending,
                    // What it says is sent by the next turn.
                    Some(call) => {
                        if let Some(waiting) = begin(call, cx) {
                            shared.tasks.spawn(waiting);
                        }
                    }
                },
            }
        }
    }
}

/// What is left of a call that has to wait.
fn begin(mut call: Serving, cx: &mut Context<'_>) -> Option<Serving> {
    // One that panics is reset; the others on its connection go on, as they do beside a task.
    let polled = catch_unwind(AssertUnwindSafe(|| Pin::new(&mut call).poll(cx)));
    matches!(polled, Ok(Poll::Pending)).then_some(call)
}
