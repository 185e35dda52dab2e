//! What becomes of spans and events: logs on standard error, and traces where they are on.

use std::{
    error::Error,
    io::{self, IsTerminal},
    sync::OnceLock,
};

use opentelemetry_sdk::trace::SdkTracer;
use tracing_subscriber::{
    EnvFilter, Layer, Registry,
    filter::{FilterExt, filter_fn},
    fmt::{self, MakeWriter},
    layer::{Filter, SubscriberExt},
    reload,
    util::SubscriberInitExt,
};

use super::{
    SPANS, TelemetryError, Traces,
    lines::Lines,
    place::{PlaceLayer, places},
};
use crate::settings::Impossible;

/// The filter of this process's logs, to be changed.
static FILTER: OnceLock<reload::Handle<EnvFilter, Registry>> = OnceLock::new();

/// Logs to standard error: text on a terminal, JSON otherwise. `filter` is an `EnvFilter` directive.
/// Once logs are set up in a process, further calls change nothing.
///
/// # Errors
/// When the filter cannot be read.
pub fn logs(filter: &str) -> Result<(), TelemetryError> {
    // An error only says that logs are set up already.
    let _ = install(parsed(filter)?, None);
    Ok(())
}

/// As [`logs`], and sends traces.
///
/// # Errors
/// When the filter cannot be read, or logs are set up already.
pub fn logs_and_traces(filter: &str, traces: &Traces) -> Result<(), TelemetryError> {
    install(parsed(filter)?, Some(traces.tracer()))
}

/// Whether a filter can be, under the key `log`.
///
/// # Errors
/// When it cannot be read.
pub fn check_log_filter(filter: &str) -> Result<(), Impossible> {
    parsed(filter)
        .map(|_| ())
        .map_err(|error| unreadable(filter, &error))
}

/// Changes what is logged from now on. Nothing, where others set up the logs.
///
/// # Errors
/// When the filter cannot be read; nothing changes then.
pub fn change_log_filter(filter: &str) -> Result<(), Impossible> {
    let parsed = parsed(filter).map_err(|error| unreadable(filter, &error))?;
    if let Some(handle) = FILTER.get() {
        // An error only says that the subscriber is gone, and with it the logs.
        let _ = handle.reload(parsed);
    }
    Ok(())
}

fn unreadable(filter: &str, error: &TelemetryError) -> Impossible {
    let why = error.source().map_or_else(String::new, ToString::to_string);
    let want = format!("write it as info,h2=warn: {why}");
    Impossible::new("log", format!("{filter:?}"), want)
}

fn install(filter: EnvFilter, tracer: Option<SdkTracer>) -> Result<(), TelemetryError> {
    let (filter, handle) = reload::Layer::new(filter);
    let json = !io::stderr().is_terminal();
    let mut layers = log_layers(filter, json, io::stderr);
    layers.extend(tracer.map(span_layer));
    tracing_subscriber::registry()
        .with(layers)
        .try_init()
        .map_err(|_| TelemetryError::Installed)?;
    // Nobody else has set it: the subscriber is installed once.
    let _ = FILTER.set(handle);
    Ok(())
}

pub(super) fn parsed(filter: &str) -> Result<EnvFilter, TelemetryError> {
    EnvFilter::try_new(filter).map_err(|source| TelemetryError::Filter {
        filter: filter.to_owned(),
        source,
    })
}

pub(super) type BoxedLayer = Box<dyn Layer<Registry> + Send + Sync>;

/// Exports spans of traces, and sees nothing else.
pub(super) fn span_layer(tracer: SdkTracer) -> BoxedLayer {
    tracing_opentelemetry::layer()
        .with_tracer(tracer)
        .with_location(false)
        .with_threads(false)
        .with_tracked_inactivity(false)
        .with_filter(filter_fn(|meta| meta.is_span() && meta.target() == SPANS))
        .boxed()
}

/// Writes lines, and knows of which server they are.
pub(super) fn log_layers(
    filter: impl Filter<Registry> + Send + Sync + 'static,
    json: bool,
    out: impl for<'a> MakeWriter<'a> + Send + Sync + 'static,
) -> Vec<BoxedLayer> {
    let lines = fmt::layer()
        .with_ansi(!json)
        .with_writer(out)
        .event_format(Lines::new(json));
    let logged = filter_fn(|meta| meta.target() != SPANS);
    vec![
        PlaceLayer.with_filter(places()).boxed(),
        lines.with_filter(filter.and(logged).or(places())).boxed(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_that_cannot_be_read_is_refused() {
        let error = logs("info,=,=").unwrap_err();
        assert!(error.to_string().contains("info,=,="));
        parsed(super::super::LOG_FILTER).unwrap();
    }
}
