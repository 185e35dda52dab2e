//! One call on a connection.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use h2::Reason;
use http::{HeaderMap, HeaderValue, Request, Response, header::USER_AGENT, uri::Scheme};
use http_body::{Body as _, Frame};
use tokio::{sync::oneshot, time::timeout};
use tonic::{Status, body::Body};

use super::{
    Line,
    body::{Received, Sending},
};

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
        let mut sending = Sending::new(body, to, Reason::CANCEL);
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
        let body = Received::answer(stream);
        match wanted {
            None => Body::new(body),
            _wanted => Body::new(Answer { body, _wanted }),
        }
    }))
}

fn broken(code: tonic::Code, error: CallError) -> Status {
    let mut status = Status::new(code, error.to_string());
    status.set_source(Arc::new(error));
    status
}

/// The body of an answer, and what there is still to send of its call.
struct Answer {
    body: Received,
    _wanted: Option<oneshot::Sender<()>>,
}

impl http_body::Body for Answer {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }
}
