//! What a process is given from outside, so that all of it can be simulated.

use std::sync::Arc;

use kvmesh_client::channel::{Channels, Connect, TcpConnect};
use tracing::Span;

use crate::{access::Guests, telemetry};

/// Reads the wall clock. Monotonic time is `tokio::time`.
pub trait WallClock: Send + Sync + 'static {
    /// Milliseconds since 1970.
    fn millis(&self) -> u64;
}

/// The machine's clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl WallClock for SystemClock {
    #[allow(
        clippy::disallowed_methods,
        reason = "the one place that reads the machine's clock"
    )]
    fn millis(&self) -> u64 {
        std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .map_or(0, |since| {
                u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
            })
    }
}

/// Connector, clock and name of one process.
#[derive(Clone)]
pub struct Environment {
    /// Warm channels to other processes.
    pub channels: Channels,
    /// Wall clock.
    pub clock: Arc<dyn WallClock>,
    /// The `instance` label of every metric, such as `us-east/node-1`.
    pub instance: Arc<str>,
    /// Its region and name on every line that it logs: what it does runs in this span.
    pub span: Span,
    /// Whether work may go to threads of its own.
    pub threads: bool,
    /// Clients of which other regions it serves.
    pub guests: Guests,
}

impl Environment {
    /// Over a connector.
    #[must_use]
    pub fn new(connector: Arc<dyn Connect>, clock: Arc<dyn WallClock>, instance: &str) -> Self {
        Self {
            channels: Channels::new(connector),
            clock,
            instance: instance.into(),
            span: telemetry::place(instance),
            threads: true,
            guests: Guests::default(),
        }
    }

    /// Starts no thread: what takes a while keeps everything else waiting. For simulations,
    /// where all has to happen in one order.
    #[must_use]
    pub fn without_threads(self) -> Self {
        Self {
            threads: false,
            ..self
        }
    }

    /// Serves clients of other regions, as `guests` says.
    #[must_use]
    pub fn with_guests(self, guests: Guests) -> Self {
        Self { guests, ..self }
    }

    /// Does work that takes a while where no other task waits for it; none: it panicked.
    pub async fn aside<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        match self.threads {
            true => tokio::task::spawn_blocking(work).await.ok(),
            false => Some(work()),
        }
    }

    /// TCP and the machine's clock.
    #[must_use]
    pub fn real(instance: &str) -> Self {
        Self::new(Arc::new(TcpConnect), Arc::new(SystemClock), instance)
    }
}
