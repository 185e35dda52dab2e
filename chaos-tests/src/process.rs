//! One real process: started, ended with SIGTERM or SIGKILL, started again.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};

use crate::poll;

const START_BOUND: Duration = Duration::from_secs(30);
/// Of what a process logged, the end that is shown.
const WORDS_BYTES: usize = 600;

/// A program with its settings. Ends with SIGKILL when it is dropped.
pub struct Process {
    name: String,
    program: PathBuf,
    config: PathBuf,
    /// Of the network namespace that it runs in; none: this program's.
    network: Option<String>,
    child: Option<Child>,
}

impl Process {
    /// Writes the settings beside where the logs will be; does not start it.
    pub(crate) fn new(
        name: String,
        program: PathBuf,
        folder: &Path,
        settings: &str,
    ) -> Result<Self> {
        let config = folder.join(format!("{name}.toml"));
        fs::write(&config, settings).context("settings cannot be written")?;
        Ok(Self {
            name,
            program,
            config,
            network: None,
            child: None,
        })
    }

    /// The same, to run in a network namespace.
    pub(crate) fn within(mut self, network: Option<&str>) -> Self {
        self.network = network.map(str::to_owned);
        self
    }

    /// What it is called in logs.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Starts it and waits until it listens. Logs are added to those of earlier starts.
    ///
    /// # Errors
    /// When it cannot be started, ends at once, or does not listen in time.
    pub async fn start(&mut self) -> Result<()> {
        let said = self.spawn()?;
        let what = format!("starting {}", self.name);
        poll::until(&what, START_BOUND, async || {
            let said = fs::read_to_string(&said)?;
            ensure!(said.contains("listening "), "it does not listen yet");
            Ok(())
        })
        .await?;
        self.check()
    }

    /// Starts it, and does not wait. Returns the file that gets its standard output.
    ///
    /// # Errors
    /// When it runs, or cannot be started.
    pub(crate) fn spawn(&mut self) -> Result<PathBuf> {
        ensure!(self.child.is_none(), "{} runs already", self.name);
        let said = self.config.with_extension("out");
        let log = self.config.with_extension("log");
        let log = File::options().create(true).append(true).open(log)?;
        let mut command = match &self.network {
            None => Command::new(&self.program),
            // It becomes the program, so that the child's number is the program's.
            Some(network) => {
                let mut command = Command::new("ip");
                command.args(["netns", "exec", network]).arg(&self.program);
                command
            }
        };
        let child = command
            .arg("--config")
            .arg(&self.config)
            .stdin(Stdio::null())
            .stdout(File::create(&said)?)
            .stderr(log)
            .spawn();
        let child = child.with_context(|| format!("{} cannot be started", self.name))?;
        self.child = Some(child);
        Ok(said)
    }

    /// Waits until it has ended by itself. Returns its exit code and the end of its log.
    ///
    /// # Errors
    /// When it does not end in time, or by a signal.
    pub(crate) async fn ended(&mut self, bound: Duration) -> Result<(i32, String)> {
        let what = format!("the end of {}", self.name);
        let child = self.child.as_mut().context("it does not run")?;
        let status = poll::until(&what, bound, async || {
            child.try_wait()?.context("it still runs")
        });
        let status = status.await?;
        self.child = None;
        let code = status.code();
        let code = code.with_context(|| format!("{} ended with {status}", self.name))?;
        Ok((code, self.last_words()?))
    }

    /// Writes other settings, and tells it to read them.
    ///
    /// # Errors
    /// When it does not run.
    pub(crate) fn hang_up(&mut self, settings: &str) -> Result<()> {
        self.check()?;
        self.settle(settings)?;
        self.signal("HUP")
    }

    /// Writes other settings, for the next start.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub(crate) fn settle(&self, settings: &str) -> Result<()> {
        fs::write(&self.config, settings).context("settings cannot be written")
    }

    /// Whether it has logged a line with all of these words.
    ///
    /// # Errors
    /// Says which words are missing.
    pub(crate) fn logged(&self, words: &[&str]) -> Result<()> {
        let log = fs::read_to_string(self.config.with_extension("log"))?;
        let mut lines = log.lines();
        ensure!(
            lines.any(|line| words.iter().all(|word| line.contains(word))),
            "{} has not logged {words:?}: {}",
            self.name,
            self.last_words()?
        );
        Ok(())
    }

    /// Its number.
    ///
    /// # Errors
    /// When it does not run.
    pub(crate) fn id(&self) -> Result<u32> {
        Ok(self.child.as_ref().context("it does not run")?.id())
    }

    fn signal(&self, name: &str) -> Result<()> {
        let id = self.id()?;
        let kill = format!("kill -{name} {id}");
        let told = Command::new("sh").args(["-c", &kill]).status()?;
        ensure!(told.success(), "{} cannot be sent SIG{name}", self.name);
        Ok(())
    }

    /// Ends it with SIGTERM and waits until it is gone.
    ///
    /// # Errors
    /// When it does not run, does not end in time, or not with exit code 0.
    pub(crate) async fn terminate(&mut self, bound: Duration) -> Result<()> {
        self.check()?;
        self.signal("TERM")?;
        let (code, words) = self.ended(bound).await?;
        ensure!(code == 0, "{} ended with {code}: {words}", self.name);
        Ok(())
    }

    fn last_words(&self) -> Result<String> {
        let log = fs::read(self.config.with_extension("log"))?;
        let from = log.len().saturating_sub(WORDS_BYTES);
        Ok(String::from_utf8_lossy(&log[from..]).into_owned())
    }

    /// Whether it still runs.
    ///
    /// # Errors
    /// When it has ended by itself.
    pub fn check(&mut self) -> Result<()> {
        let Some(child) = &mut self.child else {
            bail!("{} does not run", self.name);
        };
        match child.try_wait()? {
            None => Ok(()),
            Some(status) => bail!("{} ended by itself with {status}", self.name),
        }
    }

    /// Kills it with SIGKILL and waits until it is gone.
    ///
    /// # Errors
    /// When it does not run.
    pub fn kill(&mut self) -> Result<()> {
        self.check()?;
        self.put_down()
    }

    /// As [`Self::kill`], also when it has ended by itself.
    pub(crate) fn put_down(&mut self) -> Result<()> {
        let mut child = self.child.take().context("it was started")?;
        // An error says that it has ended.
        let _ = child.kill();
        child.wait()?;
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It may have ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
