//! Logs by `tracing`, traces by OTLP, metrics by a Prometheus endpoint.

mod endpoint;
mod limit;
mod lines;
mod place;
mod subscriber;
mod traces;

use std::{
    io,
    net::SocketAddr,
    sync::{self, OnceLock, PoisonError},
};

use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use tokio::{net::TcpListener, sync::Mutex};
use tracing_subscriber::filter::ParseError;

pub use place::{apart, own_place, place};
pub use subscriber::{change_log_filter, check_log_filter, logs, logs_and_traces};
pub use traces::{SPANS, TRACE_RATIO, TraceSettings, Traces};

/// What is logged unless settings say otherwise.
pub const LOG_FILTER: &str =
    "info,sled=warn,h2=warn,hyper=warn,tower=warn,openraft=error,tonic=warn";

/// Bounds of histogram buckets for times in seconds.
const SECONDS: [f64; 17] = [
    0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5,
    1.0, 2.5, 10.0, 60.0,
];
/// Bounds of histogram buckets for counts and sizes.
const POWERS: [f64; 10] = [
    1.0,
    4.0,
    16.0,
    64.0,
    256.0,
    4_096.0,
    65_536.0,
    1_048_576.0,
    16_777_216.0,
    268_435_456.0,
];

/// Why telemetry could not start.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The log filter cannot be read.
    #[error("log filter {filter:?} cannot be read: write it as info,h2=warn")]
    Filter {
        /// As given.
        filter: String,
        /// Why.
        source: ParseError,
    },
    /// The metrics endpoint cannot listen.
    #[error("metrics cannot be served on {listen}: choose a free address in metrics_listen")]
    Listen {
        /// As given.
        listen: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// Traces cannot be sent.
    #[error("traces cannot be sent to {endpoint}: {problem}")]
    Traces {
        /// As given.
        endpoint: String,
        /// Why.
        problem: String,
    },
    /// Spans and events of this process go elsewhere.
    #[error("logs are set up otherwise in this process")]
    Installed,
    /// Another recorder of metrics is installed in this process.
    #[error("metrics cannot be recorded")]
    Recorder(#[from] BuildError),
}

static RECORDER: OnceLock<PrometheusHandle> = OnceLock::new();
static SERVED: Mutex<Option<SocketAddr>> = Mutex::const_new(None);

/// Installs the process's metrics recorder without an endpoint: [`render`] reads it.
///
/// # Errors
/// When another recorder than ours is installed.
pub fn record() -> Result<(), TelemetryError> {
    recorder().map(|_| ())
}

fn recorder() -> Result<&'static PrometheusHandle, TelemetryError> {
    // One thread at a time: the other one finds what the first has installed.
    static INSTALLING: sync::Mutex<()> = sync::Mutex::new(());
    let _turn = INSTALLING.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(handle) = RECORDER.get() {
        return Ok(handle);
    }
    let installed = PrometheusBuilder::new()
        .set_buckets(&POWERS)?
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &SECONDS)?
        .install_recorder();
    let handle = installed.map_err(TelemetryError::Recorder)?;
    Ok(RECORDER.get_or_init(|| handle))
}

/// Installs the process's metrics recorder and serves `/metrics` on `listen`; returns the address taken.
/// A process has one recorder and one endpoint: further calls return the first address.
///
/// # Errors
/// When the address cannot be bound.
pub async fn metrics(listen: SocketAddr) -> Result<SocketAddr, TelemetryError> {
    let mut served = SERVED.lock().await;
    if let Some(address) = *served {
        return Ok(address);
    }
    let handle = recorder()?;
    let bind = async {
        let listener = TcpListener::bind(listen).await?;
        Ok((listener.local_addr()?, listener))
    };
    let (address, listener) = bind
        .await
        .map_err(|source| TelemetryError::Listen { listen, source })?;
    endpoint::spawn(listener, handle.clone());
    *served = Some(address);
    Ok(address)
}

/// The metrics of this process as the endpoint would show them; none before they are recorded.
#[must_use]
pub fn render() -> Option<String> {
    RECORDER.get().map(PrometheusHandle::render)
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn metrics_are_served_once_per_process() {
        let listen = SocketAddr::from(([127, 0, 0, 1], 0));
        let address = metrics(listen).await.unwrap();
        assert_eq!(metrics(listen).await.unwrap(), address);
        metrics::counter!("kvmesh_test_total", "instance" => "a").increment(3);
        metrics::histogram!("kvmesh_test_seconds").record(0.002);

        let ask = async |line: &str| {
            let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
            let request = format!("{line}\r\nHost: x\r\n\r\n");
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            answer
        };
        let answer = ask("GET /metrics HTTP/1.1").await;
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        assert!(answer.contains("kvmesh_test_total{instance=\"a\"} 3"));
        assert!(answer.contains("kvmesh_test_seconds_bucket{le=\"0.0025\"} 1"));
        assert!(ask("GET /else HTTP/1.1").await.contains(" 404 "));
        assert!(ask("POST /metrics HTTP/1.1").await.contains(" 405 "));
        assert!(render().unwrap().contains("kvmesh_test_total"));
    }
}
