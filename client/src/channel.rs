//! How processes reach one another: a connector that the caller gives, and warm channels over it.
//!
//! Every call carries the caller's trace along (`traced`), if there is one.
//!
//! Production hands in [`TcpConnect`]; a simulation or an emulated link hands in its own.
//! One [`Channels`] per process: channels to one address are shared and stay warm.

pub(crate) mod between_regions;
mod body;
mod call;
mod heard;
mod line;
mod traced;

use std::{
    collections::HashMap,
    future::Future,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError, atomic::Ordering},
    task::{Context, Poll},
    time::Duration,
};

use futures::Stream;
use http::uri::{Authority, InvalidUri};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tokio_util::task::TaskTracker;
use tonic::{Status, body::Body, transport::server::Connected};
use tower::Service;

pub use between_regions::{
    AT_ONCE_BYTES, CongestionControl, CongestionError, UNSENT_BYTES, received_at_once, sent_at_once,
};
pub use body::{Received, Sending};
pub use call::call_timeout;
pub use heard::{Heard, Listening};
use line::Line;

use crate::tls::{Expected, Identity};

/// How long a connection may take to be made.
pub const CONNECT_TIMEOUT: Duration = Duration::from_millis(500);
/// An idle connection is probed this often, so that a dead one is noticed and a live one stays warm.
pub const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(2);
/// A probe that is not answered for so long ends the connection.
pub const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(2);
/// Bytes in flight on one stream; hyper's default caps it at 210 Mbit/s over 80 ms.
pub const STREAM_WINDOW_BYTES: u32 = 8 << 20;
/// Bytes in flight on one connection.
pub const CONNECTION_WINDOW_BYTES: u32 = 64 << 20;
/// Bytes of one HTTP/2 frame that the receiver admits.
pub const FRAME_BYTES_MAX: u32 = 1 << 20;
/// The same of connections to other regions. Answers to probes wait until a frame is through, and
/// to who is not ours only a whole one shows that the other end lives: one of 1 MiB takes longer
/// than a probe may where a connection gets 4 Mbit/s.
pub const FAR_FRAME_BYTES_MAX: u32 = 64 << 10;
/// Bytes in flight on one stream of a connection to another region, which alone may have to fill
/// the link: 3.3 Gbit/s over 80 ms.
pub const FAR_STREAM_WINDOW_BYTES: u32 = 32 << 20;
/// Bytes of the headers of a message.
pub const HEADER_BYTES_MAX: u32 = 16 << 10;
/// Bytes of one call or of its answer that wait in the process to be sent.
pub const UNSENT_CALL_BYTES_MAX: usize = 1 << 20;

/// A byte stream, whatever carries it.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// Both ends of a connection, as they proved to one another by their certificates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Who this end is.
    pub own: Arc<Identity>,
    /// Who the other end is.
    pub peer: Arc<Identity>,
}

enum Carrier {
    Tcp(TcpStream),
    Other(Box<dyn Io>),
}

/// A byte stream as servers accept it and connectors give it.
pub struct BoxedIo {
    io: Carrier,
    link: Option<Link>,
    remote: Option<SocketAddr>,
}

impl BoxedIo {
    /// Wraps a stream.
    pub fn new(io: impl Io + 'static) -> Self {
        Self::of(Carrier::Other(Box::new(io)))
    }

    /// Wraps a socket. Who finds out who is at its other end may still say how it is to send.
    #[must_use]
    pub fn tcp(stream: TcpStream) -> Self {
        Self::of(Carrier::Tcp(stream))
    }

    fn of(io: Carrier) -> Self {
        Self {
            io,
            link: None,
            remote: None,
        }
    }

    /// The socket, where it is one and nothing is wrapped around it.
    #[must_use]
    pub fn socket(&self) -> Option<&TcpStream> {
        match &self.io {
            Carrier::Tcp(socket) => Some(socket),
            Carrier::Other(_) => None,
        }
    }

    fn stream(&mut self) -> Pin<&mut dyn Io> {
        match &mut self.io {
            Carrier::Tcp(socket) => Pin::new(socket),
            Carrier::Other(io) => Pin::new(io.as_mut()),
        }
    }

    /// The same stream, with where it comes from; for logs.
    #[must_use]
    pub fn with_remote(self, remote: impl Into<Option<SocketAddr>>) -> Self {
        let remote = remote.into();
        Self { remote, ..self }
    }

    /// Where it comes from, when it was accepted from a socket.
    #[must_use]
    pub fn remote(&self) -> Option<SocketAddr> {
        self.remote
    }

    /// The same stream, with ends that are known.
    #[must_use]
    pub fn with_link(self, link: impl Into<Option<Link>>) -> Self {
        let link = link.into();
        Self { link, ..self }
    }

    /// Who is at both ends; none: nobody proved it.
    #[must_use]
    pub fn link(&self) -> Option<&Link> {
        self.link.as_ref()
    }
}

impl AsyncRead for BoxedIo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.stream().poll_read(cx, buf)
    }
}

impl AsyncWrite for BoxedIo {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.stream().poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.stream().poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        match &self.io {
            Carrier::Tcp(socket) => socket.is_write_vectored(),
            Carrier::Other(io) => io.is_write_vectored(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream().poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream().poll_shutdown(cx)
    }
}

impl Connected for BoxedIo {
    type ConnectInfo = Option<Link>;

    fn connect_info(&self) -> Option<Link> {
        self.link.clone()
    }
}

/// Connections as a server accepts them.
pub type Incoming = Pin<Box<dyn Stream<Item = io::Result<BoxedIo>> + Send>>;

/// The future of a connection being made.
pub type Connecting = Pin<Box<dyn Future<Output = io::Result<BoxedIo>> + Send>>;

/// Makes connections to `host:port` addresses.
pub trait Connect: Send + Sync + 'static {
    /// Starts to connect.
    fn connect(&self, address: &str) -> Connecting;

    /// Starts to connect to whom is expected there; a connector that does not verify who is at
    /// the other end connects to anybody.
    fn connect_to(&self, address: &str, _expected: &Expected) -> Connecting {
        self.connect(address)
    }

    /// How long a connection may take to be made.
    fn time_max(&self) -> Duration {
        CONNECT_TIMEOUT
    }
}

/// Plain TCP without Nagle's delay.
#[derive(Debug, Clone, Copy, Default)]
pub struct TcpConnect;

impl Connect for TcpConnect {
    fn connect(&self, address: &str) -> Connecting {
        let address = address.to_owned();
        Box::pin(async move {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            Ok(BoxedIo::tcp(stream))
        })
    }
}

/// Why a channel could not be had.
#[derive(Debug, thiserror::Error)]
#[error("address {address:?} is not host:port")]
pub struct AddressError {
    /// What was given.
    pub address: String,
    source: InvalidUri,
}

/// A warm connection to one address, made again whenever it broke. Cheap to clone.
#[derive(Clone)]
pub struct Channel {
    line: Arc<Line>,
}

impl Channel {
    /// Bytes that came by it until now, of all calls and by all connections that it had: as long
    /// as they grow, an answer that has not begun may wait behind them.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.line.heard.bytes()
    }

    /// How many connections it has had.
    #[must_use]
    pub fn connections(&self) -> u64 {
        self.line.connections.load(Ordering::Relaxed)
    }
}

/// The future of the head of an answer.
pub type Answering = Pin<Box<dyn Future<Output = Result<http::Response<Body>, Status>> + Send>>;

impl Service<http::Request<Body>> for Channel {
    type Response = http::Response<Body>;
    /// One with a source: see [`crate::status::is_broken`].
    type Error = Status;
    type Future = Answering;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: http::Request<Body>) -> Answering {
        traced::inject(request.headers_mut());
        Box::pin(call::call(Arc::clone(&self.line), request))
    }
}

/// Address, who is expected there, whether in another region, and which of several channels to it.
type Lane = (String, Expected, bool, usize);

/// Warm channels by address. Bounded by the number of processes of a mesh.
#[derive(Clone)]
pub struct Channels {
    connector: Arc<dyn Connect>,
    expected: Expected,
    far: bool,
    open: Arc<Mutex<HashMap<Lane, Channel>>>,
}

impl Channels {
    /// Over a connector.
    #[must_use]
    pub fn new(connector: Arc<dyn Connect>) -> Self {
        Self {
            connector,
            expected: Expected::default(),
            far: false,
            open: Arc::default(),
        }
    }

    /// The same, for addresses in other regions.
    #[must_use]
    pub fn far(&self) -> Self {
        Self {
            far: true,
            ..self.clone()
        }
    }

    /// Connections of its own by the same connector, so that what is small and urgent does
    /// not queue behind blocks.
    #[must_use]
    pub fn apart(&self) -> Self {
        Self {
            open: Arc::default(),
            ..self.clone()
        }
    }

    /// The same channels, for addresses where only such processes are expected: another one is
    /// not connected to. It shows over TLS only.
    #[must_use]
    pub fn expecting(&self, expected: Expected) -> Self {
        Self {
            expected,
            ..self.clone()
        }
    }

    /// As [`Self::expecting`], where the caller has not said already whom it expects.
    #[must_use]
    pub fn or_expecting(&self, expected: Expected) -> Self {
        match self.expected == Expected::default() {
            true => self.expecting(expected),
            false => self.clone(),
        }
    }

    /// The channel to an address, connected when it is first used and again whenever it broke.
    ///
    /// # Errors
    /// When the address is not `host:port`.
    pub fn to(&self, address: &str) -> Result<Channel, AddressError> {
        self.lane(address, 0)
    }

    /// One of several channels to an address, from 0 on, where one connection has not the room
    /// for all that a link carries. The first one is that of [`Self::to`].
    ///
    /// # Errors
    /// When the address is not `host:port`.
    pub fn lane(&self, address: &str, lane: usize) -> Result<Channel, AddressError> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let (expected, far) = (self.expected.clone(), self.far);
        let key = (address.to_owned(), expected, far, lane);
        if let Some(channel) = open.get(&key) {
            return Ok(channel.clone());
        }
        let authority = address.parse::<Authority>();
        let line = Line {
            authority: authority.map_err(|source| AddressError {
                address: address.to_owned(),
                source,
            })?,
            expected: self.expected.clone(),
            far,
            connector: Arc::clone(&self.connector),
            tasks: TaskTracker::new(),
            made: Mutex::default(),
            heard: Heard::default(),
            connections: Arc::default(),
        };
        let channel = Channel {
            line: Arc::new(line),
        };
        open.insert(key, channel.clone());
        Ok(channel)
    }

    /// Forgets the channels to an address, so that the next use makes a new connection.
    pub fn forget(&self, address: &str) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|(to, expected, ..), _| to != address || *expected != self.expected);
    }
}

#[cfg(test)]
mod line_test;
#[cfg(test)]
mod slow_test;
