//! The simulated network under the product: its connector, its listener, its clock.
//!
//! Every byte that is written enters the hash of the wire, and counts for the fault that
//! drops or holds it.

use std::{
    io,
    net::{IpAddr, Ipv4Addr},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures::stream;
use kvmesh_client::channel::{BoxedIo, Connect, Connecting, Incoming};
use kvmesh_process::{Environment, WallClock};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use turmoil::net::{TcpListener, TcpStream};

use crate::trace;

/// Where every process serves gRPC.
pub(crate) const PORT: u16 = 7400;
/// Steps of the simulated time; also what one hop in a region takes at least.
pub(crate) const TICK: Duration = Duration::from_millis(2);
/// What one hop in a region takes at most.
pub(crate) const HOP_MAX: Duration = Duration::from_millis(6);
/// When a simulation begins, milliseconds since 1970.
pub(crate) const EPOCH_MS: u64 = 1_700_000_000_000;

/// A process's ends of the network, by its host's name.
pub(crate) fn environment(host: &str) -> Environment {
    let connector = SimConnect {
        own: turmoil::lookup(host),
    };
    Environment::new(Arc::new(connector), Arc::new(SimClock), host).without_threads()
}

/// Accepts connections to a host.
pub(crate) async fn listen(host: &str) -> io::Result<Incoming> {
    let own = turmoil::lookup(host);
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT)).await?;
    Ok(Box::pin(stream::unfold(
        listener,
        move |listener| async move {
            let accepted = listener.accept().await.map(|(stream, peer)| {
                let peer = peer.ip();
                BoxedIo::new(Wire { stream, own, peer })
            });
            Some((accepted, listener))
        },
    )))
}

struct SimConnect {
    own: IpAddr,
}

impl Connect for SimConnect {
    fn connect(&self, address: &str) -> Connecting {
        let (own, address) = (self.own, address.to_owned());
        Box::pin(async move {
            let (host, _) = address
                .rsplit_once(':')
                .ok_or_else(|| io::Error::other("an address is host:port"))?;
            let peer = turmoil::lookup(host);
            trace::sent(own, peer, &[]);
            let stream = TcpStream::connect((peer, PORT)).await?;
            Ok(BoxedIo::new(Wire { stream, own, peer }))
        })
    }
}

/// The simulation's time.
struct SimClock;

impl WallClock for SimClock {
    fn millis(&self) -> u64 {
        let elapsed = turmoil::sim_elapsed().unwrap_or(Duration::ZERO);
        EPOCH_MS + elapsed.as_millis() as u64
    }
}

/// A connection, whose written bytes are noted.
struct Wire {
    stream: TcpStream,
    own: IpAddr,
    peer: IpAddr,
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        if let Poll::Ready(Ok(taken)) = &written {
            trace::sent(self.own, self.peer, &bytes[..*taken]);
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
