//! Delays the bytes of one connection: order is kept, bytes in flight are bounded.

use std::{io, sync::Arc};

use bytes::{Bytes, BytesMut};
use kvmesh_client::channel::BoxedIo;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, duplex, split},
    sync::mpsc,
    time::{Instant, sleep_until},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::shape::Shape;

/// Bytes that are taken from a connection at once.
const CHUNK_BYTES: usize = 16 << 10;
/// Chunks in flight in one direction: 64 MiB at most.
const CHUNKS_MAX: usize = 4_096;
/// Bytes between a connection's user and its pump.
const NEAR_BYTES: usize = 256 << 10;

/// A stream whose bytes go to and from `far` as `shape` says; `back` is the direction of those
/// that come. Ends with either side, or with `stop`.
pub(super) fn delayed(
    far: BoxedIo,
    shape: Arc<Shape>,
    back: usize,
    tasks: &TaskTracker,
    stop: CancellationToken,
) -> DuplexStream {
    let (user, near) = duplex(NEAR_BYTES);
    tasks.spawn(async move {
        let (near_read, near_write) = split(near);
        let (far_read, far_write) = split(far);
        let out = direction(near_read, far_write, &shape, 1 - back);
        let back = direction(far_read, near_write, &shape, back);
        // Dropping both directions closes both sides; nobody resumes a connection half-way.
        tokio::select! {
            _ = futures::future::join(out, back) => {}
            () = stop.cancelled() => {}
        }
    });
    user
}

async fn direction(
    from: impl AsyncRead + Unpin,
    to: impl AsyncWrite + Unpin,
    shape: &Shape,
    which: usize,
) -> io::Result<()> {
    let (chunks, arriving) = mpsc::channel(CHUNKS_MAX);
    futures::future::try_join(take(from, chunks, shape, which), give(to, arriving)).await?;
    Ok(())
}

async fn take(
    mut from: impl AsyncRead + Unpin,
    chunks: mpsc::Sender<(Instant, Bytes)>,
    shape: &Shape,
    which: usize,
) -> io::Result<()> {
    let mut buffer = BytesMut::new();
    let mut last = Instant::now();
    loop {
        buffer.reserve(CHUNK_BYTES);
        let mut chunk = (&mut from).take(CHUNK_BYTES as u64);
        if chunk.read_buf(&mut buffer).await? == 0 {
            return Ok(());
        }
        // A shorter way lets nothing overtake.
        last = last.max(shape.due(which, buffer.len(), Instant::now()));
        if chunks.send((last, buffer.split().freeze())).await.is_err() {
            return Ok(());
        }
    }
}

async fn give(
    mut to: impl AsyncWrite + Unpin,
    mut arriving: mpsc::Receiver<(Instant, Bytes)>,
) -> io::Result<()> {
    while let Some((due, chunk)) = arriving.recv().await {
        if due > Instant::now() {
            sleep_until(due).await;
        }
        to.write_all(&chunk).await?;
    }
    to.shutdown().await
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const ONE_WAY: Duration = Duration::from_millis(40);

    fn shape() -> Arc<Shape> {
        Arc::new(Shape::new(2 * ONE_WAY))
    }

    #[tokio::test]
    async fn bytes_come_late_and_in_order() {
        let (far, mut server) = duplex(1 << 20);
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let mut user = delayed(BoxedIo::new(far), shape(), 1, &tasks, stop.clone());
        let started = Instant::now();
        for word in ["one ", "two ", "three"] {
            user.write_all(word.as_bytes()).await.unwrap();
        }
        let mut seen = [0; 13];
        server.read_exact(&mut seen).await.unwrap();
        assert_eq!(&seen, b"one two three");
        assert!(started.elapsed() >= ONE_WAY, "{:?}", started.elapsed());
        server.write_all(b"back").await.unwrap();
        let mut seen = [0; 4];
        user.read_exact(&mut seen).await.unwrap();
        let took = started.elapsed();
        assert!(took >= 2 * ONE_WAY, "{took:?}");
        stop.cancel();
        tasks.close();
        tasks.wait().await;
    }

    #[tokio::test]
    async fn the_end_of_one_side_reaches_the_other() {
        let (far, mut server) = duplex(1 << 20);
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let user = delayed(BoxedIo::new(far), shape(), 1, &tasks, stop);
        drop(user);
        let mut rest = Vec::new();
        server.read_to_end(&mut rest).await.unwrap();
        drop(server);
        tasks.close();
        tasks.wait().await;
    }
}
