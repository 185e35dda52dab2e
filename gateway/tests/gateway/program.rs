//! The program: settings that it takes up while it runs, and where it says they come from.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc::{self, Receiver, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

const PATIENCE: Duration = Duration::from_secs(30);

/// A gateway that runs, and the lines that it writes.
struct Program {
    child: Child,
    out: Receiver<String>,
    log: Receiver<String>,
    config: PathBuf,
    _folder: tempfile::TempDir,
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn lines(from: impl Read + Send + 'static) -> Receiver<String> {
    let (said, lines) = mpsc::sync_channel(65_536);
    thread::spawn(move || {
        for line in BufReader::new(from).lines().map_while(Result::ok) {
            if said.send(line).is_err() {
                return;
            }
        }
    });
    lines
}

/// The next line with all of these words; says which lines came before it.
fn wait_for(lines: &Receiver<String>, words: &[&str]) -> (String, Vec<String>) {
    let until = instant() + PATIENCE;
    let mut before = Vec::new();
    loop {
        match lines.recv_timeout(until.saturating_duration_since(instant())) {
            Ok(line) if words.iter().all(|word| line.contains(word)) => return (line, before),
            Ok(line) => before.push(line),
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                panic!("no line with {words:?} after {before:#?}")
            }
        }
    }
}

#[allow(
    clippy::disallowed_methods,
    reason = "bounds the wait for a real process"
)]
fn instant() -> Instant {
    Instant::now()
}

fn gateway(config: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kvmesh-gateway"));
    command.arg("--config").arg(config);
    command
}

impl Program {
    fn start(settings: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("gateway.toml");
        fs::write(&config, file(settings)).unwrap();
        let mut child = gateway(&config)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        Self {
            out: lines(child.stdout.take().unwrap()),
            log: lines(child.stderr.take().unwrap()),
            child,
            config,
            _folder: folder,
        }
    }

    fn hang_up(&self, settings: &str) {
        fs::write(&self.config, file(settings)).unwrap();
        let kill = format!("kill -HUP {}", self.child.id());
        assert!(
            Command::new("sh")
                .args(["-c", &kill])
                .status()
                .unwrap()
                .success()
        );
    }

    fn metrics(&self, address: &str) -> String {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        write!(stream, "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }
}

/// Nobody listens on port 1: the gateway goes on trying, and says so when it may.
fn file(settings: &str) -> String {
    format!(
        "listen = '127.0.0.1:0'\nmetrics_listen = '127.0.0.1:0'\nname = 'a'\n\
         nodes = ['127.0.0.1:1']\n{settings}\n"
    )
}

#[test]
fn a_hangup_changes_what_may_change_or_nothing() {
    let program = Program::start("region = 'eu'\nlog = 'info'");
    let (metrics, _) = wait_for(&program.out, &["metrics "]);
    let metrics = metrics.split(' ').nth(1).unwrap();
    let (_, quiet) = wait_for(&program.log, &["started"]);
    assert!(
        !quiet.iter().any(|line| line.contains("DEBUG")),
        "{quiet:#?}"
    );

    program.hang_up("region = 'eu'\nlog = 'debug'\nget_deadline_ms = 7");
    let (line, _) = wait_for(
        &program.log,
        &["settings reloaded", "get_deadline_ms 5000 -> 7"],
    );
    assert!(line.contains("log ") && line.contains("eu"), "{line}");
    wait_for(&program.log, &["DEBUG"]);

    for (settings, words) in [
        ("region = 'us'\nlog = 'error'", ["key region", "\\\"us\\\""]),
        (
            "region = 'eu'\nlog = 'error'\ncalls_max = 0",
            ["gateway.toml", "calls_max is 0"],
        ),
        (
            "region = 'eu'\nget_deadline_ms = 9\nlog = 'info,=,='",
            ["setting log", "info,=,="],
        ),
        (
            "region = 'eu'\nlog = 'error'\ncolour = 1",
            ["key colour", "unknown"],
        ),
        (
            "region = 'eu'\nlog = 'error'\n[templates.fast]",
            ["templates.fast", "start it again"],
        ),
    ] {
        program.hang_up(settings);
        let words = [&["settings not reloaded"], &words[..]].concat();
        wait_for(&program.log, &words);
        wait_for(&program.log, &["DEBUG"]);
    }
    // What was refused left nothing behind: the next change starts from what counted before.
    program.hang_up("region = 'eu'\nlog = 'info'\nget_deadline_ms = 8");
    wait_for(
        &program.log,
        &["settings reloaded", "get_deadline_ms 7 -> 8"],
    );
    let shown = program.metrics(metrics);
    for (outcome, count) in [("ok", 2), ("refused", 5)] {
        let line = format!("outcome=\"{outcome}\"}} {count}\n");
        let lines = shown
            .lines()
            .filter(|line| line.contains("kvmesh_settings_reloads_total"));
        let lines: String = lines.map(|line| format!("{line}\n")).collect();
        assert!(lines.contains(&line), "{lines}");
    }
}

#[test]
fn each_setting_is_shown_with_where_it_comes_from() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("gateway.toml");
    fs::write(&config, file("region = 'eu'")).unwrap();
    let said = gateway(&config)
        .args(["--set", "calls_max=9", "config", "show", "--origin"])
        .env("KVMESH_GATEWAY_PUT_DEADLINE_MS", "77")
        .output()
        .unwrap();
    let text = String::from_utf8(said.stdout).unwrap();
    assert!(said.status.success(), "{text}");
    for line in [
        format!("region = \"eu\"  # file {}", config.display()),
        "calls_max = 9  # flag --set calls_max".to_owned(),
        "put_deadline_ms = 77  # variable KVMESH_GATEWAY_PUT_DEADLINE_MS".to_owned(),
        "get_deadline_ms = 5000  # default".to_owned(),
    ] {
        assert!(
            text.lines().any(|shown| shown == line),
            "{line} is not in {text}"
        );
    }
}
