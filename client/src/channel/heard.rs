//! Whether the other end of a connection lives: whatever comes shows it, and that there is room
//! again for what goes: without an end that takes bytes there is none.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use h2::{Ping, PingPong};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, sleep_until, timeout_at},
};

use super::{BoxedIo, KEEPALIVE_INTERVAL, KEEPALIVE_TIMEOUT};

/// How much came, and when something came last.
#[derive(Clone)]
pub struct Heard {
    since: Instant,
    after_ns: Arc<AtomicU64>,
    bytes: Arc<AtomicU64>,
}

impl Default for Heard {
    fn default() -> Self {
        Self {
            since: Instant::now(),
            after_ns: Arc::default(),
            bytes: Arc::default(),
        }
    }
}

impl Heard {
    pub(super) fn more(&self, bytes: usize) {
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

    /// Until nothing came for [`KEEPALIVE_INTERVAL`] and then not for [`KEEPALIVE_TIMEOUT`] either,
    /// although the other end was asked to say something. The question and its answer may wait
    /// behind what is long, so that whatever comes, or goes after it could not, shows that it lives.
    pub async fn silence(&self, mut pings: PingPong) {
        loop {
            let last = self.last();
            sleep_until(last + KEEPALIVE_INTERVAL).await;
            if self.last() > last {
                continue;
            }
            let asked = Instant::now();
            let until = asked + KEEPALIVE_TIMEOUT;
            // An error: an earlier one is not answered yet. Or the connection broke, which ends it.
            if let Ok(Ok(_)) = timeout_at(until, pings.ping(Ping::opaque())).await {
                continue;
            }
            sleep_until(until).await;
            if self.last() < asked {
                return;
            }
        }
    }
}

/// A connection that notes what comes, and when more can go.
pub struct Listening {
    io: BoxedIo,
    heard: Heard,
    /// Nothing more could be sent.
    full: bool,
}

impl Listening {
    /// Of a connection that was just made.
    #[must_use]
    pub fn new(io: BoxedIo, heard: Heard) -> Self {
        heard.more(0);
        let full = false;
        Self { io, heard, full }
    }

    fn sent(&mut self, sent: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(1..)) = sent
            && self.full
        {
            self.heard.more(0);
        }
        self.full = sent.is_pending();
        sent
    }
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
        let sent = Pin::new(&mut self.io).poll_write(cx, buf);
        self.sent(sent)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let sent = Pin::new(&mut self.io).poll_write_vectored(cx, bufs);
        self.sent(sent)
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
