//! What becomes of spans and events: logs on standard error, and traces where they are on.

use std::io::{self, IsTerminal};

use tracing::Subscriber;
use tracing_subscriber::{
    EnvFilter, Layer,
    filter::{FilterExt, filter_fn},
    fmt,
    layer::SubscriberExt,
    registry::LookupSpan,
    util::SubscriberInitExt,
};

use super::{SPANS, TelemetryError, Traces, place::PLACES};

/// Logs to standard error: text on a terminal, JSON otherwise. `filter` is an `EnvFilter` directive.
/// Once logs are set up in a process, further calls change nothing.
///
/// # Errors
/// When the filter cannot be read.
pub fn logs(filter: &str) -> Result<(), TelemetryError> {
    let logs = log_layer(parsed(filter)?);
    // An error only says that logs are set up already.
    let _ = tracing_subscriber::registry().with(logs).try_init();
    Ok(())
}

/// As [`logs`], and sends traces.
///
/// # Errors
/// When the filter cannot be read, or logs are set up already.
pub fn logs_and_traces(filter: &str, traces: &Traces) -> Result<(), TelemetryError> {
    let spans = tracing_opentelemetry::layer()
        .with_tracer(traces.tracer())
        .with_location(false)
        .with_threads(false)
        .with_tracked_inactivity(false)
        .with_filter(filter_fn(|meta| meta.is_span() && meta.target() == SPANS));
    tracing_subscriber::registry()
        .with(spans)
        .with(log_layer(parsed(filter)?))
        .try_init()
        .map_err(|_| TelemetryError::Installed)
}

fn parsed(filter: &str) -> Result<EnvFilter, TelemetryError> {
    EnvFilter::try_new(filter).map_err(|source| TelemetryError::Filter {
        filter: filter.to_owned(),
        source,
    })
}

fn log_layer<S>(filter: EnvFilter) -> impl Layer<S>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    let layer = fmt::layer().with_writer(io::stderr);
    let layer = match io::stderr().is_terminal() {
        true => layer.boxed(),
        false => layer.json().flatten_event(true).boxed(),
    };
    let places = filter_fn(|meta| meta.is_span() && meta.target() == PLACES);
    let logged = filter_fn(|meta| meta.target() != SPANS);
    layer.with_filter(filter.and(logged).or(places))
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
