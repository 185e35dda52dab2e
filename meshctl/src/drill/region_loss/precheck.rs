//! Whether the mesh is as it should be before something is broken on purpose.

use std::time::Duration;

use super::Place;
use crate::{drill::place::Site, rpc::topology::RegionStatus};

/// What is known of another region is not older.
const AGE_MAX: Duration = Duration::from_secs(5);

/// Everything answers, everybody hears of everybody, and nothing changes.
///
/// # Errors
/// Names each thing that is not so.
pub(super) async fn check(place: &Place) -> anyhow::Result<()> {
    let mut wrong = Vec::new();
    for site in &place.sites {
        if let Err(error) = look(site, place, &mut wrong).await {
            wrong.push(format!("{}: {error:#}", site.region));
        }
    }
    anyhow::ensure!(
        wrong.is_empty(),
        "nothing was done, since the mesh is not fit for a drill: {}; wait until it is, or mend it",
        wrong.join("; ")
    );
    Ok(())
}

async fn look(site: &Site, place: &Place, wrong: &mut Vec<String>) -> anyhow::Result<()> {
    let region = &site.region;
    let shown = site.gateway.show().await?;
    if shown.moving {
        wrong.push(format!("blocks move in {region}"));
    }
    for node in shown.nodes.iter().filter(|node| node.state != "alive") {
        wrong.push(format!("node {} of {region} is {}", node.node, node.state));
    }
    let lacking = site.gateway.stats().await?.under_replicated;
    if lacking > 0 {
        wrong.push(format!("{lacking} blocks of {region} lack copies"));
    }
    let known = site.gateway.regions().await?;
    for other in &place.sites {
        if other.region != *region {
            wrong.extend(unfit(region, &other.region, &known));
        }
    }
    Ok(())
}

/// What is wrong with one region as another one sees it.
fn unfit(by: &str, region: &str, known: &[RegionStatus]) -> Option<String> {
    let Some(status) = known.iter().find(|status| status.region == region) else {
        return Some(format!("{by} does not know {region}"));
    };
    let state = status.state.unwrap_or("unknown");
    if state != "online" {
        return Some(format!("{region} is {state} to {by}"));
    }
    let stale = status.age_ms > AGE_MAX.as_millis() as u64;
    stale.then(|| {
        let age_s = status.age_ms as f64 / 1e3;
        format!("{by} has not heard of {region} for {age_s:.1} s")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_region_must_be_known_online_and_heard() {
        let status = |state, age_ms| RegionStatus {
            region: "b".to_owned(),
            local: false,
            reachable: true,
            rtt_ms: 1.0,
            position: None,
            age_ms,
            blocks: 0,
            state: Some(state),
            lag_entries: 0,
            bandwidth: 0.0,
            bandwidth_age_ms: None,
        };
        let unfit = |known: &[RegionStatus]| unfit("a", "b", known).unwrap_or_default();
        assert_eq!(unfit(&[]), "a does not know b");
        assert_eq!(unfit(&[status("suspect", 1)]), "b is suspect to a");
        let old = unfit(&[status("online", 6_000)]);
        assert_eq!(old, "a has not heard of b for 6.0 s");
        assert_eq!(unfit(&[status("online", 500)]), "");
    }
}
