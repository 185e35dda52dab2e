//! How another terminal changes the links of a running `meshctl dev`: one line of JSON to a
//! Unix socket, one line back. For its own user only.

use std::{
    fs::{self, Permissions},
    io,
    os::unix::{fs::PermissionsExt, net::UnixStream as StdStream},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{UnixListener, UnixStream},
    time::timeout,
};

use super::link::{LinkState, Links};
use crate::exit;

/// A line takes no longer.
const PATIENCE: Duration = Duration::from_secs(5);
/// A line has at most so many bytes.
const LINE_BYTES_MAX: u64 = 64 << 10;
/// Beginning and end of a socket's name.
const NAME: (&str, &str) = ("kvmesh-dev-", ".sock");

/// What is to change; nothing: only tell.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Change {
    /// The two regions.
    pub between: Option<[String; 2]>,
    /// Round trip.
    pub rtt_ms: Option<f64>,
    /// Bytes a second in each direction; 0: not limited.
    pub bandwidth: Option<u64>,
    /// Whether it carries anything.
    pub up: Option<bool>,
}

/// How the links are now, or why nothing was changed.
#[derive(Debug, Serialize, Deserialize)]
enum Answer {
    Links(Vec<LinkState>),
    Refused(String),
}

/// The socket of a running mesh; its file goes when it is dropped.
pub(super) struct Control {
    listener: UnixListener,
    pub(super) path: PathBuf,
}

impl Control {
    /// Listens at a path, or at one of its own among temporary files.
    pub(super) fn bind(path: Option<&Path>) -> anyhow::Result<Self> {
        let path = match path {
            Some(path) => path.to_owned(),
            None => {
                let name = format!("{}{}{}", NAME.0, std::process::id(), NAME.1);
                std::env::temp_dir().join(name)
            }
        };
        // What a mesh that was killed has left is in the way.
        if path.exists() && StdStream::connect(&path).is_err() {
            let _ = fs::remove_file(&path);
        }
        let bind = || {
            let listener = UnixListener::bind(&path)?;
            fs::set_permissions(&path, Permissions::from_mode(0o600))?;
            io::Result::Ok(listener)
        };
        let listener = bind().map_err(|error| {
            let path = path.display();
            exit::set_up(format!("--control {path} cannot be listened on: {error}"))
        })?;
        Ok(Self { listener, path })
    }

    /// Answers one caller after the other, until dropped.
    pub(super) async fn serve(&self, links: &Links) {
        loop {
            let served = async {
                let (stream, _) = self.listener.accept().await?;
                timeout(PATIENCE, answer(stream, links)).await?
            };
            let served: anyhow::Result<()> = served.await;
            if let Err(error) = served {
                tracing::debug!(%error, "a change of links failed");
            }
        }
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

async fn answer(mut stream: UnixStream, links: &Links) -> anyhow::Result<()> {
    let answer = match read::<Change>(&mut stream).await {
        Ok(change) => match links.change(&change) {
            Ok(()) => Answer::Links(links.states()),
            Err(why) => Answer::Refused(why),
        },
        Err(error) => Answer::Refused(error.to_string()),
    };
    write(&mut stream, &answer).await
}

/// Asks the mesh at a path, or the only one that runs here.
pub(super) async fn ask(path: Option<&Path>, change: &Change) -> anyhow::Result<Vec<LinkState>> {
    let path = match path {
        Some(path) => path.to_owned(),
        None => only_one(&std::env::temp_dir())?,
    };
    let asked = async {
        let mut stream = UnixStream::connect(&path).await?;
        write(&mut stream, change).await?;
        read(&mut stream).await
    };
    let answer = timeout(PATIENCE, asked).await;
    let answer = answer.unwrap_or_else(|_| Err(anyhow::anyhow!("it does not answer")));
    match answer.map_err(|error| exit::set_up(format!("mesh at {}: {error}", path.display())))? {
        Answer::Links(links) => Ok(links),
        Answer::Refused(why) => Err(exit::set_up(why)),
    }
}

/// The socket of the one mesh that runs.
fn only_one(dir: &Path) -> anyhow::Result<PathBuf> {
    let entries = fs::read_dir(dir).with_context(|| format!("looking into {}", dir.display()))?;
    let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    let is_socket = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with(NAME.0) && name.ends_with(NAME.1) && StdStream::connect(path).is_ok()
    };
    let mut living: Vec<PathBuf> = paths.filter(is_socket).collect();
    match (living.pop(), living.len()) {
        (Some(path), 0) => Ok(path),
        (None, _) => Err(exit::set_up(
            "no mesh runs here: start one with `meshctl dev`, or name its --control",
        )),
        (Some(path), _) => {
            living.push(path);
            let paths: Vec<_> = living
                .iter()
                .map(|path| path.display().to_string())
                .collect();
            let paths = paths.join(", ");
            Err(exit::set_up(format!(
                "several meshes run here: name --control, one of {paths}"
            )))
        }
    }
}

async fn read<T: DeserializeOwned>(stream: &mut UnixStream) -> anyhow::Result<T> {
    let mut line = String::new();
    BufReader::new(stream.take(LINE_BYTES_MAX))
        .read_line(&mut line)
        .await?;
    serde_json::from_str(&line).context("it is not what this version understands")
}

async fn write(stream: &mut UnixStream, what: &impl Serialize) -> anyhow::Result<()> {
    let line = serde_json::to_string(what)? + "\n";
    stream.write_all(line.as_bytes()).await?;
    Ok(())
}
