//! The program `meshctl`, run as an operator runs it.

use std::{path::PathBuf, process::Stdio, time::Duration};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tokio::{process::Command, time::timeout};

/// Of one run; a leave waits until blocks have moved.
const BOUND: Duration = Duration::from_secs(180);

/// See the module.
pub(crate) struct Operator {
    pub(crate) program: PathBuf,
    /// Flags of who calls; none: everything is in plaintext.
    pub(crate) tls: Vec<String>,
}

/// What a run came to.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Operator {
    /// Of a mesh without certificates.
    pub(crate) fn plain(program: PathBuf) -> Self {
        let tls = Vec::new();
        Self { program, tls }
    }

    /// Runs it with these arguments.
    pub(crate) async fn run(&self, args: &[&str]) -> Result<Ran> {
        let said = args.join(" ");
        let running = Command::new(&self.program)
            .args(&self.tls)
            .args(args)
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output();
        let output = timeout(BOUND, running).await;
        let output = output.with_context(|| format!("meshctl {said} takes over {BOUND:?}"))??;
        let code = output.status.code();
        Ok(Ran {
            code: code.with_context(|| format!("meshctl {said} was killed"))?,
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }

    /// Runs it, wants it to go well, and reads the JSON that it prints.
    pub(crate) async fn json(&self, args: &[&str]) -> Result<Value> {
        let ran = self.run(&[args, &["-o", "json"]].concat()).await?;
        let said = args.join(" ");
        ensure!(ran.code == 0, "meshctl {said}: {ran:?}");
        let read = serde_json::from_str(&ran.out);
        read.with_context(|| format!("meshctl {said} printed {}", ran.out))
    }

    /// Runs it, and wants it to be refused with these words.
    pub(crate) async fn refused(&self, args: &[&str], words: &str) -> Result<()> {
        let ran = self.run(args).await?;
        let said = args.join(" ");
        ensure!(
            ran.code == 1 && ran.err.contains(words),
            "meshctl {said} was to be refused with {words:?}: {ran:?}"
        );
        Ok(())
    }
}
