//! Traces by OTLP: spans of target [`SPANS`] go to a collector, in batches, from a bounded queue.
//!
//! Invariants: no call waits for the collector, what finds no room in the queue is not traced
//! and counted;
//! a collector that cannot be reached is logged once, and once more when it is back. Without
//! a collector no span of that target exists.
//!
//! Not here: where a call's trace comes from (`server::calls`), and how it goes on to other
//! processes (`kvmesh_client::channel`).

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use metrics::{Counter, counter};
use opentelemetry::{Context, KeyValue, global, trace::TracerProvider};
use opentelemetry_otlp::{SpanExporter as Otlp, WithExportConfig};
use opentelemetry_sdk::{
    Resource,
    error::OTelSdkResult,
    propagation::TraceContextPropagator,
    trace::{
        BatchConfigBuilder, BatchSpanProcessor, Sampler, SdkTracer, SdkTracerProvider, Span,
        SpanData, SpanExporter, SpanProcessor,
    },
};
use tracing::{info, warn};

use super::TelemetryError;
use crate::settings::Impossible;

/// Target of the spans that are exported; logs do not show them.
pub const SPANS: &str = "kvmesh::trace";
/// Share of calls that begin a trace unless settings say otherwise.
pub const TRACE_RATIO: f64 = 0.01;
/// Spans that have ended and wait to be sent; further ones are not traced.
const QUEUE_SPANS_MAX: usize = 4_096;
/// Spans sent at once.
const BATCH_SPANS_MAX: usize = 512;
/// Spans wait at most so long for others to be sent with.
const BATCH_DELAY: Duration = Duration::from_secs(1);
/// A collector that has not taken a batch by then does not get it.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(5);
/// What is queued at shutdown is sent in this time or not at all.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(3);

const _: () = assert!(BATCH_SPANS_MAX <= QUEUE_SPANS_MAX);

/// Where a process sends which traces.
#[derive(Debug, Clone, PartialEq)]
pub struct TraceSettings {
    /// Of the collector's OTLP over gRPC, such as `http://127.0.0.1:4317`; empty: nowhere.
    pub endpoint: String,
    /// Share of the calls without a trace for which one is begun, 0 to 1. Who calls with a
    /// trace has decided already.
    pub ratio: f64,
}

impl TraceSettings {
    /// `host:port` of the collector, or nothing.
    #[must_use]
    pub fn authority(&self) -> &str {
        self.endpoint.strip_prefix("http://").unwrap_or_default()
    }

    /// Whether they can be, under the keys `otlp_endpoint` and `trace_ratio`.
    ///
    /// # Errors
    /// Names the key.
    pub fn check(&self) -> Result<(), Impossible> {
        if !(0.0..=1.0).contains(&self.ratio) {
            let want = "the share of calls to be traced, 0 to 1";
            return Err(Impossible::new("trace_ratio", self.ratio, want));
        }
        let possible = self
            .authority()
            .parse::<http::uri::Authority>()
            .is_ok_and(|authority| authority.port_u16().is_some());
        if self.endpoint.is_empty() || possible {
            return Ok(());
        }
        let want = "write it as http://host:port of a collector that takes OTLP over gRPC, or \
                    leave it empty; TLS to collectors is not built: run one on this host";
        let got = format!("{:?}", self.endpoint);
        Err(Impossible::new("otlp_endpoint", got, want))
    }
}

/// The traces of this process, until it ends.
#[derive(Debug)]
pub struct Traces {
    provider: SdkTracerProvider,
}

impl Traces {
    /// Connects to a collector when the first spans are sent. `program` is the service's name,
    /// `instance` this process's among those. Must be called inside a runtime, which sends.
    ///
    /// # Errors
    /// When the endpoint is impossible.
    pub fn start(
        settings: &TraceSettings,
        program: &str,
        instance: &str,
    ) -> Result<Self, TelemetryError> {
        let exporter = Otlp::builder()
            .with_tonic()
            .with_endpoint(&settings.endpoint)
            .with_timeout(EXPORT_TIMEOUT)
            .build()
            .map_err(|error| TelemetryError::Traces {
                endpoint: settings.endpoint.clone(),
                problem: error.to_string(),
            })?;
        let queued = Arc::default();
        let watched = Watched {
            queued: Arc::clone(&queued),
            exporter,
            endpoint: settings.endpoint.clone(),
            instance: instance.to_owned(),
            failing: AtomicBool::new(false),
        };
        let batches = BatchConfigBuilder::default()
            .with_max_queue_size(QUEUE_SPANS_MAX)
            .with_max_export_batch_size(BATCH_SPANS_MAX)
            .with_scheduled_delay(BATCH_DELAY)
            .build();
        let processor = BatchSpanProcessor::builder(watched).with_batch_config(batches);
        let processor = Bounded {
            batches: processor.build(),
            queued,
            dropped: spans_counter(instance, "dropped"),
        };
        let root = Sampler::TraceIdRatioBased(settings.ratio);
        let provider = SdkTracerProvider::builder()
            .with_span_processor(processor)
            .with_sampler(Sampler::ParentBased(Box::new(root)))
            .with_resource(resource(program, instance))
            .build();
        global::set_text_map_propagator(TraceContextPropagator::new());
        Ok(Self { provider })
    }

    pub(super) fn tracer(&self) -> SdkTracer {
        self.provider.tracer("kvmesh")
    }

    /// Sends what is queued, for at most three seconds; spans that end later are lost.
    pub async fn flush(self) {
        let shutdown = move || self.provider.shutdown_with_timeout(FLUSH_TIMEOUT);
        match tokio::task::spawn_blocking(shutdown).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => warn!(%error, "some traces were not sent"),
            Err(error) => warn!(%error, "traces were not sent"),
        }
    }
}

fn resource(program: &str, instance: &str) -> Resource {
    let region = instance.split('/').next().unwrap_or_default();
    Resource::builder_empty()
        .with_attributes([
            KeyValue::new("service.namespace", "kvmesh"),
            KeyValue::new("service.name", format!("kvmesh-{program}")),
            KeyValue::new("service.instance.id", instance.to_owned()),
            KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
            KeyValue::new("kvmesh.region", region.to_owned()),
        ])
        .build()
}

fn spans_counter(instance: &str, outcome: &'static str) -> Counter {
    counter!("kvmesh_trace_spans_total", "instance" => instance.to_owned(), "outcome" => outcome)
}

/// Drops and counts spans while too many wait: the batches would drop them, and not say so.
#[derive(Debug)]
struct Bounded {
    batches: BatchSpanProcessor,
    /// Spans that wait or are being sent.
    queued: Arc<AtomicUsize>,
    dropped: Counter,
}

impl SpanProcessor for Bounded {
    fn on_start(&self, span: &mut Span, context: &Context) {
        self.batches.on_start(span, context);
    }

    fn on_end(&self, span: SpanData) {
        // Those that are not sampled never wait.
        if !span.span_context.is_sampled() {
            return;
        }
        if self.queued.fetch_add(1, Ordering::Relaxed) >= QUEUE_SPANS_MAX {
            self.queued.fetch_sub(1, Ordering::Relaxed);
            self.dropped.increment(1);
            return;
        }
        self.batches.on_end(span);
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.batches.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.batches.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.batches.set_resource(resource);
    }
}

/// Counts what was sent, and says when the collector is lost and found.
#[derive(Debug)]
struct Watched {
    queued: Arc<AtomicUsize>,
    exporter: Otlp,
    endpoint: String,
    instance: String,
    failing: AtomicBool,
}

impl SpanExporter for Watched {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let batch_spans = batch.len();
        let sent = self.exporter.export(batch).await;
        self.queued.fetch_sub(batch_spans, Ordering::Relaxed);
        let outcome = if sent.is_ok() { "sent" } else { "failed" };
        spans_counter(&self.instance, outcome).increment(batch_spans as u64);
        let endpoint = &self.endpoint;
        let failed_before = self.failing.swap(sent.is_err(), Ordering::Relaxed);
        match &sent {
            Err(error) if !failed_before => {
                warn!(endpoint, %error, "traces cannot be sent: they are lost until the collector takes them again");
            }
            Ok(()) if failed_before => info!(endpoint, "traces are sent again"),
            Ok(()) | Err(_) => {}
        }
        sent
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_a_plain_address_and_a_ratio_a_share() {
        let key = |endpoint: &str, ratio| {
            let endpoint = endpoint.to_owned();
            let checked = TraceSettings { endpoint, ratio }.check();
            checked.map_err(|impossible| impossible.key)
        };
        assert_eq!(key("", 1.0), Ok(()));
        assert_eq!(key("http://127.0.0.1:4317", 0.0), Ok(()));
        assert_eq!(key("http://collector:4317", 0.01), Ok(()));
        for bad in [
            "collector:4317",
            "https://c:4317",
            "http://c",
            "http://c:4317/x",
            "http://",
        ] {
            assert_eq!(key(bad, 1.0), Err("otlp_endpoint".to_owned()), "{bad}");
        }
        for bad in [-0.1, 1.1, f64::NAN] {
            assert_eq!(key("", bad), Err("trace_ratio".to_owned()), "{bad}");
        }
    }
}
