//! `Cache` as every server offers it: tonic's, but for the answers of `Get`.
//!
//! tonic encodes a message into a buffer of its own, which copies every byte of a block.
//! Here the bytes of a piece go to the connection as they lie in memory, behind a short head
//! with the rest of their message: gRPC over HTTP/2 as ever, which any client reads.

use std::{
    collections::VecDeque,
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::{BufMut, Bytes, BytesMut};
use futures::{FutureExt, Stream, future::BoxFuture};
use http::{HeaderMap, HeaderValue, header::CONTENT_TYPE};
use http_body::Frame;
use kvmesh_directory::limits::MESSAGE_BYTES_MAX;
use kvmesh_proto::v1::{
    GetRequest, GetResponse,
    cache_server::{Cache, CacheServer},
};
use prost::{
    Message,
    encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len},
};
use tonic::{
    Request, Status, Streaming,
    body::Body,
    codec::Codec,
    metadata::{GRPC_CONTENT_TYPE, MetadataMap},
    server::NamedService,
};
use tonic_prost::ProstCodec;
use tower::Service;

/// Path of the call whose answers are written here.
const GET: &str = "/kvmesh.v1.Cache/Get";
/// Field of `GetResponse`.
const PIECE_FIELD: u32 = 2;
/// Of a gRPC message: whether it is compressed, and its length.
const PREFIX_BYTES: usize = 5;
const ENCODING: &str = "grpc-encoding";

/// See the module.
pub struct CacheService<T> {
    cache: Arc<T>,
    others: CacheServer<T>,
}

impl<T: Cache> CacheService<T> {
    /// Over the methods of a service.
    pub fn new(cache: T) -> Self {
        let cache = Arc::new(cache);
        let others = CacheServer::from_arc(Arc::clone(&cache))
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX);
        Self { cache, others }
    }
}

impl<T> Clone for CacheService<T> {
    fn clone(&self) -> Self {
        Self {
            cache: Arc::clone(&self.cache),
            others: self.others.clone(),
        }
    }
}

impl<T: Cache> NamedService for CacheService<T> {
    const NAME: &'static str = <CacheServer<T> as NamedService>::NAME;
}

impl<T: Cache> Service<http::Request<Body>> for CacheService<T> {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Service::<http::Request<Body>>::poll_ready(&mut self.others, cx)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        if request.uri().path() != GET {
            return self.others.call(request).boxed();
        }
        let cache = Arc::clone(&self.cache);
        async move {
            let answer = get(cache.as_ref(), request).await;
            Ok(answer.unwrap_or_else(Status::into_http))
        }
        .boxed()
    }
}

async fn get<T: Cache>(
    cache: &T,
    request: http::Request<Body>,
) -> Result<http::Response<Body>, Status> {
    let (parts, body) = request.into_parts();
    if let Some(encoding) = parts.headers.get(ENCODING)
        && encoding != "identity"
    {
        let what = format!("messages in {encoding:?} are not read: send them uncompressed");
        return Err(Status::unimplemented(what));
    }
    let decoder = ProstCodec::<GetResponse, GetRequest>::default().decoder();
    let mut messages = Streaming::new_request(decoder, body, None, Some(MESSAGE_BYTES_MAX));
    let Some(message) = messages.message().await? else {
        return Err(Status::internal("the call has no message"));
    };
    let metadata = MetadataMap::from_headers(parts.headers);
    let request = Request::from_parts(metadata, parts.extensions, message);
    let (metadata, answers, extensions) = cache.get(request).await?.into_parts();
    let mut response = http::Response::new(Body::new(Answers {
        answers: Box::pin(answers),
        chunks: VecDeque::with_capacity(2),
        over: false,
    }));
    *response.headers_mut() = metadata.into_headers();
    *response.extensions_mut() = extensions;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, GRPC_CONTENT_TYPE);
    Ok(response)
}

/// The body: two chunks a message, then trailers.
struct Answers<S> {
    answers: Pin<Box<S>>,
    chunks: VecDeque<Bytes>,
    over: bool,
}

impl<S> http_body::Body for Answers<S>
where
    S: Stream<Item = Result<GetResponse, Status>>,
{
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if let Some(chunk) = self.chunks.pop_front() {
            return Poll::Ready(Some(Ok(Frame::data(chunk))));
        }
        if self.over {
            return Poll::Ready(None);
        }
        let next = std::task::ready!(self.answers.as_mut().poll_next(cx));
        let Some(Ok(answer)) = next else {
            self.over = true;
            let status = next.and_then(Result::err);
            return Poll::Ready(Some(Ok(Frame::trailers(trailers(status)?))));
        };
        let (head, piece) = split(answer);
        self.chunks.extend((!piece.is_empty()).then_some(piece));
        Poll::Ready(Some(Ok(Frame::data(head))))
    }
}

fn trailers(failed: Option<Status>) -> Result<HeaderMap, Status> {
    let mut trailers = HeaderMap::new();
    match failed {
        Some(status) => status.add_header(&mut trailers)?,
        None => {
            trailers.insert(Status::GRPC_STATUS, HeaderValue::from_static("0"));
        }
    }
    Ok(trailers)
}

/// A message in two: everything up to the bytes of its piece, and these.
fn split(mut answer: GetResponse) -> (Bytes, Bytes) {
    let piece = std::mem::take(&mut answer.piece);
    let rest = answer.encoded_len();
    let (tag, len) = match piece.len() {
        0 => (0, 0),
        bytes => (key_len(PIECE_FIELD), encoded_len_varint(bytes as u64)),
    };
    let mut head = BytesMut::with_capacity(PREFIX_BYTES + rest + tag + len);
    head.put_u8(0);
    // A piece and its checksums are far below 4 GiB.
    head.put_u32((rest + tag + len + piece.len()) as u32);
    answer.encode_raw(&mut head);
    if !piece.is_empty() {
        encode_key(PIECE_FIELD, WireType::LengthDelimited, &mut head);
        encode_varint(piece.len() as u64, &mut head);
    }
    (head.freeze(), piece)
}

#[cfg(test)]
#[path = "cache_test.rs"]
mod cache_test;
