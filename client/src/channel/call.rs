//! One call on a connection.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, HeaderValue, Request, Response, header::USER_AGENT, uri::Scheme};
use http_body::{Body as _, Frame};
use tokio::{sync::oneshot, time::timeout};
use tonic::{Status, body::Body};

use super::Line;

const GRPC_TIMEOUT: &str = "grpc-timeout";
const WHO: HeaderValue = HeaderValue::from_static(concat!("kvmesh/", env!("CARGO_PKG_VERSION")));

/// Why there is no answer, where no server said it.
#[derive(Debug, thiserror::Error)]
enum CallError {
    #[error("no answer within {0:?}")]
    Late(Duration),
    #[error("the address of the call is none: {0}")]
    Address(#[from] http::Error),
}

/// How long a call may take, as its caller says: up to 8 digits and a unit, see the gRPC over
/// HTTP/2 specification, `grpc-timeout`.
#[must_use]
pub fn call_timeout(headers: &HeaderMap) -> Option<Duration> {
    let raw = headers.get(GRPC_TIMEOUT)?.to_str().ok()?;
    let (digits, unit) = raw.split_at_checked(raw.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 {
        return None;
    }
    let count: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(count * 3_600)),
        "M" => Some(Duration::from_secs(count * 60)),
        "S" => Some(Duration::from_secs(count)),
        "m" => Some(Duration::from_millis(count)),
        "u" => Some(Duration::from_micros(count)),
        "n" => Some(Duration::from_nanos(count)),
        _ => None,
    }
}

/// Sends it and waits for the head of the answer, no longer than its caller says.
///
/// # Errors
/// When there is no connection, it breaks, or there is no answer in time; with a source, see
/// [`crate::status::is_broken`].
pub(super) async fn call(
    line: Arc<Line>,
    request: Request<Body>,
) -> Result<Response<Body>, Status> {
    match call_timeout(request.headers()) {
        None => answer(&line, request).await,
        Some(bound) => timeout(bound, answer(&line, request))
            .await
            .unwrap_or_else(|_| Err(broken(tonic::Code::Cancelled, CallError::Late(bound)))),
    }
}

async fn answer(line: &Line, request: Request<Body>) -> Result<Response<Body>, Status> {
    let (mut head, body) = request.into_parts();
    let mut uri = head.uri.into_parts();
    (uri.scheme, uri.authority) = (Some(Scheme::HTTP), Some(line.authority.clone()));
    let uri = http::Uri::from_parts(uri).map_err(http::Error::from);
    head.uri = uri.map_err(|error| broken(tonic::Code::Internal, error.into()))?;
    head.headers.insert(USER_AGENT, WHO);
    head.version = http::Version::HTTP_2;

    let mut sender = line.sender().await?;
    let all = body.is_end_stream();
    let (answer, to) = sender.send_request(Request::from_parts(head, ()), all)?;
    let mut wanted = None;
    if !all {
        let mut sending = Sending::new(body, to);
        // What is there already goes out with the head; a call of one message ends here.
        let sent = std::future::poll_fn(|cx| Poll::Ready(Pin::new(&mut sending).poll(cx))).await;
        if sent.is_pending() {
            let (want, unwanted) = oneshot::channel::<()>();
            wanted = Some(want);
            line.tasks.spawn(async move {
                tokio::select! {
                    () = &mut sending => {}
                    // Left half-sent, it is reset.
                    _ = unwanted => {}
                }
            });
        }
    }
    let answer = answer.await?;
    Ok(answer.map(|stream| {
        Body::new(Answer {
            stream,
            _wanted: wanted,
        })
    }))
}

fn broken(code: tonic::Code, error: CallError) -> Status {
    let mut status = Status::new(code, error.to_string());
    status.set_source(Arc::new(error));
    status
}

/// A body on its way.
struct Sending {
    body: Body,
    to: SendStream<Bytes>,
    /// Waits for room. Room is asked for by those only who have something for it: what waits for
    /// its body would hold room that others need.
    next: Option<Bytes>,
    begun: bool,
}

impl Sending {
    fn new(body: Body, to: SendStream<Bytes>) -> Self {
        Self {
            body,
            to,
            next: None,
            begun: false,
        }
    }

    /// An error: nobody takes it any more, or the body itself failed.
    fn poll_sent(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), h2::Error>> {
        loop {
            if let Poll::Ready(reset) = self.to.poll_reset(cx) {
                return Poll::Ready(Err(reset?.into()));
            }
            if self.next.is_some() {
                ready!(self.room(cx))?;
                let last = self.body.is_end_stream();
                self.to
                    .send_data(self.next.take().unwrap_or_default(), last)?;
                if last {
                    return Poll::Ready(Ok(()));
                }
                continue;
            }
            match self.poll_data(cx)? {
                Poll::Ready(None) => return Poll::Ready(self.to.send_data(Bytes::new(), true)),
                Poll::Ready(Some(data)) if self.begun => self.hold(data),
                Poll::Ready(Some(data)) => {
                    self.begun = true;
                    // A call of one message ends with it, in the same frame.
                    let next = self.poll_data(cx)?;
                    let last = matches!(next, Poll::Ready(None));
                    self.to.send_data(data, last)?;
                    match next {
                        Poll::Ready(Some(next)) => self.hold(next),
                        _ => return next.map(|_| Ok(())),
                    }
                }
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    fn hold(&mut self, data: Bytes) {
        self.to.reserve_capacity(1);
        self.next = Some(data);
    }

    /// The next bytes of the body; a call of gRPC has no trailers. Who calls hears by the end of
    /// the call that its body failed.
    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, h2::Error>> {
        loop {
            let frame = ready!(Pin::new(&mut self.body).poll_frame(cx)).transpose();
            match frame.map_err(|_| Reason::CANCEL)?.map(Frame::into_data) {
                None => return Poll::Ready(Ok(None)),
                Some(Ok(data)) => return Poll::Ready(Ok(Some(data))),
                Some(Err(_)) => {}
            }
        }
    }

    /// Until more may be sent.
    fn room(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), h2::Error>> {
        while self.to.capacity() == 0 {
            match ready!(self.to.poll_capacity(cx)) {
                None => return Poll::Ready(Err(Reason::CANCEL.into())),
                Some(room) => room?,
            };
        }
        Poll::Ready(Ok(()))
    }
}

impl Future for Sending {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let sent = ready!(self.poll_sent(cx));
        if let Err(error) = sent {
            self.to.send_reset(error.reason().unwrap_or(Reason::CANCEL));
        }
        Poll::Ready(())
    }
}

/// The body of an answer. Dropped before its end, the call is reset.
struct Answer {
    stream: RecvStream,
    _wanted: Option<oneshot::Sender<()>>,
}

impl http_body::Body for Answer {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        match ready!(self.stream.poll_data(cx)) {
            Some(Ok(data)) => {
                // What the caller holds on to is its own: back-pressure is that it reads no more.
                let _ = self.stream.flow_control().release_capacity(data.len());
                return Poll::Ready(Some(Ok(Frame::data(data))));
            }
            // A server that wants no more of the call has said all of its answer.
            Some(Err(error)) if error.reason() != Some(Reason::NO_ERROR) => {
                return Poll::Ready(Some(Err(error.into())));
            }
            _ => {}
        }
        let trailers = ready!(self.stream.poll_trailers(cx))?;
        Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))))
    }

    fn is_end_stream(&self) -> bool {
        self.stream.is_end_stream()
    }
}
