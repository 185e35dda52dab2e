//! How the three server programs start: flags, settings, telemetry, listener, end.
//!
//! Standard output gets `listening <address>` and `metrics <address>`, and nothing else.

use std::{
    error::Error,
    fmt::{self, Display},
    io::Write,
    net::SocketAddr,
    path::PathBuf,
    process::ExitCode,
};

use clap::Args;
use kvmesh_client::channel::Incoming;
use serde::{Serialize, de::DeserializeOwned};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, error, info};

use crate::{
    Environment, server,
    settings::{self, Check},
    shutdown,
    telemetry::{self, TelemetryError, TraceSettings, Traces},
    tls::{self, Credentials, Expected, TlsSettings},
};

/// Settings or flags that cannot be, as in `sysexits.h`.
pub const EX_USAGE: u8 = 64;
/// The program could not start or failed, as in `sysexits.h`.
pub const EX_SOFTWARE: u8 = 70;

/// Flags that the three programs share.
#[derive(Debug, Args)]
pub struct SettingsArgs {
    /// TOML file with settings; unknown keys are refused
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// One setting, over the file and the variables, such as --set listen=127.0.0.1:0
    #[arg(long, value_name = "KEY=VALUE", value_parser = pair)]
    pub set: Vec<(String, String)>,
    /// Only say whether the settings are possible, and print them
    #[arg(long)]
    pub check_config: bool,
}

fn pair(raw: &str) -> Result<(String, String), String> {
    raw.split_once('=')
        .map(|(key, value)| (key.trim().to_owned(), value.trim().to_owned()))
        .ok_or_else(|| "write it as key=value".to_owned())
}

/// What a program's settings must say, so that it can be started here.
pub trait ProgramSettings: Check + Serialize + DeserializeOwned + Default {
    /// Where gRPC is served.
    fn listen(&self) -> SocketAddr;
    /// Where `/metrics` is served; none: nowhere.
    fn metrics_listen(&self) -> Option<SocketAddr>;
    /// The `instance` label of every metric, such as `us-east/node-1`.
    fn instance(&self) -> String;
    /// An `EnvFilter` directive.
    fn log(&self) -> &str {
        telemetry::LOG_FILTER
    }
    /// Where traces are sent.
    fn traces(&self) -> TraceSettings;
    /// How gRPC is secured.
    fn tls(&self) -> &TlsSettings;
    /// Whose certificate is its own.
    fn own_identity(&self) -> Expected;
    /// Told which address was taken, before the program is started.
    fn listening(&mut self, _taken: SocketAddr) {}
}

/// Runs a program (`node`, `gateway`, `region-sync`) until it is told to end: [`EX_USAGE`]
/// for impossible settings, [`EX_SOFTWARE`] when it cannot start or fails.
pub fn run<S, E>(
    program: &str,
    args: &SettingsArgs,
    serve: impl AsyncFnOnce(S, Environment, Incoming, CancellationToken) -> Result<(), E>,
) -> ExitCode
where
    S: ProgramSettings,
    E: Error + 'static,
{
    let settings: S = match settings::load(program, args.config.as_deref(), &args.set) {
        Ok(settings) => settings,
        Err(error) => return fail(program, EX_USAGE, &error),
    };
    let credentials = match settings
        .tls()
        .load(&settings.instance(), &settings.own_identity())
    {
        Ok(credentials) => credentials,
        Err(error) => return fail(program, EX_USAGE, &error),
    };
    if args.check_config {
        return show(program, &settings);
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => return fail(program, EX_SOFTWARE, &error),
    };
    // Inside the runtime, which sends traces.
    let entered = runtime.enter();
    let traces = match telemetry(program, &settings) {
        Ok(traces) => traces,
        Err(error) => return fail(program, EX_USAGE, &error),
    };
    drop(entered);
    let running = async {
        let ended = start(program, settings, credentials, serve).await;
        if let Some(traces) = traces {
            traces.flush().await;
        }
        ended
    };
    match runtime.block_on(running) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(program, EX_SOFTWARE, error.as_ref()),
    }
}

fn telemetry<S: ProgramSettings>(
    program: &str,
    settings: &S,
) -> Result<Option<Traces>, TelemetryError> {
    telemetry::own_place(&settings.instance());
    let traces = settings.traces();
    if traces.endpoint.is_empty() {
        telemetry::logs(settings.log())?;
        return Ok(None);
    }
    let traces = Traces::start(&traces, program, &settings.instance())?;
    telemetry::logs_and_traces(settings.log(), &traces)?;
    Ok(Some(traces))
}

async fn start<S, E>(
    program: &str,
    mut settings: S,
    credentials: Option<Credentials>,
    serve: impl AsyncFnOnce(S, Environment, Incoming, CancellationToken) -> Result<(), E>,
) -> Result<(), Box<dyn Error>>
where
    S: ProgramSettings,
    E: Error + 'static,
{
    let stop = shutdown::on_signal();
    let (taken, incoming) = server::listen(settings.listen())
        .await
        .map_err(|error| format!("cannot listen on {}: {error}", settings.listen()))?;
    settings.listening(taken);
    let metrics = match settings.metrics_listen() {
        Some(listen) => Some(telemetry::metrics(listen).await?),
        None => None,
    };
    say("listening", taken)?;
    if let Some(metrics) = metrics {
        say("metrics", metrics)?;
    }
    let instance = settings.instance();
    let secured = credentials.is_some();
    let (environment, incoming) = tls::secured(&instance, incoming, credentials);
    let span = environment.span.clone();
    let running = async {
        info!(program, listen = %taken, tls = secured, "started");
        serve(settings, environment, incoming, stop).await?;
        info!(program, "ended");
        Ok(())
    };
    running.instrument(span).await
}

fn say(what: &str, address: SocketAddr) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{what} {address}")?;
    out.flush()
}

fn show<S: Serialize>(program: &str, settings: &S) -> ExitCode {
    match toml::to_string(settings) {
        Ok(text) => {
            let header = format!("# kvmesh-{program}: these settings are possible\n{text}");
            match std::io::stdout().write_all(header.as_bytes()) {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => fail(program, EX_SOFTWARE, &error),
            }
        }
        Err(error) => fail(program, EX_SOFTWARE, &error),
    }
}

#[allow(
    clippy::print_stderr,
    reason = "the last words of a program that may have no logs yet"
)]
fn fail(program: &str, code: u8, error: &dyn Error) -> ExitCode {
    error!(error = %Chain(error), "failed");
    eprintln!("kvmesh-{program}: {}", Chain(error));
    ExitCode::from(code)
}

/// An error with its sources.
struct Chain<'a>(&'a dyn Error);

impl Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut source = self.0.source();
        while let Some(error) = source {
            write!(f, ": {error}")?;
            source = error.source();
        }
        Ok(())
    }
}
