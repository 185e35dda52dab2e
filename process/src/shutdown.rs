//! When a process is to end.

use tokio_util::sync::CancellationToken;

/// Cancelled by SIGTERM or SIGINT.
#[must_use]
pub fn on_signal() -> CancellationToken {
    todo!()
}
