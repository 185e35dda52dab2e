//! A snapshot's chunks on their way between nodes, as openraft reads and writes them: a part
//! of a file, or, where there are no files, bytes in memory. Never both: a file is not loaded.

use std::{
    io::{self, Cursor, SeekFrom},
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use tokio::{
    fs::File,
    io::{AsyncRead, AsyncSeek, AsyncWrite, ReadBuf},
};

use super::reserve::Reserve;

/// See the module.
#[derive(Debug)]
pub(super) enum SnapshotData {
    /// A part of a file.
    File(FilePart),
    /// In memory, being sent.
    Sent(Cursor<Bytes>),
    /// In memory, being received.
    Received(Cursor<Vec<u8>>),
}

/// The part of a file that starts at an offset, and is read up to an end.
#[derive(Debug)]
pub(super) struct FilePart {
    file: File,
    start: u64,
    /// None: the file's own end, wherever that is.
    end: Option<u64>,
    /// Within the file.
    at: u64,
    /// Of what is received: where its room comes from, by a handle of its own.
    room: Option<(Reserve, std::fs::File)>,
}

/// Written so far, perhaps, but not in the file yet: what tokio's files buffer.
const BUFFERED_BYTES: u64 = 4 << 20;

impl FilePart {
    /// Reads a part of a file.
    pub(super) fn sent(file: std::fs::File, start: u64, end: u64) -> Self {
        Self {
            file: File::from_std(file),
            start,
            end: Some(end),
            at: 0,
            room: None,
        }
    }

    /// Writes from an offset on; the file stands there.
    ///
    /// # Errors
    /// When there is no room for another handle.
    pub(super) fn received(file: std::fs::File, start: u64, reserve: Reserve) -> io::Result<Self> {
        Ok(Self {
            room: Some((reserve, file.try_clone()?)),
            file: File::from_std(file),
            start,
            end: None,
            at: start,
        })
    }

    /// The file, once all that was written is in it.
    pub(super) async fn into_file(self) -> std::fs::File {
        self.file.into_std().await
    }

    /// The same file, to be read meanwhile. Both share one position.
    pub(super) async fn reader(&self) -> io::Result<std::fs::File> {
        Ok(self.file.try_clone().await?.into_std().await)
    }
}

impl AsyncRead for FilePart {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let left = self.end.map_or(u64::MAX, |end| end.saturating_sub(self.at));
        let max = usize::try_from(left).unwrap_or(usize::MAX);
        let max = max.min(buf.remaining());
        let mut part = ReadBuf::new(buf.initialize_unfilled_to(max));
        ready!(Pin::new(&mut self.file).poll_read(cx, &mut part))?;
        let read = part.filled().len();
        buf.advance(read);
        self.at += read as u64;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for FilePart {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        if let Some((reserve, file)) = &self.room {
            // Blocks this thread, for one system call in many megabytes.
            reserve.keep_ahead(file, BUFFERED_BYTES + buf.len() as u64)?;
        }
        let written = ready!(Pin::new(&mut self.file).poll_write(cx, buf))?;
        self.at += written as u64;
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.file).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.file).poll_shutdown(cx)
    }
}

impl AsyncSeek for FilePart {
    fn start_seek(mut self: Pin<&mut Self>, position: SeekFrom) -> io::Result<()> {
        let position = match (position, self.end) {
            (SeekFrom::Start(at), _) => SeekFrom::Start(self.start + at),
            (SeekFrom::End(by), Some(end)) => {
                let at = end.checked_add_signed(by);
                SeekFrom::Start(at.ok_or(io::ErrorKind::InvalidInput)?)
            }
            (other, _) => other,
        };
        Pin::new(&mut self.file).start_seek(position)
    }

    fn poll_complete(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<u64>> {
        self.at = ready!(Pin::new(&mut self.file).poll_complete(cx))?;
        Poll::Ready(Ok(self.at.saturating_sub(self.start)))
    }
}

impl AsyncRead for SnapshotData {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::File(file) => Pin::new(file).poll_read(cx, buf),
            Self::Sent(bytes) => Pin::new(bytes).poll_read(cx, buf),
            Self::Received(bytes) => Pin::new(bytes).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for SnapshotData {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::File(file) => Pin::new(file).poll_write(cx, buf),
            Self::Received(bytes) => Pin::new(bytes).poll_write(cx, buf),
            Self::Sent(_) => Poll::Ready(Err(io::ErrorKind::Unsupported.into())),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::File(file) => Pin::new(file).poll_flush(cx),
            Self::Sent(_) | Self::Received(_) => Poll::Ready(Ok(())),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::File(file) => Pin::new(file).poll_shutdown(cx),
            Self::Sent(_) | Self::Received(_) => Poll::Ready(Ok(())),
        }
    }
}

impl AsyncSeek for SnapshotData {
    fn start_seek(self: Pin<&mut Self>, position: SeekFrom) -> io::Result<()> {
        match self.get_mut() {
            Self::File(file) => Pin::new(file).start_seek(position),
            Self::Sent(bytes) => Pin::new(bytes).start_seek(position),
            Self::Received(bytes) => Pin::new(bytes).start_seek(position),
        }
    }

    fn poll_complete(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<u64>> {
        match self.get_mut() {
            Self::File(file) => Pin::new(file).poll_complete(cx),
            Self::Sent(bytes) => Pin::new(bytes).poll_complete(cx),
            Self::Received(bytes) => Pin::new(bytes).poll_complete(cx),
        }
    }
}
