//! When requests begin: one after the other, as many as clients are free, or when the trace says.

use std::time::Duration;

use anyhow::Context;
use futures::{StreamExt, TryStreamExt, stream};
use indicatif::ProgressBar;
use tokio::time::{Instant, sleep_until};

use super::{bound::Expected, drive::Driver};
use crate::{args::Pace, exit};

/// Sends all requests, each to its region.
///
/// # Errors
/// When a request fails, or the pace is the trace's and it does not say when.
pub(super) async fn send(
    driver: &Driver<'_>,
    regions: &[usize],
    expected: &[Expected],
    clients: usize,
    speed: f64,
    bar: &ProgressBar,
) -> anyhow::Result<()> {
    let (at_once, begins) = match driver.pace {
        Pace::Settled => (1, None),
        Pace::Fast => (clients, None),
        Pace::Trace => (clients, Some(begins(driver, speed)?)),
    };
    let mut order: Vec<usize> = (0..regions.len()).collect();
    if let Some(begins) = &begins {
        order.sort_by_key(|&at| begins[at]);
    }
    let all = order.into_iter().map(|at| {
        let (region, want) = (regions[at], &expected[at]);
        let begins = begins.as_ref().map(|begins| begins[at]);
        async move {
            if let Some(begins) = begins {
                sleep_until(begins).await;
                driver.seen().late.record(begins.elapsed());
            }
            let request = driver.request(at, region, want).await;
            bar.inc(1);
            request.with_context(|| format!("request {at} in {}", driver.regions[region]))
        }
    });
    let under_way = stream::iter(all).buffer_unordered(at_once);
    under_way.try_collect::<()>().await
}

/// When each request is to begin, the first of them now.
fn begins(driver: &Driver<'_>, speed: f64) -> anyhow::Result<Vec<Instant>> {
    let at = driver.trace.requests.iter().map(|request| request.at_ms);
    let Some(at) = at.collect::<Option<Vec<f64>>>() else {
        let what = "the trace does not say when requests came (`timestamp` or `rel_ms`): \
                    name another --pace";
        return Err(exit::set_up(what));
    };
    let first = at.iter().copied().fold(f64::INFINITY, f64::min);
    let now = Instant::now();
    let begin = |ms: &f64| now + Duration::from_secs_f64((ms - first).max(0.0) / 1e3 / speed);
    Ok(at.iter().map(begin).collect())
}
