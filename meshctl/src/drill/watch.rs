//! What the other regions think of the one that is lost, by the clock.

use std::time::Duration;

use futures::future::join_all;
use serde::Serialize;
use tokio::time::{Instant, sleep};

use super::place::Site;
use crate::rpc::topology::RegionStatus;

/// How often a gateway is asked.
const POLL: Duration = Duration::from_millis(50);
/// A gateway that does not answer is asked again.
const ANSWER_MAX: Duration = Duration::from_secs(2);

/// When one region's gateway first said what of another one; seconds. None: not in time.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub(super) struct Noticed {
    pub(super) by: String,
    pub(super) suspect_s: Option<f64>,
    pub(super) offline_s: Option<f64>,
}

/// When each first said that a region is suspect, and offline, counted from `since`.
pub(super) async fn loss(
    sites: &[&Site],
    region: &str,
    since: Instant,
    bound: Duration,
) -> Vec<Noticed> {
    let watched = sites.iter().map(|site| async {
        let mut noticed = Noticed {
            by: site.region.clone(),
            ..Noticed::default()
        };
        while noticed.offline_s.is_none() && since.elapsed() < bound {
            let state = state(site, region).await;
            let now = Some(since.elapsed().as_secs_f64());
            if matches!(state, Some("suspect" | "offline")) {
                noticed.suspect_s = noticed.suspect_s.or(now);
            }
            if state == Some("offline") {
                noticed.offline_s = now;
            }
            sleep(POLL).await;
        }
        noticed
    });
    join_all(watched).await
}

/// Seconds from `since` until every site says that a region is online; none: not in time.
pub(super) async fn online(
    sites: &[&Site],
    region: &str,
    since: Instant,
    bound: Duration,
) -> Option<f64> {
    let watched = sites.iter().map(|site| async {
        while since.elapsed() < bound {
            if state(site, region).await == Some("online") {
                return Some(since.elapsed().as_secs_f64());
            }
            sleep(POLL).await;
        }
        None
    });
    let seconds: Option<Vec<f64>> = join_all(watched).await.into_iter().collect();
    seconds?.into_iter().reduce(f64::max)
}

async fn state(site: &Site, region: &str) -> Option<&'static str> {
    let regions = site.gateway.within(ANSWER_MAX).regions().await.ok()?;
    state_of(&regions, region)
}

fn state_of(regions: &[RegionStatus], region: &str) -> Option<&'static str> {
    let mut others = regions.iter().filter(|status| !status.local);
    others.find(|status| status.region == region)?.state
}

/// Whether a gateway answers anything within a moment.
pub(super) async fn answers(site: &Site) -> bool {
    site.gateway.within(ANSWER_MAX).show().await.is_ok()
}

/// Seconds from `since` until a gateway answers; none: not in time.
pub(super) async fn back(site: &Site, since: Instant, bound: Duration) -> Option<f64> {
    while since.elapsed() < bound {
        if answers(site).await {
            return Some(since.elapsed().as_secs_f64());
        }
        sleep(POLL).await;
    }
    None
}
