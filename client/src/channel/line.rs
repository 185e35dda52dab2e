//! The way to one address: a connection that is made when it is first needed, and again whenever
//! it broke.

use std::{
    io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures::{
    FutureExt,
    future::{BoxFuture, Shared},
};
use h2::client::{Connection, SendRequest};
use http::uri::Authority;
use tokio::time::timeout;
use tokio_util::task::TaskTracker;
use tonic::Status;
use tracing::debug;

use super::{
    BoxedIo, CONNECTION_WINDOW_BYTES, Connect, FAR_FRAME_BYTES_MAX, FAR_STREAM_WINDOW_BYTES,
    FRAME_BYTES_MAX, HEADER_BYTES_MAX, STREAM_WINDOW_BYTES, UNSENT_CALL_BYTES_MAX,
    heard::{Heard, Listening},
};
use crate::tls::Expected;

/// Calls at a time before a server has said how many it takes.
const STREAMS_AT_FIRST: usize = 100;

/// Where calls go out.
type Sender = SendRequest<Bytes>;
type Making = Shared<BoxFuture<'static, Result<Sender, Status>>>;

pub(super) struct Line {
    pub(super) authority: Authority,
    pub(super) expected: Expected,
    /// In another region.
    pub(super) far: bool,
    pub(super) connector: Arc<dyn Connect>,
    /// Its end waits for nobody: connections end with the last who has them.
    pub(super) tasks: TaskTracker,
    pub(super) made: Mutex<Option<Making>>,
    pub(super) heard: Heard,
    pub(super) connections: Arc<AtomicU64>,
}

impl Line {
    /// A connection that takes a call. Who comes while it is made waits for it, and hears the same
    /// when it cannot be made.
    pub(super) async fn sender(&self) -> Result<Sender, Status> {
        let making = {
            let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
            match made.as_ref() {
                Some(making) if is_of_use(making) => making.clone(),
                _ => made.insert(self.make()).clone(),
            }
        };
        making.await
    }

    fn make(&self) -> Making {
        let (connector, tasks) = (Arc::clone(&self.connector), self.tasks.clone());
        let (heard, connections) = (self.heard.clone(), Arc::clone(&self.connections));
        let connecting = connector.connect_to(self.authority.as_str(), &self.expected);
        let (time_max, far) = (connector.time_max(), self.far);
        let making = async move {
            let io = timeout(time_max, connecting).await;
            let io = io.unwrap_or_else(|_| Err(late(time_max)));
            let io = io.map_err(|error| unreachable(Arc::new(error)))?;
            connections.fetch_add(1, Ordering::Relaxed);
            open(io, far, heard, &tasks).await
        };
        // A task, so that it goes on when who waited for it first is gone.
        let making = self.tasks.spawn(making);
        async move {
            let ended = |error| Status::from_error(Box::new(error));
            making.await.map_err(ended).flatten()
        }
        .boxed()
        .shared()
    }
}

/// Whether it is being made, or there and not broken.
fn is_of_use(making: &Making) -> bool {
    match making.peek() {
        None => true,
        Some(Err(_)) => false,
        Some(Ok(sender)) => {
            let mut nobody = Context::from_waker(std::task::Waker::noop());
            !matches!(sender.clone().poll_ready(&mut nobody), Poll::Ready(Err(_)))
        }
    }
}

fn late(bound: Duration) -> io::Error {
    let why = format!("no connection within {bound:?}");
    io::Error::new(io::ErrorKind::TimedOut, why)
}

fn unreachable(error: Arc<io::Error>) -> Status {
    let mut status = Status::unavailable(error.to_string());
    status.set_source(error);
    status
}

async fn open(io: BoxedIo, far: bool, heard: Heard, tasks: &TaskTracker) -> Result<Sender, Status> {
    let io = Listening::new(io, heard.clone());
    let (window, frame_bytes) = match far {
        true => (FAR_STREAM_WINDOW_BYTES, FAR_FRAME_BYTES_MAX),
        false => (STREAM_WINDOW_BYTES, FRAME_BYTES_MAX),
    };
    let (sender, connection) = h2::client::Builder::new()
        .initial_window_size(window)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_frame_size(frame_bytes)
        .max_header_list_size(HEADER_BYTES_MAX)
        .max_send_buffer_size(UNSENT_CALL_BYTES_MAX)
        .initial_max_send_streams(STREAMS_AT_FIRST)
        .enable_push(false)
        .handshake::<_, Bytes>(io)
        .await?;
    tasks.spawn(drive(connection, heard));
    Ok(sender)
}

/// Until nobody has the connection any more, it broke, or its other end is silent.
async fn drive(mut connection: Connection<Listening, Bytes>, heard: Heard) {
    let Some(pings) = connection.ping_pong() else {
        return;
    };
    tokio::select! {
        biased;
        ended = connection => {
            if let Err(error) = ended {
                debug!(%error, "a connection broke");
            }
        }
        () = heard.silence(pings) => debug!("a connection's other end is silent"),
    }
}
