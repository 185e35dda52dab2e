//! Each call that a server answers, from its metadata to its trailers: it is counted and
//! timed, and runs in a span.
//!
//! A call that comes with a trace goes on with it. One without begins a trace only where
//! clients and operators call; what processes say to one another all the time begins none.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use http::{HeaderMap, Request};
use http_body::{Frame, SizeHint};
use kvmesh_client::channel::Link;
use opentelemetry::{global, propagation::Extractor};
use tokio::time::Instant;
use tonic::{Code, Status, body::Body, codegen::Bytes};
use tracing::{Span, field::Empty, info_span};
use tracing_opentelemetry::OpenTelemetrySpanExt;

use super::meters::{Meters, Method};
use crate::{Environment, telemetry::SPANS};

/// W3C's header: who calls with it has a trace.
const TRACEPARENT: &str = "traceparent";
/// Services whose calls begin a trace where none is under way.
const BEGINNERS: [&str; 2] = ["kvmesh.v1.Cache", "kvmesh.v1.Topology"];

/// A server's calls, each in its span.
#[derive(Debug)]
pub(super) struct Calls {
    own: Span,
    instance: Arc<str>,
    meters: Meters,
}

impl Calls {
    pub(super) fn new(environment: &Environment) -> Self {
        Self {
            own: environment.span.clone(),
            instance: Arc::clone(&environment.instance),
            meters: Meters::new(&environment.instance),
        }
    }

    pub(super) fn begin(&self, request: &Request<Body>) -> Call {
        let span = self.span(request).filter(|span| !span.is_disabled());
        let traced = span.is_some();
        let span = span.unwrap_or_else(|| self.own.clone());
        Call {
            span,
            traced,
            method: Arc::clone(self.meters.of(request.uri().path())),
            began: Instant::now(),
            over: false,
        }
    }

    /// A span for the call, unless it is not to be traced.
    fn span(&self, request: &Request<Body>) -> Option<Span> {
        let path = request.uri().path().strip_prefix('/')?;
        let (service, method) = path.split_once('/')?;
        let comes_with = request.headers().contains_key(TRACEPARENT);
        if !comes_with && !BEGINNERS.contains(&service) {
            return None;
        }
        let instance = &*self.instance;
        let span = self.own.in_scope(|| {
            info_span!(
                target: SPANS,
                "call",
                otel.name = path,
                otel.kind = "server",
                otel.status_code = Empty,
                rpc.system = "grpc",
                rpc.service = service,
                rpc.method = method,
                rpc.grpc.status_code = Empty,
                kvmesh.region = instance.split('/').next(),
                kvmesh.instance = instance,
                kvmesh.peer = Empty,
            )
        });
        if !span.is_disabled() {
            let parent = global::get_text_map_propagator(|propagator| {
                propagator.extract(&Headers(request.headers()))
            });
            // It cannot fail: the span was not entered yet.
            let _ = span.set_parent(parent);
            if let Some(Some(link)) = request.extensions().get::<Option<Link>>() {
                span.record("kvmesh.peer", tracing::field::display(&link.peer));
            }
        }
        Some(span)
    }
}

/// One call until it ends; one that is dropped before was given up by its caller.
#[derive(Debug)]
pub(super) struct Call {
    span: Span,
    /// Whether the span is the call's own.
    traced: bool,
    method: Arc<Method>,
    began: Instant,
    over: bool,
}

impl Call {
    pub(super) fn in_span<T>(&self, what: impl FnOnce() -> T) -> T {
        self.span.in_scope(what)
    }

    /// Looks for the call's status, which ends it.
    pub(super) fn see(&mut self, metadata: &HeaderMap) {
        if let Some(status) = Status::from_header_map(metadata) {
            self.end(status.code());
        }
    }

    fn end(&mut self, code: Code) {
        if std::mem::replace(&mut self.over, true) {
            return;
        }
        self.method.ended(code, self.began.elapsed());
        if !self.traced {
            return;
        }
        self.span.record("rpc.grpc.status_code", code as i64);
        let ours = matches!(
            code,
            Code::Unknown
                | Code::DeadlineExceeded
                | Code::Unimplemented
                | Code::Internal
                | Code::Unavailable
                | Code::DataLoss
        );
        if ours {
            self.span.record("otel.status_code", "ERROR");
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.end(Code::Cancelled);
    }
}

/// An answer's body, whose trailers end the call.
pub(super) struct Answer {
    body: Body,
    call: Call,
}

impl Answer {
    pub(super) fn new(body: Body, call: Call) -> Self {
        Self { body, call }
    }
}

impl http_body::Body for Answer {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let Self { body, call } = &mut *self;
        let polled = call.span.in_scope(|| Pin::new(body).poll_frame(cx));
        match &polled {
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(trailers) = frame.trailers_ref() {
                    call.see(trailers);
                }
            }
            Poll::Ready(Some(Err(status))) => call.end(status.code()),
            Poll::Ready(None) | Poll::Pending => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

struct Headers<'a>(&'a HeaderMap);

impl Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key)?.to_str().ok()
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(http::HeaderName::as_str).collect()
    }
}
