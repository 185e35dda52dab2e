//! Which of the servers in a process something belongs to, for its logs.

use tracing::{Span, error_span};
use tracing_opentelemetry::OpenTelemetrySpanExt;

/// Target of the spans of servers; every log filter lets them pass.
pub(super) const PLACES: &str = "kvmesh::place";

/// The span in which a server does all that it does: it puts `region` and `instance` on each
/// line that is logged in it. `instance` is such as `us-east/node-1`.
#[must_use]
pub fn place(instance: &str) -> Span {
    let region = instance.split('/').next();
    error_span!(target: PLACES, "server", region, instance)
}

/// Makes a span that has a server's for its parent part of the trace that is under way here,
/// without keeping the spans of that trace open: for what goes on when the call has ended.
#[must_use]
pub fn apart(span: Span) -> Span {
    if !span.is_disabled() {
        // It cannot fail: the span was not entered yet.
        let _ = span.set_parent(Span::current().context());
    }
    span
}
