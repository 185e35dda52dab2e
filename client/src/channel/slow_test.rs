//! A connection that carries little is alive as long as it carries something.

use std::{
    convert::Infallible,
    future::{Ready, ready},
    io,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body as _, Frame};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex, split},
    sync::mpsc,
    time::{interval, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::task::TaskTracker;
use tonic::{body::Body, server::NamedService, service::Routes, transport::Server};
use tower::Service;

use super::{
    BoxedIo, CONNECTION_WINDOW_BYTES, Channels, Connect, Connecting, FRAME_BYTES_MAX,
    STREAM_WINDOW_BYTES,
};

const BYTES: usize = 3 << 20;
/// What waits in the kernel at the sending end, and comes through in each tenth of a second: 1 Mbit/s.
const UNSENT: usize = super::UNSENT_BYTES as usize;
const TICK: Duration = Duration::from_millis(100);
const TICK_BYTES: usize = 12_500;

/// Answers every call with as many bytes.
#[derive(Clone)]
struct Many;

impl NamedService for Many {
    const NAME: &'static str = "many";
}

impl Service<http::Request<Body>> for Many {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: http::Request<Body>) -> Self::Future {
        let whole = Whole(Some(Bytes::from(vec![7; BYTES])));
        ready(Ok(http::Response::new(Body::new(whole))))
    }
}

struct Whole(Option<Bytes>);

impl http_body::Body for Whole {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.0.take().map(|all| Ok(Frame::data(all))))
    }
}

/// Connects to one server, by ways that are slow in its direction.
struct Slow {
    knocks: mpsc::Sender<io::Result<BoxedIo>>,
    made: Arc<Mutex<usize>>,
}

impl Connect for Slow {
    fn connect(&self, _: &str) -> Connecting {
        *self.made.lock().unwrap() += 1;
        let knocks = self.knocks.clone();
        Box::pin(async move {
            let (theirs, way) = duplex(UNSENT);
            let (own, end) = duplex(TICK_BYTES);
            TaskTracker::new().spawn(carry(way, end));
            let knocked = knocks.send(Ok(BoxedIo::new(theirs))).await;
            knocked.map_err(|_| io::ErrorKind::ConnectionRefused)?;
            Ok(BoxedIo::new(own))
        })
    }
}

async fn carry(way: DuplexStream, end: DuplexStream) -> io::Result<()> {
    let ((mut from, mut back_to), (mut back_from, mut to)) = (split(way), split(end));
    let slowly = async {
        let (mut ticks, mut bytes) = (interval(TICK), vec![0; TICK_BYTES]);
        loop {
            ticks.tick().await;
            let count = from.read(&mut bytes).await?;
            if count == 0 {
                return Ok(());
            }
            to.write_all(&bytes[..count]).await?;
        }
    };
    let back = async {
        tokio::io::copy(&mut back_from, &mut back_to)
            .await
            .map(drop)
    };
    tokio::try_join!(slowly, back).map(drop)
}

/// A server of tonic's, which asks for no signs of life, and channels to it; and how many
/// connections were made.
fn world() -> (Channels, Arc<Mutex<usize>>) {
    let (knocks, knocking) = mpsc::channel(8);
    let server = Server::builder()
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_frame_size(FRAME_BYTES_MAX)
        .add_routes(Routes::new(Many));
    TaskTracker::new().spawn(server.serve_with_incoming(ReceiverStream::new(knocking)));
    let made = Arc::default();
    let slow = Slow {
        knocks,
        made: Arc::clone(&made),
    };
    (Channels::new(Arc::new(slow)), made)
}

/// Bytes that came of one call.
async fn came(channels: &Channels) -> Result<usize, String> {
    let mut channel = channels.to("far:1").unwrap();
    let request = http::Request::post("http://far:1/many/all").body(Body::empty());
    std::future::poll_fn(|cx| channel.poll_ready(cx))
        .await
        .unwrap();
    let answer = channel.call(request.unwrap()).await;
    let mut body = std::pin::pin!(answer.map_err(|error| error.to_string())?.into_body());
    let mut bytes = 0;
    while let Some(frame) = std::future::poll_fn(|cx| body.as_mut().poll_frame(cx)).await {
        let frame = frame.map_err(|error| error.to_string())?;
        bytes += frame.data_ref().map_or(0, Bytes::len);
    }
    Ok(bytes)
}

#[tokio::test(start_paused = true)]
async fn a_slow_link_is_not_taken_for_a_dead_one() {
    let (channels, made) = world();
    let bound = Duration::from_secs(60);
    let got = timeout(bound, came(&channels.far())).await.unwrap();
    assert_eq!((got, *made.lock().unwrap()), (Ok(BYTES), 1));
    // With frames as within a region: part of one is a sign of life.
    let got = timeout(bound, came(&channels)).await.unwrap();
    assert_eq!((got, *made.lock().unwrap()), (Ok(BYTES), 2));
}
