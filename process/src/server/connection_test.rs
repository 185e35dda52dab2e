//! Calls on connections in memory, which a channel of ours or bytes of the test's make.

use std::{
    convert::Infallible,
    future::{pending, poll_fn},
    io,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures::{FutureExt, future::BoxFuture};
use http_body::{Body as _, Frame};
use kvmesh_client::channel::{BoxedIo, Channel, Channels, Connect, Connecting, Incoming};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, copy, duplex, split},
    sync::{mpsc, watch},
    task::JoinHandle,
    time::{Instant, interval, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::{Code, Status, body::Body, server::NamedService};
use tower::Service;

use super::{KEEPALIVE_INTERVAL, KEEPALIVE_TIMEOUT, PREFACE_MAX, Routes, ServeError, serve};
use crate::Environment;

const BOUND: Duration = Duration::from_secs(30);
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What became of calls.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Seen {
    begun: usize,
    dropped: usize,
    bodies_ended: usize,
    bodies_broken: usize,
}

/// An answer that takes 24 s by a [`SlowDoor`].
const LONG: Bytes = Bytes::from_static(&[7; 3 << 20]);

/// What a call is to do is its path.
#[derive(Clone)]
struct Tried(Arc<watch::Sender<Seen>>);

struct Dropped(Tried);

impl Drop for Dropped {
    fn drop(&mut self) {
        self.0.0.send_modify(|seen| seen.dropped += 1);
    }
}

impl NamedService for Tried {
    const NAME: &'static str = "tried";
}

impl Service<http::Request<Body>> for Tried {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let dropped = Dropped(self.clone());
        self.0.send_modify(|seen| seen.begun += 1);
        async move {
            match request.uri().path() {
                "/tried/wait" => pending().await,
                "/tried/panic" => panic!("as asked"),
                "/tried/send" => return Ok(http::Response::new(Body::new(Whole(Some(LONG))))),
                "/tried/read" => dropped.0.read(request.into_body()).await,
                _ => {}
            }
            drop(dropped);
            Ok(Status::ok("").into_http())
        }
        .boxed()
    }
}

impl Tried {
    async fn read(&self, body: Body) {
        let mut body = pin!(body);
        loop {
            match poll_fn(|cx| body.as_mut().poll_frame(cx)).await {
                Some(Ok(_)) => {}
                Some(Err(_)) => break self.0.send_modify(|seen| seen.bodies_broken += 1),
                None => break self.0.send_modify(|seen| seen.bodies_ended += 1),
            }
        }
    }
}

/// Ends of connections that a server gets to accept.
#[derive(Clone)]
struct Door(mpsc::Sender<io::Result<BoxedIo>>);

impl Door {
    async fn knock(&self) -> DuplexStream {
        let (near, far) = duplex(1 << 20);
        self.0.send(Ok(BoxedIo::new(far))).await.unwrap();
        near
    }
}

impl Connect for Door {
    fn connect(&self, _: &str) -> Connecting {
        let door = self.clone();
        Box::pin(async move { Ok(BoxedIo::new(door.knock().await)) })
    }
}

/// A door behind a way of 1 Mbit/s in the server's direction.
struct SlowDoor(Door);

impl Connect for SlowDoor {
    fn connect(&self, _: &str) -> Connecting {
        let door = self.0.clone();
        Box::pin(async move {
            let (way, (near, end)) = (door.knock().await, duplex(SLOW_BYTES));
            TaskTracker::new().spawn(carry_slowly(way, end));
            Ok(BoxedIo::new(near))
        })
    }
}

/// So many each tenth of a second.
const SLOW_BYTES: usize = 12_500;

async fn carry_slowly(way: DuplexStream, end: DuplexStream) -> io::Result<()> {
    let ((mut from, mut back_to), (mut back_from, mut to)) = (split(way), split(end));
    let come = async {
        let (mut turns, mut bytes) = (interval(Duration::from_millis(100)), [0; SLOW_BYTES]);
        while let count @ 1.. = from.read(&mut bytes).await? {
            turns.tick().await;
            to.write_all(&bytes[..count]).await?;
        }
        Ok(())
    };
    let go = async { copy(&mut back_from, &mut back_to).await.map(drop) };
    tokio::try_join!(come, go).map(drop)
}

struct World {
    door: Door,
    channel: Channel,
    seen: watch::Receiver<Seen>,
    stop: CancellationToken,
    served: JoinHandle<Result<(), ServeError>>,
}

fn world(grace: Duration) -> World {
    let (knocks, knocking) = mpsc::channel(8);
    let door = Door(knocks);
    let (sender, seen) = watch::channel(Seen::default());
    let incoming: Incoming = Box::pin(ReceiverStream::new(knocking));
    let stop = CancellationToken::new();
    let routes = Routes::new(Tried(Arc::new(sender)));
    let environment = Environment::real("test");
    let served = serve(routes, environment, incoming, stop.clone(), grace);
    World {
        channel: Channels::new(Arc::new(door.clone())).to("a:1").unwrap(),
        door,
        seen,
        stop,
        served: TaskTracker::new().spawn(served),
    }
}

impl World {
    fn call(&self, path: &str, body: Body) -> JoinHandle<Result<Code, Status>> {
        self.call_within(path, body, None)
    }

    fn call_within(
        &self,
        path: &str,
        body: Body,
        within: Option<&'static str>,
    ) -> JoinHandle<Result<Code, Status>> {
        let mut request = http::Request::post(format!("http://a:1{path}"));
        if let Some(within) = within {
            request = request.header("grpc-timeout", within);
        }
        let calling = self.channel.clone().call(request.body(body).unwrap());
        TaskTracker::new().spawn(async {
            let answer = calling.await?;
            let status = Status::from_header_map(answer.headers()).unwrap();
            Ok(status.code())
        })
    }

    async fn answers(&self, path: &str) -> Result<Code, Status> {
        let answer = timeout(BOUND, self.call(path, Body::empty())).await;
        answer.unwrap().unwrap()
    }

    async fn until(&mut self, what: impl FnMut(&Seen) -> bool) -> Seen {
        let seen = timeout(BOUND, self.seen.wait_for(what)).await;
        *seen.unwrap().unwrap()
    }
}

/// A body that says one thing.
struct Whole(Option<Bytes>);

impl http_body::Body for Whole {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        Poll::Ready(self.0.take().map(|data| Ok(Frame::data(data))))
    }
}

/// A body that says one thing, and then no more.
struct Unended(Option<Bytes>);

impl http_body::Body for Unended {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        match self.0.take() {
            Some(data) => Poll::Ready(Some(Ok(Frame::data(data)))),
            None => Poll::Pending,
        }
    }
}

#[tokio::test]
async fn a_call_that_waits_or_panics_does_not_hold_up_its_connection() {
    let mut world = world(Duration::ZERO);
    let waiting = world.call("/tried/wait", Body::empty());
    world.until(|seen| seen.begun == 1).await;
    for _ in 0..3 {
        assert!(world.answers("/tried/panic").await.is_err());
        assert_eq!(world.answers("/tried/answer").await.unwrap(), Code::Ok);
    }
    assert!(!waiting.is_finished());
    // All by one connection: it was never broken.
    assert_eq!(world.channel.connections(), 1);
}

#[tokio::test]
async fn calls_that_come_together_are_all_answered() {
    let world = world(Duration::ZERO);
    let calls: Vec<_> = (0..500)
        .map(|_| world.call("/tried/answer", Body::empty()))
        .collect();
    for call in calls {
        let code = timeout(BOUND, call).await.unwrap().unwrap();
        assert_eq!(code.unwrap(), Code::Ok);
    }
    assert_eq!(world.channel.connections(), 1);
}

#[tokio::test]
async fn a_call_that_its_caller_gives_up_ends_here_and_its_body_has_no_end() {
    let mut world = world(Duration::ZERO);
    let waiting = world.call("/tried/wait", Body::empty());
    world.until(|seen| seen.begun == 1).await;
    waiting.abort();
    world.until(|seen| seen.dropped == 1).await;

    let upload = Body::new(Unended(Some(Bytes::from_static(b"half"))));
    let reading = world.call("/tried/read", upload);
    world.until(|seen| seen.begun == 2).await;
    reading.abort();
    let seen = world.until(|seen| seen.dropped == 2).await;
    assert_eq!(seen.bodies_ended, 0);
}

#[tokio::test(start_paused = true)]
async fn a_call_takes_no_longer_than_its_caller_waits() {
    let mut world = world(Duration::ZERO);
    // The server's word, and not the channel's, is heard by who sees further than this end.
    let near = world.door.knock().await;
    let (mut sender, connection) = h2::client::handshake(near).await.unwrap();
    let driven = TaskTracker::new().spawn(connection);
    let request = http::Request::post("http://a:1/tried/wait")
        .header("grpc-timeout", "300m")
        .body(())
        .unwrap();
    let asked = Instant::now();
    let (answer, _) = sender.send_request(request, true).unwrap();
    let answer = timeout(BOUND, answer).await.unwrap().unwrap();
    assert_eq!(asked.elapsed(), Duration::from_millis(300));
    let status = Status::from_header_map(answer.headers()).unwrap();
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status}");
    world.until(|seen| seen.dropped == 1).await;
    driven.abort();
}

/// Reads until the server closes; how long that took.
async fn closed(near: &mut DuplexStream) -> Duration {
    let began = Instant::now();
    let mut said = Vec::new();
    timeout(BOUND, near.read_to_end(&mut said))
        .await
        .unwrap()
        .unwrap();
    began.elapsed()
}

#[tokio::test(start_paused = true)]
async fn who_says_nothing_is_not_waited_for() {
    let world = world(Duration::ZERO);
    let mut near = world.door.knock().await;
    assert_eq!(closed(&mut near).await, PREFACE_MAX);

    // One that began as it should, and then is silent when it is asked whether it lives.
    let mut near = world.door.knock().await;
    near.write_all(PREFACE).await.unwrap();
    near.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.unwrap();
    let took = closed(&mut near).await;
    assert_eq!(took, KEEPALIVE_INTERVAL + KEEPALIVE_TIMEOUT);

    // One that is slow: whatever comes of a frame shows that it lives.
    let mut near = world.door.knock().await;
    near.write_all(PREFACE).await.unwrap();
    near.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.unwrap();
    near.write_all(&[0, 0, 20, 99, 0, 0, 0, 0, 0])
        .await
        .unwrap();
    for _ in 0..19 {
        tokio::time::advance(Duration::from_secs(1)).await;
        near.write_all(&[7]).await.unwrap();
    }
    let took = closed(&mut near).await;
    assert_eq!(took, KEEPALIVE_INTERVAL + KEEPALIVE_TIMEOUT);

    // One that speaks no HTTP/2.
    let mut near = world.door.knock().await;
    near.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    assert_eq!(closed(&mut near).await, Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_stops_lets_calls_end_and_no_longer_than_its_grace() {
    const GRACE: Duration = Duration::from_secs(3);
    let mut world = world(GRACE);
    let upload = Body::new(Unended(Some(Bytes::from_static(b"half"))));
    let reading = world.call("/tried/read", upload);
    let ending = world.call_within("/tried/wait", Body::empty(), Some("1S"));
    world.until(|seen| seen.begun == 2).await;

    let stopped = Instant::now();
    world.stop.cancel();
    let status = timeout(BOUND, ending).await.unwrap().unwrap();
    assert!(status.is_err(), "{status:?}");
    let served = timeout(BOUND, &mut world.served).await.unwrap();
    served.unwrap().unwrap();
    assert_eq!(stopped.elapsed(), GRACE);
    let broken = timeout(BOUND, reading).await.unwrap().unwrap();
    assert!(broken.is_err(), "{broken:?}");
    world.until(|seen| seen.dropped == 2).await;
}

#[tokio::test(start_paused = true)]
async fn who_takes_little_of_a_long_answer_is_not_taken_for_gone() {
    let world = world(Duration::ZERO);
    let slow = Channels::new(Arc::new(SlowDoor(world.door.clone())));
    let mut channel = slow.to("a:1").unwrap();
    let request = http::Request::post("http://a:1/tried/send").body(Body::empty());
    // A question of the server's, and so its answer, would be behind 8 s of bytes.
    let took = async {
        let answer = channel.call(request.unwrap()).await.unwrap();
        let (mut body, mut came) = (pin!(answer.into_body()), 0);
        while let Some(frame) = poll_fn(|cx| body.as_mut().poll_frame(cx)).await {
            came += frame.unwrap().data_ref().map_or(0, Bytes::len);
        }
        came
    };
    assert_eq!(timeout(BOUND, took).await.unwrap(), LONG.len());
}
