//! When a process is to end.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// Exit code of a process that was told twice to end: 128 + SIGINT.
const EXIT_IMPATIENT: i32 = 130;

/// Cancelled by SIGTERM or SIGINT; a second one ends the process at once.
///
/// Call it inside a tokio runtime. Where signals cannot be had, it says so and never cancels.
#[must_use]
pub fn on_signal() -> CancellationToken {
    let stop = CancellationToken::new();
    match signals() {
        Ok((terminate, interrupt)) => spawn_watch(terminate, interrupt, stop.clone()),
        Err(error) => warn!(%error, "signals cannot be heard: end this process by SIGKILL"),
    }
    stop
}

fn signals() -> io::Result<(Signal, Signal)> {
    Ok((
        signal(SignalKind::terminate())?,
        signal(SignalKind::interrupt())?,
    ))
}

#[allow(
    clippy::disallowed_methods,
    reason = "outlives every tracker: it is what starts their end, and itself ends with the process"
)]
fn spawn_watch(mut terminate: Signal, mut interrupt: Signal, stop: CancellationToken) {
    tokio::spawn(async move {
        next(&mut terminate, &mut interrupt).await;
        info!("told to end: finishing calls in flight");
        stop.cancel();
        next(&mut terminate, &mut interrupt).await;
        warn!("told to end again: ending at once");
        std::process::exit(EXIT_IMPATIENT);
    });
}

async fn next(terminate: &mut Signal, interrupt: &mut Signal) {
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}
