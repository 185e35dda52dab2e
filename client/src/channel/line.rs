//! The way to one address: a connection that is made when it is first needed, and again whenever
//! it broke.

use std::{
    io,
    pin::Pin,
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
use h2::{
    Ping, PingPong,
    client::{Connection, SendRequest},
};
use http::uri::Authority;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, sleep_until, timeout, timeout_at},
};
use tokio_util::task::TaskTracker;
use tonic::Status;
use tracing::debug;

use super::{
    BoxedIo, CONNECTION_WINDOW_BYTES, Connect, KEEPALIVE_INTERVAL, KEEPALIVE_TIMEOUT,
    STREAM_WINDOW_BYTES,
};
use crate::tls::Expected;

/// Calls at a time before a server has said how many it takes.
const STREAMS_AT_FIRST: usize = 100;
/// Bytes of the headers of an answer.
const HEADER_BYTES_MAX: u32 = 16 << 10;
/// Bytes of one call that wait in the process to be sent.
const UNSENT_BYTES_MAX: usize = 1 << 20;

/// Where calls go out.
type Sender = SendRequest<Bytes>;
type Making = Shared<BoxFuture<'static, Result<Sender, Status>>>;

pub(super) struct Line {
    pub(super) authority: Authority,
    pub(super) expected: Expected,
    pub(super) frame_bytes: u32,
    pub(super) connector: Arc<dyn Connect>,
    /// Its end waits for nobody: connections end with the last who has them.
    pub(super) tasks: TaskTracker,
    pub(super) made: Mutex<Option<Making>>,
    pub(super) heard: Heard,
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
        let heard = self.heard.clone();
        let connecting = connector.connect_to(self.authority.as_str(), &self.expected);
        let (time_max, frame_bytes) = (connector.time_max(), self.frame_bytes);
        let making = async move {
            let io = timeout(time_max, connecting).await;
            let io = io.unwrap_or_else(|_| Err(late(time_max)));
            let io = io.map_err(|error| unreachable(Arc::new(error)))?;
            open(io, frame_bytes, heard, &tasks).await
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

async fn open(
    io: BoxedIo,
    frame_bytes: u32,
    heard: Heard,
    tasks: &TaskTracker,
) -> Result<Sender, Status> {
    heard.connected();
    let io = Listening {
        io,
        heard: heard.clone(),
    };
    let (sender, connection) = h2::client::Builder::new()
        .initial_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_frame_size(frame_bytes)
        .max_header_list_size(HEADER_BYTES_MAX)
        .max_send_buffer_size(UNSENT_BYTES_MAX)
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
        _ = silence(pings, &heard) => debug!("a connection's other end is silent"),
    }
}

/// Until nothing came for [`KEEPALIVE_INTERVAL`] and then not for [`KEEPALIVE_TIMEOUT`] either,
/// although the other end was asked to say something. Its answer may wait behind what is long, so
/// that whatever comes shows that it lives.
async fn silence(mut pings: PingPong, heard: &Heard) {
    loop {
        let last = heard.last();
        sleep_until(last + KEEPALIVE_INTERVAL).await;
        if heard.last() > last {
            continue;
        }
        let asked = Instant::now();
        let until = asked + KEEPALIVE_TIMEOUT;
        // An error: an earlier one is not answered yet. Or the connection broke, which ends it.
        if let Ok(Ok(_)) = timeout_at(until, pings.ping(Ping::opaque())).await {
            continue;
        }
        sleep_until(until).await;
        if heard.last() < asked {
            return;
        }
    }
}

/// What came, and when something came last.
#[derive(Clone)]
pub(super) struct Heard {
    since: Instant,
    after_ns: Arc<AtomicU64>,
    bytes: Arc<AtomicU64>,
    connections: Arc<AtomicU64>,
}

impl Heard {
    pub(super) fn new() -> Self {
        Self {
            since: Instant::now(),
            after_ns: Arc::default(),
            bytes: Arc::default(),
            connections: Arc::default(),
        }
    }

    fn more(&self, bytes: usize) {
        let after = u64::try_from(self.since.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.after_ns.store(after, Ordering::Relaxed);
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    fn last(&self) -> Instant {
        self.since + Duration::from_nanos(self.after_ns.load(Ordering::Relaxed))
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    fn connected(&self) {
        self.more(0);
        self.connections.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn connections(&self) -> u64 {
        self.connections.load(Ordering::Relaxed)
    }
}

/// A connection that notes what comes.
struct Listening {
    io: BoxedIo,
    heard: Heard,
}

impl AsyncRead for Listening {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.io).poll_read(cx, buf);
        let came = buf.filled().len() - before;
        if came > 0 {
            self.heard.more(came);
        }
        read
    }
}

impl AsyncWrite for Listening {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
