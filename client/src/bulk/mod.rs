//! Calls whose messages carry pieces of blocks, without the copies that tonic makes of them.
//!
//! tonic encodes a message into a buffer of its own, and gathers what comes in another one,
//! which copies every byte of a block at each end of each hop. Here pieces are sent as they
//! lie in memory (`write`), and taken as HTTP/2's frames bring them (`read`): gRPC as ever,
//! which any peer reads and writes.

mod read;
mod write;

use std::time::Duration;

use futures::{Stream, StreamExt};
use http::{
    HeaderValue, Uri, Version,
    header::{CONTENT_TYPE, TE},
};
use prost::Message;
use tokio::time::timeout;
use tonic::{Code, Request, Status, Streaming, body::Body, metadata::GRPC_CONTENT_TYPE};
use tower::ServiceExt;

pub use read::{read_answers, read_requests};
pub use write::{Bulk, BulkBody};

use crate::channel::Channel;

/// `Cache.Get`.
pub const GET: &str = "/kvmesh.v1.Cache/Get";
/// `Cache.Put`.
pub const PUT: &str = "/kvmesh.v1.Cache/Put";
/// `Replication.Copy`.
pub const COPY: &str = "/kvmesh.v1.Replication/Copy";

/// Of a gRPC message: whether it is compressed, and its length.
const PREFIX_BYTES: usize = 5;
/// An answer may take so long to end after everything that is wanted of it came.
const ENDING_MAX: Duration = Duration::from_millis(20);

/// Makes a call, with the time that it has.
///
/// # Errors
/// As tonic's clients: the status that the server answered at once, or one with a source,
/// that says why it could not be asked.
pub async fn call<M, A>(
    channel: Channel,
    path: &'static str,
    messages: impl Stream<Item = M> + Send + 'static,
    left: Option<Duration>,
) -> Result<Streaming<A>, Status>
where
    M: Bulk,
    A: Message + Default + 'static,
{
    let mut timed = Request::new(());
    if let Some(left) = left {
        timed.set_timeout(left);
    }
    let body = Body::new(BulkBody::requests(messages.map(Ok)));
    let mut request = http::Request::post(Uri::from_static(path))
        .version(Version::HTTP_2)
        .body(body)
        .map_err(|error| Status::from_error(error.into()))?;
    let headers = request.headers_mut();
    headers.extend(timed.into_parts().0.into_headers());
    headers.insert(TE, HeaderValue::from_static("trailers"));
    headers.insert(CONTENT_TYPE, GRPC_CONTENT_TYPE);
    let answer = channel.oneshot(request).await;
    let answer = answer.map_err(|error| Status::from_error(error.into()))?;
    // Where a call fails before its first message, its status is among the headers.
    match Status::from_header_map(answer.headers()) {
        Some(status) if status.code() != Code::Ok => Err(status),
        _ => Ok(read_answers(answer)),
    }
}

/// Waits a little for the end of an answer of which everything came. One that is dropped before
/// is reset, and each reset is work for both ends.
pub async fn end<A>(mut answer: Streaming<A>) {
    let rest = async { while let Ok(Some(_)) = answer.message().await {} };
    let _ = timeout(ENDING_MAX, rest).await;
}
