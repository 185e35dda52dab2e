//! Which of the servers in a process something belongs to, for its logs.

use std::sync::{Arc, OnceLock};

use tracing::{
    Span, Subscriber, error_span,
    field::{Field, Visit},
    span::{Attributes, Id},
};
use tracing_opentelemetry::OpenTelemetrySpanExt;
use tracing_subscriber::{
    Layer,
    filter::filter_fn,
    layer::{Context, Filter},
    registry::LookupSpan,
};

/// Target of the spans of servers; every log filter lets them pass.
const PLACES: &str = "kvmesh::place";

static OWN: OnceLock<Place> = OnceLock::new();

/// The span in which a server does all that it does: it puts `region` and `instance` on each
/// line that is logged in it. `instance` is such as `us-east/node-1`.
#[must_use]
pub fn place(instance: &str) -> Span {
    error_span!(target: PLACES, "server", instance)
}

/// Says of which server all lines of this process are that no other place is known of: of
/// its only one. Only the first call counts.
pub fn own_place(instance: &str) {
    let _ = OWN.set(Place::of(instance));
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

/// A server, as lines name it.
#[derive(Debug, Clone)]
pub(super) struct Place {
    pub(super) region: Arc<str>,
    pub(super) instance: Arc<str>,
}

impl Place {
    fn of(instance: &str) -> Self {
        let region = instance.split('/').next().unwrap_or_default();
        Self {
            region: region.into(),
            instance: instance.into(),
        }
    }

    /// See [`own_place`].
    pub(super) fn own() -> Option<&'static Self> {
        OWN.get()
    }
}

/// Lets the spans of servers pass, and nothing else.
pub(super) fn places<S>() -> impl Filter<S> {
    filter_fn(|meta| meta.is_span() && meta.target() == PLACES)
}

/// Keeps the [`Place`] of each server's span with it.
pub(super) struct PlaceLayer;

impl<S> Layer<S> for PlaceLayer
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, ctx: Context<'_, S>) {
        let mut named = Named(None);
        attributes.record(&mut named);
        if let (Some(place), Some(span)) = (named.0, ctx.span(id)) {
            span.extensions_mut().insert(place);
        }
    }
}

struct Named(Option<Place>);

impl Visit for Named {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "instance" {
            self.0 = Some(Place::of(value));
        }
    }

    fn record_debug(&mut self, _: &Field, _: &dyn std::fmt::Debug) {}
}
