//! `Cache` and `Replication` as every server offers them: tonic's, but for the calls that
//! carry pieces of blocks, which are read and written by [`kvmesh_client::bulk`].

use std::{
    convert::Infallible,
    future::Future,
    sync::Arc,
    task::{Context, Poll},
};

use futures::{FutureExt, Stream, future::BoxFuture};
use http::header::CONTENT_TYPE;
use kvmesh_client::bulk::{self, Bulk, BulkBody};
use kvmesh_directory::limits::MESSAGE_BYTES_MAX;
use kvmesh_proto::v1::{
    CopyRequest, GetRequest, PutRequest,
    cache_server::{Cache, CacheServer},
    replication_server::{Replication, ReplicationServer},
};
use prost::Message;
use tonic::{
    Request, Response, Status, Streaming,
    body::Body,
    metadata::{GRPC_CONTENT_TYPE, MetadataMap},
    server::NamedService,
};
use tower::Service;

const ENCODING: &str = "grpc-encoding";

/// `Cache`; see the module.
pub struct CacheService<T> {
    cache: Arc<T>,
    others: CacheServer<T>,
}

/// `Replication`; see the module.
pub struct ReplicationService<T> {
    replication: Arc<T>,
    others: ReplicationServer<T>,
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

impl<T: Replication> ReplicationService<T> {
    /// Over the methods of a service.
    pub fn new(replication: T) -> Self {
        let replication = Arc::new(replication);
        let others = ReplicationServer::from_arc(Arc::clone(&replication))
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX);
        Self {
            replication,
            others,
        }
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

impl<T> Clone for ReplicationService<T> {
    fn clone(&self) -> Self {
        Self {
            replication: Arc::clone(&self.replication),
            others: self.others.clone(),
        }
    }
}

impl<T: Cache> NamedService for CacheService<T> {
    const NAME: &'static str = <CacheServer<T> as NamedService>::NAME;
}

impl<T: Replication> NamedService for ReplicationService<T> {
    const NAME: &'static str = <ReplicationServer<T> as NamedService>::NAME;
}

impl<T: Cache> Service<http::Request<Body>> for CacheService<T> {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Service::<http::Request<Body>>::poll_ready(&mut self.others, cx)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let cache = Arc::clone(&self.cache);
        match request.uri().path() {
            bulk::GET => answered(
                request,
                move |request: Request<Streaming<GetRequest>>| async move {
                    cache.get(only(request).await?).await
                },
            ),
            bulk::PUT => answered(
                request,
                move |request: Request<Streaming<PutRequest>>| async move { cache.put(request).await },
            ),
            _ => self.others.call(request).boxed(),
        }
    }
}

impl<T: Replication> Service<http::Request<Body>> for ReplicationService<T> {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Service::<http::Request<Body>>::poll_ready(&mut self.others, cx)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        if request.uri().path() != bulk::COPY {
            return self.others.call(request).boxed();
        }
        let replication = Arc::clone(&self.replication);
        answered(
            request,
            move |request: Request<Streaming<CopyRequest>>| async move {
                replication.copy(request).await
            },
        )
    }
}

/// The only message of a call.
async fn only<M>(request: Request<Streaming<M>>) -> Result<Request<M>, Status> {
    let (metadata, extensions, mut messages) = request.into_parts();
    match messages.message().await? {
        Some(message) => Ok(Request::from_parts(metadata, extensions, message)),
        None => Err(Status::internal("the call has no message")),
    }
}

/// Calls a method of a service.
fn answered<M, A, S, F, W>(
    request: http::Request<Body>,
    method: F,
) -> BoxFuture<'static, Result<http::Response<Body>, Infallible>>
where
    M: Message + Default + 'static,
    A: Bulk,
    S: Stream<Item = Result<A, Status>> + Send + 'static,
    F: FnOnce(Request<Streaming<M>>) -> W + Send + 'static,
    W: Future<Output = Result<Response<S>, Status>> + Send + 'static,
{
    async move {
        let answer = match read(request) {
            Ok(request) => method(request).await,
            Err(status) => Err(status),
        };
        Ok(answer.map_or_else(Status::into_http, written))
    }
    .boxed()
}

fn read<M: Message + Default + 'static>(
    request: http::Request<Body>,
) -> Result<Request<Streaming<M>>, Status> {
    let (parts, body) = request.into_parts();
    if let Some(encoding) = parts.headers.get(ENCODING)
        && encoding != "identity"
    {
        let what = format!("messages in {encoding:?} are not read: send them uncompressed");
        return Err(Status::unimplemented(what));
    }
    let metadata = MetadataMap::from_headers(parts.headers);
    let messages = bulk::read_requests(body);
    Ok(Request::from_parts(metadata, parts.extensions, messages))
}

fn written<A: Bulk>(
    answer: Response<impl Stream<Item = Result<A, Status>> + Send + 'static>,
) -> http::Response<Body> {
    let (metadata, answers, extensions) = answer.into_parts();
    let mut response = http::Response::new(Body::new(BulkBody::answers(answers)));
    *response.headers_mut() = metadata.into_headers();
    *response.extensions_mut() = extensions;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, GRPC_CONTENT_TYPE);
    response
}
