//! How the three server programs start: flags, settings, telemetry, listener, end.
//!
//! Standard output gets `listening <address>` and `metrics <address>`, and nothing else.
//!
//! Not here: settings that change while a program runs (`reload`).

use std::{
    error::Error,
    fmt::{self, Display},
    io::Write,
    net::SocketAddr,
    path::PathBuf,
    process::ExitCode,
};

use clap::{Args, Subcommand};
use kvmesh_client::channel::{CongestionControl, Incoming};
use serde::{Serialize, de::DeserializeOwned};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, error, info};

use crate::{
    Environment,
    reload::{self, Reload},
    server,
    settings::{Check, Impossible, Live, Outside, SettingsError, Sources},
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
    #[arg(long, value_name = "FILE", global = true)]
    pub config: Option<PathBuf>,
    /// One setting, over the file and the variables, such as --set listen=127.0.0.1:0
    #[arg(long, value_name = "KEY=VALUE", value_parser = pair, global = true)]
    pub set: Vec<(String, String)>,
    /// Only say whether the settings are possible here, and print them
    #[arg(long)]
    pub check_config: bool,
    /// Instead of running
    #[command(subcommand)]
    pub verb: Option<Verb>,
}

/// What else a program can do.
#[derive(Debug, Clone, Copy, Subcommand)]
pub enum Verb {
    /// The settings that the program would run with
    #[command(subcommand)]
    Config(ConfigVerb),
}

/// What can be done with settings.
#[derive(Debug, Clone, Copy, Subcommand)]
pub enum ConfigVerb {
    /// Prints them
    Show {
        /// Each on a line of its own, with the file, variable or flag that it comes from
        #[arg(long)]
        origin: bool,
    },
}

fn pair(raw: &str) -> Result<(String, String), String> {
    raw.split_once('=')
        .map(|(key, value)| (key.trim().to_owned(), value.trim().to_owned()))
        .ok_or_else(|| "write it as key=value".to_owned())
}

/// What a program's settings must say, so that it can be started here.
pub trait ProgramSettings:
    Check + Serialize + DeserializeOwned + Default + Clone + Send + Sync + 'static
{
    /// Dotted keys of the settings that can change while the program runs.
    const RELOADABLE: &'static [&'static str];
    /// Whether a program that was started with these settings can go on with `new`, which
    /// differs in keys of [`Self::RELOADABLE`] only.
    ///
    /// # Errors
    /// The key, and what is possible.
    fn can_become(&self, _new: &Self) -> Result<(), Impossible> {
        Ok(())
    }
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
    /// Which congestion control connections between regions get; empty: the kernel's usual one.
    fn congestion_control(&self) -> &str {
        ""
    }
    /// Whose certificate is its own.
    fn own_identity(&self) -> Expected;
    /// What has to be there outside, for `--check-config`.
    fn outside(&self) -> Outside;
    /// Told which address was taken, before the program is started.
    fn listening(&mut self, _taken: SocketAddr) {}
}

/// Runs a program (`node`, `gateway`, `region-sync`) until it is told to end: [`EX_USAGE`]
/// for impossible settings, [`EX_SOFTWARE`] when it cannot start or fails.
pub fn run<S, E>(
    program: &str,
    args: &SettingsArgs,
    serve: impl AsyncFnOnce(Live<S>, Environment, Incoming, CancellationToken) -> Result<(), E>,
) -> ExitCode
where
    S: ProgramSettings,
    E: Error + 'static,
{
    let (sources, settings) = match read::<S>(program, args) {
        Ok(read) => read,
        Err(error) => return fail(program, EX_USAGE, &error),
    };
    if let Some(Verb::Config(ConfigVerb::Show { origin })) = args.verb {
        let text = match origin {
            true => sources.explained(&settings),
            false => toml::to_string(&settings),
        };
        return show(program, text);
    }
    let credentials = match credentials(&settings) {
        Ok(credentials) => credentials,
        Err(error) => return fail(program, EX_USAGE, error.as_ref()),
    };
    if args.check_config {
        return check(program, &sources, &settings);
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
        let ended = start(program, args, settings, credentials, serve).await;
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

fn read<S: ProgramSettings>(
    program: &str,
    args: &SettingsArgs,
) -> Result<(Sources, S), SettingsError> {
    let sources = Sources::read(program, args.config.as_deref(), &args.set)?;
    let settings: S = sources.settings()?;
    telemetry::check_log_filter(settings.log()).map_err(|wrong| sources.blamed(wrong))?;
    Ok((sources, settings))
}

fn credentials<S: ProgramSettings>(settings: &S) -> Result<Option<Credentials>, Box<dyn Error>> {
    let own = settings.own_identity();
    let credentials = settings.tls().load(&settings.instance(), &own)?;
    Ok(match (credentials, settings.congestion_control()) {
        (Some(credentials), name) if !name.is_empty() => {
            Some(credentials.between_regions(CongestionControl::new(name)?))
        }
        (credentials, _) => credentials,
    })
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
    args: &SettingsArgs,
    settings: S,
    credentials: Option<Credentials>,
    serve: impl AsyncFnOnce(Live<S>, Environment, Incoming, CancellationToken) -> Result<(), E>,
) -> Result<(), Box<dyn Error>>
where
    S: ProgramSettings,
    E: Error + 'static,
{
    let (stop, hangups) = (shutdown::on_signal(), reload::hangups()?);
    let (taken, incoming) = server::listen(settings.listen())
        .await
        .map_err(|error| format!("cannot listen on {}: {error}", settings.listen()))?;
    let metrics = match settings.metrics_listen() {
        Some(listen) => Some(telemetry::metrics(listen).await?),
        None => None,
    };
    say("listening", taken)?;
    if let Some(metrics) = metrics {
        say("metrics", metrics)?;
    }
    let sources = (args.config.clone(), args.set.clone());
    let (reload, live) = Reload::new(program, sources, settings, taken);
    let instance = live.now().instance();
    let secured = credentials.is_some();
    let (environment, incoming) = tls::secured(&instance, incoming, credentials);
    let span = environment.span.clone();
    reload.spawn(hangups, instance, span.clone());
    let running = async {
        info!(program, listen = %taken, tls = secured, "started");
        serve(live, environment, incoming, stop).await?;
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

/// Says everything that is wrong outside, or prints the settings.
fn check<S: ProgramSettings>(program: &str, sources: &Sources, settings: &S) -> ExitCode {
    let problems = settings.outside().problems();
    if !problems.is_empty() {
        for problem in problems {
            fail(program, EX_USAGE, &sources.blamed(problem));
        }
        return ExitCode::from(EX_USAGE);
    }
    let header = format!("# kvmesh-{program}: these settings are possible\n");
    show(
        program,
        toml::to_string(settings).map(|text| header + &text),
    )
}

fn show(program: &str, text: Result<String, toml::ser::Error>) -> ExitCode {
    match text {
        Ok(text) => match std::io::stdout().write_all(text.as_bytes()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => fail(program, EX_SOFTWARE, &error),
        },
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
pub(crate) struct Chain<'a>(pub(crate) &'a dyn Error);

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
