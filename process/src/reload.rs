//! SIGHUP: reads the settings again, and takes over what changed while the program runs.
//!
//! Invariant: all or nothing. A value that cannot be, or a change of a setting that cannot
//! change while the program runs, leaves everything as it was, and the log says why.

use std::{io, net::SocketAddr, path::PathBuf};

use metrics::counter;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::{Instrument, Span, info, warn};

use crate::{
    program::{Chain, ProgramSettings},
    settings::{
        Live, SettingsError, Sources,
        live::{Change, Changer, changes},
    },
    telemetry,
};

/// Why everything stays as it is.
#[derive(Debug, thiserror::Error)]
enum ReloadError {
    #[error(transparent)]
    Settings(#[from] SettingsError),
    #[error("key {key} cannot change from {old} to {new} while the program runs: start it again")]
    Fixed {
        key: String,
        old: String,
        new: String,
    },
    #[error("the settings cannot be compared")]
    Compare(#[from] toml::ser::Error),
}

/// Settings of a running program, and where they come from.
pub(crate) struct Reload<S> {
    program: String,
    file: Option<PathBuf>,
    flags: Vec<(String, String)>,
    /// As they were read first, before an address was taken, and last.
    started: S,
    read: S,
    taken: SocketAddr,
    changer: Changer<S>,
}

impl<S: ProgramSettings> Reload<S> {
    /// `read` came from `file` and `flags`; `taken` is the address that the program got.
    pub(crate) fn new(
        program: &str,
        (file, flags): (Option<PathBuf>, Vec<(String, String)>),
        read: S,
        taken: SocketAddr,
    ) -> (Self, Live<S>) {
        let (changer, live) = Live::new(listening(read.clone(), taken));
        let reload = Self {
            program: program.to_owned(),
            file,
            flags,
            started: read.clone(),
            read,
            taken,
            changer,
        };
        (reload, live)
    }

    /// Reads the settings again at each hangup, until the process ends.
    #[allow(
        clippy::disallowed_methods,
        reason = "waits for signals as long as the process lives, and holds nothing that must end"
    )]
    pub(crate) fn spawn(self, hangups: Signal, instance: String, span: Span)
    where
        S: Send + Sync + 'static,
    {
        tokio::spawn(self.run(hangups, instance).instrument(span));
    }

    async fn run(mut self, mut hangups: Signal, instance: String) {
        let count = |outcome: &'static str| counter!("kvmesh_settings_reloads_total", "instance" => instance.clone(), "outcome" => outcome);
        let (ok, refused) = (count("ok"), count("refused"));
        while hangups.recv().await.is_some() {
            match self.again() {
                Ok(changes) => {
                    ok.increment(1);
                    info!(changes = %Lines(&changes), "settings reloaded");
                }
                Err(error) => {
                    refused.increment(1);
                    warn!(error = %Chain(&error), "settings not reloaded: nothing has changed");
                }
            }
        }
    }

    fn again(&mut self) -> Result<Vec<Change>, ReloadError> {
        let sources = Sources::read(&self.program, self.file.as_deref(), &self.flags)?;
        let new: S = sources.settings()?;
        let changes = changes(&self.read, &new)?;
        if let Some(change) = changes.iter().find(|c| !S::RELOADABLE.contains(&&*c.key)) {
            let text = |value: &Option<String>| value.as_deref().unwrap_or("nothing").to_owned();
            return Err(ReloadError::Fixed {
                key: change.key.clone(),
                old: text(&change.old),
                new: text(&change.new),
            });
        }
        let wrong = |wrong| sources.blamed(wrong);
        self.started.can_become(&new).map_err(wrong)?;
        telemetry::change_log_filter(new.log()).map_err(wrong)?;
        self.changer.change(listening(new.clone(), self.taken));
        self.read = new;
        Ok(changes)
    }
}

/// Hears SIGHUP from now on, which otherwise would end the process.
pub(crate) fn hangups() -> io::Result<Signal> {
    signal(SignalKind::hangup())
}

fn listening<S: ProgramSettings>(mut settings: S, taken: SocketAddr) -> S {
    settings.listening(taken);
    settings
}

/// What changed, on one line.
struct Lines<'a>(&'a [Change]);

impl std::fmt::Display for Lines<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.0.is_empty() {
            return f.write_str("none");
        }
        for (index, change) in self.0.iter().enumerate() {
            let (old, new) = (change.old.as_deref(), change.new.as_deref());
            let between = if index == 0 { "" } else { ", " };
            let (old, new) = (old.unwrap_or("nothing"), new.unwrap_or("nothing"));
            write!(f, "{between}{} {old} -> {new}", change.key)?;
        }
        Ok(())
    }
}
