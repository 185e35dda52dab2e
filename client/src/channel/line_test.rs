//! What a channel does while its connection is made, breaks, or says nothing, and how calls end.

use std::{
    convert::Infallible,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures::{StreamExt, future::join_all, stream};
use http_body::{Body as _, Frame};
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{Instant, timeout},
};
use tokio_util::task::TaskTracker;
use tonic::{Code, Status, body::Body, server::NamedService, service::Routes};
use tower::Service;

use super::{Channel, KEEPALIVE_INTERVAL, KEEPALIVE_TIMEOUT, STREAM_WINDOW_BYTES};
use crate::{fake_net_test::FakeNet, status::is_broken};

const BOUND: Duration = Duration::from_secs(30);
const CHUNK_BYTES: usize = 256 << 10;

/// What the server makes of a call, by its path.
#[derive(Clone)]
struct Server {
    /// Bytes of bodies that came, how often one ended, and how often one broke off.
    seen: Arc<watch::Sender<(usize, usize, usize)>>,
}

impl NamedService for Server {
    const NAME: &'static str = "tried";
}

impl Service<http::Request<Body>> for Server {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let seen = Arc::clone(&self.seen);
        Box::pin(async move {
            match request.uri().path() {
                "/tried/read" => {
                    read(request.into_body(), &seen).await;
                    Ok(http::Response::default())
                }
                "/tried/ignore" => {
                    let body = request.into_body();
                    futures::future::pending::<()>().await;
                    drop(body);
                    Ok(http::Response::default())
                }
                _ => Ok(http::Response::new(request.into_body())),
            }
        })
    }
}

async fn read(body: Body, seen: &watch::Sender<(usize, usize, usize)>) {
    let mut body = pin!(body);
    loop {
        match std::future::poll_fn(|cx| body.as_mut().poll_frame(cx)).await {
            None => break seen.send_modify(|seen| seen.1 += 1),
            Some(Err(_)) => break seen.send_modify(|seen| seen.2 += 1),
            Some(Ok(frame)) => {
                let bytes = frame.data_ref().map_or(0, Bytes::len);
                seen.send_modify(|seen| seen.0 += bytes);
            }
        }
    }
}

/// A body of chunks, that counts what was taken of it.
struct Chunks<S> {
    chunks: Pin<Box<S>>,
    taken: watch::Sender<usize>,
}

impl<S: stream::Stream<Item = Bytes>> http_body::Body for Chunks<S> {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let next = std::task::ready!(self.chunks.as_mut().poll_next(cx));
        let bytes = next.as_ref().map_or(0, Bytes::len);
        self.taken.send_modify(|taken| *taken += bytes);
        Poll::Ready(next.map(|chunk| Ok(Frame::data(chunk))))
    }
}

fn chunks(count: usize) -> impl stream::Stream<Item = Bytes> + Send {
    stream::iter((0..count).map(|_| Bytes::from(vec![7; CHUNK_BYTES])))
}

fn body(
    chunks: impl stream::Stream<Item = Bytes> + Send + 'static,
) -> (Body, watch::Receiver<usize>) {
    let (taken, watched) = watch::channel(0);
    let chunks = Box::pin(chunks);
    (Body::new(Chunks { chunks, taken }), watched)
}

fn request(path: &str, body: Body) -> http::Request<Body> {
    let address = format!("http://elsewhere:9{path}");
    http::Request::post(address).body(body).unwrap()
}

async fn ask(channel: &Channel) -> Result<http::Response<Body>, Status> {
    channel
        .clone()
        .call(request("/tried/read", Body::empty()))
        .await
}

struct World {
    net: FakeNet,
    channel: Channel,
    seen: watch::Receiver<(usize, usize, usize)>,
}

impl World {
    /// A call whose upload has begun, and does not end.
    async fn half_sent(&mut self) -> JoinHandle<Result<http::Response<Body>, Status>> {
        let (upload, _) = body(chunks(1).chain(stream::pending()));
        let calling = self.channel.clone().call(request("/tried/read", upload));
        let calling = TaskTracker::new().spawn(calling);
        let begun = self.seen.wait_for(|seen| seen.0 > 0);
        timeout(BOUND, begun).await.unwrap().unwrap();
        calling
    }
}

async fn breaks(calling: JoinHandle<Result<http::Response<Body>, Status>>) {
    let answer = timeout(BOUND, calling).await.unwrap().unwrap();
    let status = answer.map(drop).unwrap_err();
    assert!(is_broken(&status), "{status:?}");
}

fn world() -> World {
    let (seen, watched) = watch::channel((0, 0, 0));
    let net = FakeNet::default();
    let seen = Arc::new(seen);
    net.serve("a:1", Routes::new(Server { seen }));
    World {
        channel: net.channels().to("a:1").unwrap(),
        net,
        seen: watched,
    }
}

#[tokio::test]
async fn all_who_wait_for_a_connection_share_it_or_its_failure() {
    let World { net, channel, .. } = world();
    net.cut("a:1");
    let failed = join_all((0..50).map(|_| ask(&channel))).await;
    for failed in failed {
        let status = failed.map(drop).unwrap_err();
        assert_eq!(status.code(), Code::Unavailable);
        assert!(is_broken(&status), "{status:?}");
    }
    assert_eq!(net.asked("a:1"), 1);
    net.mend("a:1");
    for asked in join_all((0..50).map(|_| ask(&channel))).await {
        asked.unwrap();
    }
    assert_eq!(net.asked("a:1"), 2);
}

#[tokio::test]
async fn a_connection_that_broke_is_made_again() {
    let mut world = world();
    let waiting = world.half_sent().await;
    world.net.cut("a:1");
    breaks(waiting).await;
    world.net.mend("a:1");
    ask(&world.channel).await.unwrap();
    assert_eq!(world.net.asked("a:1"), 2);
}

#[tokio::test(start_paused = true)]
async fn an_end_that_says_nothing_is_given_up_and_an_idle_one_is_not() {
    let mut world = world();
    ask(&world.channel).await.unwrap();
    tokio::time::advance(20 * KEEPALIVE_INTERVAL).await;
    ask(&world.channel).await.unwrap();
    assert_eq!(world.net.asked("a:1"), 1);

    let waiting = world.half_sent().await;
    let frozen = Instant::now();
    world.net.freeze("a:1");
    breaks(waiting).await;
    let after = frozen.elapsed();
    assert!(after <= KEEPALIVE_INTERVAL + KEEPALIVE_TIMEOUT, "{after:?}");
}

#[tokio::test(start_paused = true)]
async fn a_call_waits_no_longer_than_it_says() {
    let World { net, channel, .. } = world();
    net.freeze("a:1");
    let mut request = request("/tried/read", Body::empty());
    request
        .headers_mut()
        .insert("grpc-timeout", "300m".parse().unwrap());
    let asked = Instant::now();
    let status = channel.clone().call(request).await.map(drop).unwrap_err();
    assert!(is_broken(&status), "{status:?}");
    assert_eq!(asked.elapsed(), Duration::from_millis(300));
}

#[tokio::test]
async fn a_call_that_is_dropped_takes_its_upload_along() {
    let World {
        net,
        channel,
        mut seen,
    } = world();
    for head_came in [false, true] {
        let path = if head_came {
            "/tried/echo"
        } else {
            "/tried/read"
        };
        let (upload, mut taken) = body(chunks(1).chain(stream::pending()));
        let calling = channel.clone().call(request(path, upload));
        if head_came {
            drop(timeout(BOUND, calling).await.unwrap().unwrap());
        } else {
            let calling = TaskTracker::new().spawn(calling);
            timeout(BOUND, seen.wait_for(|seen| seen.0 > 0))
                .await
                .unwrap()
                .unwrap();
            calling.abort();
            timeout(BOUND, seen.wait_for(|seen| seen.2 == 1))
                .await
                .unwrap()
                .unwrap();
        }
        // Its body is dropped.
        timeout(BOUND, async { while taken.changed().await.is_ok() {} })
            .await
            .unwrap();
    }
    assert_eq!(net.asked("a:1"), 1);
}

#[tokio::test]
async fn a_connection_ends_with_the_last_who_has_it() {
    let World { channel, .. } = world();
    let (upload, _) = body(chunks(1).chain(stream::pending()));
    let calling = channel.clone().call(request("/tried/echo", upload));
    let answer = timeout(BOUND, calling).await.unwrap().unwrap();
    let tasks = channel.line.tasks.clone();
    tasks.close();
    drop(channel);
    assert!(!tasks.is_empty());
    drop(answer);
    timeout(BOUND, tasks.wait()).await.unwrap();
}

#[tokio::test]
async fn what_is_not_read_is_not_sent() {
    let World { channel, .. } = world();
    let (upload, mut taken) = body(chunks(1_000));
    let calling = channel.clone().call(request("/tried/ignore", upload));
    let calling = TaskTracker::new().spawn(calling);
    // What a server takes at first, without reading: tonic's window.
    let first = 64 << 10;
    timeout(BOUND, taken.wait_for(|taken| *taken >= first))
        .await
        .unwrap()
        .unwrap();
    ask(&channel).await.unwrap();
    let most = STREAM_WINDOW_BYTES as usize + (2 << 20);
    assert!(*taken.borrow() <= most, "{}", *taken.borrow());
    calling.abort();
}

#[tokio::test]
async fn bodies_of_any_length_come_whole_both_ways() {
    let World {
        channel, mut seen, ..
    } = world();
    for count in [0, 1, 2, 3, 80] {
        let before = *seen.borrow_and_update();
        let (upload, _) = body(chunks(count));
        channel
            .clone()
            .call(request("/tried/read", upload))
            .await
            .unwrap();
        assert_eq!(seen.borrow().0 - before.0, count * CHUNK_BYTES);
        assert_eq!(seen.borrow().1 - before.1, 1);

        let (upload, _) = body(chunks(count));
        let received = channel.received();
        let answer = channel
            .clone()
            .call(request("/tried/echo", upload))
            .await
            .unwrap();
        let (echoed, counted) = watch::channel((0, 0, 0));
        timeout(BOUND, read(answer.into_body(), &echoed))
            .await
            .unwrap();
        assert_eq!(*counted.borrow(), (count * CHUNK_BYTES, 1, 0));
        assert!(channel.received() - received >= (count * CHUNK_BYTES) as u64);
    }
}
