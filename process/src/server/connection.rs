//! One accepted connection: counts against the bound while it lives, and can be ended from outside.

use std::{
    future::Future,
    io,
    pin::Pin,
    task::{Context, Poll},
};

use kvmesh_client::channel::BoxedIo;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::OwnedSemaphorePermit,
};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use super::meters::Open;

/// A stream that fails once its server is over.
pub(super) struct Connection {
    io: BoxedIo,
    over: Pin<Box<WaitForCancellationFutureOwned>>,
    ended: bool,
    _counted: (OwnedSemaphorePermit, Open),
}

impl Connection {
    pub(super) fn new(
        io: BoxedIo,
        counted: (OwnedSemaphorePermit, Open),
        over: CancellationToken,
    ) -> Self {
        Self {
            io,
            over: Box::pin(over.cancelled_owned()),
            ended: false,
            _counted: counted,
        }
    }

    /// The server reads all the time, and so its task is woken here when the server is over.
    fn alive(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        self.ended = self.ended || self.over.as_mut().poll(cx).is_ready();
        if self.ended {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        Ok(())
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.alive(cx)?;
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.alive(cx)?;
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.alive(cx)?;
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.alive(cx)?;
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
