//! Reads a process's Prometheus metrics.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

const BOUND: Duration = Duration::from_secs(2);
const BYTES_MAX: u64 = 8 << 20;

/// The values of a metric, one per set of labels.
pub(crate) async fn metric(address: &str, name: &str) -> Result<Vec<f64>> {
    let page = timeout(BOUND, page(address)).await;
    let page = page.with_context(|| format!("{address} did not answer in {BOUND:?}"))??;
    values(&page, name)
}

async fn page(address: &str) -> Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET /metrics HTTP/1.0\r\nHost: {address}\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut page = String::new();
    stream.take(BYTES_MAX).read_to_string(&mut page).await?;
    ensure!(page.contains(" 200 "), "{address} refused its metrics");
    Ok(page)
}

fn values(page: &str, name: &str) -> Result<Vec<f64>> {
    let of_metric = |line: &&str| {
        let rest = line.strip_prefix(name);
        rest.is_some_and(|rest| rest.starts_with(['{', ' ']))
    };
    let lines = page.lines().filter(of_metric);
    let value = |line: &str| Ok(line.rsplit(' ').next().unwrap_or_default().parse()?);
    lines.map(value).collect()
}

#[cfg(test)]
mod tests {
    use super::values;

    #[test]
    fn a_metric_is_found_by_its_whole_name() {
        let page = "# TYPE a gauge\na{instance=\"x 1\"} 3\na{instance=\"y\"} 4.5\na_b 7\nab 1\n";
        assert_eq!(values(page, "a").unwrap(), [3.0, 4.5]);
        assert_eq!(values(page, "a_b").unwrap(), [7.0]);
        assert_eq!(values(page, "c").unwrap(), [0.0; 0]);
    }
}
