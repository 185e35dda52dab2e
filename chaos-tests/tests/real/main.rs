//! Meshes of real processes. One program, so that what it needs is built once.

#![allow(clippy::unwrap_used, reason = "a test ends with the first surprise")]

mod processes;
mod python_client;
mod region_change;
mod rolling_kill;

use std::{fmt::Write, fs, path::Path};

use tempfile::TempDir;
use tokio::sync::Mutex;

/// Of those that run many processes, one at a time.
static TURN: Mutex<()> = Mutex::const_new(());

/// Of each log, so many lines are shown when a test fails.
const LAST_LINES: usize = 12;

/// The folder is kept when something fails, so that the logs can be read.
async fn in_a_folder<T>(run: impl AsyncFnOnce(&Path) -> anyhow::Result<T>) -> T {
    let folder = tempfile::tempdir().unwrap();
    let outcome = run(folder.path()).await;
    outcome.unwrap_or_else(|error| panic!("{error:#}\n{}", kept(folder)))
}

/// Keeps the folder, and says where it is and how its logs end: where the tests run, nobody may
/// be able to look into it.
fn kept(folder: TempDir) -> String {
    let folder = folder.keep();
    let mut words = format!("logs are in {}", folder.display());
    let files = fs::read_dir(&folder).into_iter().flatten().flatten();
    let mut logs: Vec<_> = files.map(|file| file.path()).collect();
    logs.retain(|path| path.extension().is_some_and(|it| it == "log"));
    logs.sort();
    for log in logs {
        let text = fs::read(&log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        let last = &lines[lines.len().saturating_sub(LAST_LINES)..];
        let _ = write!(words, "\n-- {}\n{}", log.display(), last.join("\n"));
    }
    words
}
