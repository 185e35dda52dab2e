//! `/metrics` over HTTP/1.1, one short answer per connection.
//!
//! Of our own because the exporter's listener cannot say which port it took.

use std::{io, sync::Arc, time::Duration};

use metrics_exporter_prometheus::PrometheusHandle;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::{interval, sleep, timeout},
};
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

const REQUEST_BYTES_MAX: usize = 8 << 10;
const SCRAPES_MAX: usize = 16;
const SCRAPE_TIME_MAX: Duration = Duration::from_secs(10);
/// Histograms are folded this often, so that they stay small when nobody scrapes.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(5);
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Answers scrapes until the runtime ends.
#[allow(
    clippy::disallowed_methods,
    reason = "the recorder is the process's and so is its endpoint: it may be scraped to the very end"
)]
pub(super) fn spawn(listener: TcpListener, handle: PrometheusHandle) {
    tokio::spawn(run(listener, handle));
}

async fn run(listener: TcpListener, handle: PrometheusHandle) {
    let (tasks, room) = (TaskTracker::new(), Arc::new(Semaphore::new(SCRAPES_MAX)));
    let mut upkeep = interval(UPKEEP_INTERVAL);
    loop {
        tokio::select! {
            _ = upkeep.tick() => handle.run_upkeep(),
            accepted = listener.accept() => match accepted {
                Err(error) => {
                    warn!(%error, "a scrape could not be accepted");
                    sleep(ACCEPT_PAUSE).await;
                }
                // Over the bound the connection is closed at once.
                Ok((stream, _)) => if let Ok(permit) = Arc::clone(&room).try_acquire_owned() {
                    let handle = handle.clone();
                    tasks.spawn(async move {
                        if !matches!(timeout(SCRAPE_TIME_MAX, answer(stream, &handle)).await, Ok(Ok(()))) {
                            debug!("a scrape was not answered");
                        }
                        drop(permit);
                    });
                },
            },
        }
    }
}

async fn answer(mut stream: TcpStream, handle: &PrometheusHandle) -> io::Result<()> {
    let mut request = Vec::new();
    while !request.windows(4).any(|end| end == b"\r\n\r\n") {
        if request.len() > REQUEST_BYTES_MAX || stream.read_buf(&mut request).await? == 0 {
            return Err(io::ErrorKind::InvalidData.into());
        }
    }
    let line = String::from_utf8_lossy(&request);
    let mut words = line.split_ascii_whitespace();
    let (status, body) = match (words.next(), words.next()) {
        (Some("GET"), Some(path)) if path.split('?').next() == Some("/metrics") => {
            ("200 OK", handle.render())
        }
        (Some("GET"), _) => ("404 Not Found", "ask for /metrics\n".to_owned()),
        _ => ("405 Method Not Allowed", "only GET\n".to_owned()),
    };
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(body.as_bytes()).await?;
    stream.shutdown().await
}
