//! Waiting for a condition, with a bound.

use std::time::Duration;

use anyhow::{Result, bail};
use tokio::time::{Instant, MissedTickBehavior, interval};

const PERIOD: Duration = Duration::from_millis(50);

/// Asks until there is an answer; `what` is said when there is none within the bound,
/// with the last reason why not.
pub(crate) async fn until<T>(
    what: &str,
    bound: Duration,
    mut ask: impl AsyncFnMut() -> Result<T>,
) -> Result<T> {
    let end = Instant::now() + bound;
    let mut ticks = interval(PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        match ask().await {
            Ok(answer) => return Ok(answer),
            Err(error) if Instant::now() >= end => {
                bail!("{what} took longer than {bound:?}: {error:#}")
            }
            Err(_) => {}
        }
    }
}
