//! A region of one node in a process of its own, so that what the servers take can be told from
//! what the load takes: `meshctl dev`, run by `meshctl bench`.

use std::{fs, process::Stdio, time::Duration};

use anyhow::{Context, bail, ensure};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    process::{Child as Process, Command},
    time::timeout,
};

use crate::meters;

const READY_WITHIN: Duration = Duration::from_secs(40);
const CALL_MAX: Duration = Duration::from_secs(5);
/// What it prints once it is ready, and its metrics, have fewer bytes.
const SAID_BYTES_MAX: usize = 1 << 20;
/// Of the clock by which Linux says what a process took (`USER_HZ`).
const TICKS_PER_S: f64 = 100.0;
const KIB: u64 = 1 << 10;
/// Fields of `/proc/PID/stat` behind the program's name: time in user mode, and the kernel's.
const UTIME: usize = 11;
const STIME: usize = 12;

/// Ends when it is dropped.
pub(super) struct Child {
    _process: Process,
    pid: u32,
    pub(super) gateway: String,
    metrics: String,
}

impl Child {
    /// Starts it with so much memory for blocks, and so many threads for its tasks; none: as
    /// many as there are cores.
    pub(super) async fn start(memory: u64, workers: Option<u32>) -> anyhow::Result<Self> {
        let mut command = Command::new(std::env::current_exe().context("this program's path")?);
        command
            .args(["dev", "--regions", "1", "--nodes", "1", "-o", "json"])
            .args(["--memory", &memory.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true);
        if let Some(workers) = workers {
            // tokio's own variable.
            command.env("TOKIO_WORKER_THREADS", workers.to_string());
        }
        let mut process = command.spawn().context("a process of its own")?;
        let pid = process.id().context("it has ended at once")?;
        let said = timeout(READY_WITHIN, ready(&mut process)).await;
        let said = said.with_context(|| format!("it was not ready in {READY_WITHIN:?}"))??;
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let gateway = text(&said["regions"][0]["gateway"]).context("its gateway")?;
        let metrics = text(&said["metrics"]).context("its metrics")?;
        let metrics = metrics.trim_start_matches("http://");
        Ok(Self {
            _process: process,
            pid,
            gateway,
            metrics: metrics.trim_end_matches("/metrics").to_owned(),
        })
    }

    /// Processor time of all its threads so far, those that have ended too, seconds.
    pub(super) fn cpu_s(&self) -> anyhow::Result<f64> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid))?;
        Ok(ticks(&stat)? as f64 / TICKS_PER_S)
    }

    /// Resident bytes.
    pub(super) fn resident_bytes(&self) -> anyhow::Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid))?;
        resident(&status)
    }

    /// The sum over labels of a metric with these words in its line.
    pub(super) async fn metric(&self, name: &str, with: &str) -> anyhow::Result<f64> {
        let page = timeout(CALL_MAX, self.page())
            .await
            .context("its metrics")??;
        meters::sum(&page, name, with)
    }

    async fn page(&self) -> anyhow::Result<String> {
        let mut stream = TcpStream::connect(&self.metrics).await?;
        let request = format!("GET /metrics HTTP/1.0\r\nHost: {}\r\n\r\n", self.metrics);
        stream.write_all(request.as_bytes()).await?;
        let mut page = String::new();
        let mut stream = stream.take(SAID_BYTES_MAX as u64);
        stream.read_to_string(&mut page).await?;
        ensure!(page.contains(" 200 "), "its metrics are not to be had");
        Ok(page)
    }
}

/// What it prints is one value of JSON.
async fn ready(process: &mut Process) -> anyhow::Result<Value> {
    let out = process.stdout.as_mut().context("its output")?;
    let mut said = Vec::new();
    loop {
        let read = out.read_buf(&mut said).await?;
        if let Ok(value) = serde_json::from_slice(&said) {
            return Ok(value);
        }
        if read == 0 || said.len() > SAID_BYTES_MAX {
            bail!("it ended before it was ready");
        }
    }
}

fn ticks(stat: &str) -> anyhow::Result<u64> {
    // The name before may have spaces and brackets.
    let (_, rest) = stat.rsplit_once(") ").context("no process's stat")?;
    let fields: Vec<&str> = rest.split(' ').collect();
    let field = |at: usize| anyhow::Ok(fields.get(at).context("too few fields")?.parse::<u64>()?);
    Ok(field(UTIME)? + field(STIME)?)
}

fn resident(status: &str) -> anyhow::Result<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let words = line.context("no VmRSS")?.split_whitespace().next();
    Ok(words.context("no number")?.parse::<u64>()? * KIB)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_linux_says() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194304 9 0 0 0 120 34 5 6 20 0 9 0 100 1 2";
        assert_eq!(ticks(stat).unwrap(), 154);
        assert!(ticks("7 (a").is_err());
        let status = "Name:\ta\nVmHWM:\t  9 kB\nVmRSS:\t  2048 kB\n";
        assert_eq!(resident(status).unwrap(), 2 << 20);
    }
}
