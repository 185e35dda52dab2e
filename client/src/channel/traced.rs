//! The one place where a trace goes along with a call: its context is written into the
//! metadata of every call that leaves by a [`Channel`].
//!
//! Only writes: which trace is under way, and in which format it is written, is the process's
//! (OpenTelemetry's current context and global propagator). Without a trace nothing is done.

use http::{HeaderMap, HeaderName, HeaderValue};
use opentelemetry::{
    Context as TraceContext, global, propagation::Injector, trace::TraceContextExt,
};

pub(super) fn inject(headers: &mut HeaderMap) {
    TraceContext::map_current(|current| {
        if current.has_active_span() {
            global::get_text_map_propagator(|propagator| {
                propagator.inject_context(current, &mut Headers(headers));
            });
        }
    });
}

struct Headers<'a>(&'a mut HeaderMap);

impl Injector for Headers<'_> {
    /// What is no header is left out: a call does not fail for its trace.
    fn set(&mut self, key: &str, value: String) {
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(key), HeaderValue::try_from(value)) {
            self.0.insert(name, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use opentelemetry::{
        propagation::{Extractor, TextMapPropagator, text_map_propagator::FieldIter},
        trace::{SpanContext, SpanId, TraceFlags, TraceId, TraceState},
    };

    use super::*;

    #[derive(Debug)]
    struct Written;

    impl TextMapPropagator for Written {
        fn inject_context(&self, cx: &TraceContext, injector: &mut dyn Injector) {
            let id = cx.span().span_context().trace_id();
            injector.set("traceparent", id.to_string());
            injector.set("not a header", id.to_string());
        }

        fn extract_with_context(&self, cx: &TraceContext, _: &dyn Extractor) -> TraceContext {
            cx.clone()
        }

        fn fields(&self) -> FieldIter<'_> {
            FieldIter::new(&[])
        }
    }

    #[test]
    fn only_a_trace_that_is_under_way_is_written() {
        global::set_text_map_propagator(Written);
        let mut headers = HeaderMap::new();
        inject(&mut headers);
        assert!(headers.is_empty());

        let span = SpanContext::new(
            TraceId::from(7),
            SpanId::from(8),
            TraceFlags::SAMPLED,
            true,
            TraceState::default(),
        );
        let _current = TraceContext::current()
            .with_remote_span_context(span)
            .attach();
        inject(&mut headers);
        assert_eq!(headers.len(), 1);
        assert_eq!(headers["traceparent"], TraceId::from(7).to_string());
    }
}
