//! Which other regions a call may ask, and why others are left out.
//!
//! region-sync judges each region by its own probes (`PeerState`); this gateway judges by its
//! own calls besides: a region of which no gateway could be reached is not asked until its
//! gateways have answered again for a while. Whether they do is tried by `warm`, never by a
//! client's call: so a dead region costs one connect timeout once.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use kvmesh_client::{
    client::{LeftOut, LeftOutReason},
    follow::Link,
};
use kvmesh_directory::{Namespace, PeerState, RegionId, limits::REGIONS_MAX};
use tokio::time::Instant;

use crate::context::Gateway;

/// So many calls may turn to another region at once, however few are under way.
const FAILOVERS_MIN: usize = 4;

/// The other regions, as one call sees them.
#[derive(Debug, Default)]
pub(crate) struct Others {
    /// Those that may be asked: the suspect ones last, else the nearest first.
    pub(crate) asked: Vec<(RegionId, Link)>,
    /// Those that would be asked if they were not lost.
    pub(crate) lost: Vec<(RegionId, Link)>,
    pub(crate) left_out: Vec<LeftOut>,
}

impl Others {
    /// There are others, and none is asked.
    pub(crate) fn local_only(&self) -> bool {
        self.asked.is_empty() && !self.left_out.is_empty()
    }
}

/// What other regions a call about a namespace may ask. One outside of its residency is not
/// spoken of: its name alone would say that the namespace is asked for.
pub(crate) fn others(gateway: &Gateway, namespace: &Namespace) -> Others {
    let mut others = Others::default();
    let age_max = Duration::from_millis(gateway.settings.now().view_age_max_ms);
    for (region, link) in gateway.views.mesh.links() {
        let resides = namespace.description.resides_in(&region);
        if region == gateway.region || !resides {
            continue;
        }
        let reason = match () {
            () if link.heard.elapsed() > age_max => LeftOutReason::ViewOld,
            () if !link.reachable || link.gateways.is_empty() => LeftOutReason::State,
            () if gateway.reach.is_lost(&region) => LeftOutReason::Unreached,
            () => {
                others.asked.push((region, link));
                continue;
            }
        };
        others.left_out.push(LeftOut {
            region: region.clone(),
            reason,
        });
        if reason != LeftOutReason::ViewOld {
            others.lost.push((region, link));
        }
    }
    others.asked.sort_by(|(_, a), (_, b)| {
        let suspect = |link: &Link| link.state == PeerState::Suspect;
        (suspect(a).cmp(&suspect(b))).then(a.rtt_ms.total_cmp(&b.rtt_ms))
    });
    others
}

/// A lost region answers again: since when, and when it last did.
#[derive(Debug, Clone, Copy)]
struct Back {
    since: Instant,
    last: Instant,
}

/// Regions that this gateway could not reach, and calls that turn from one to another.
#[derive(Debug, Default)]
pub(crate) struct Reach {
    lost: Mutex<BTreeMap<RegionId, Option<Back>>>,
    gets: AtomicUsize,
    turned: AtomicUsize,
}

impl Reach {
    /// No gateway of the region could be reached.
    pub(crate) fn unreached(&self, region: &RegionId) {
        let mut lost = self.lost.lock().unwrap_or_else(PoisonError::into_inner);
        if lost.len() < REGIONS_MAX || lost.contains_key(region) {
            lost.insert(region.clone(), None);
        }
    }

    /// Whether the region is not to be asked.
    pub(crate) fn is_lost(&self, region: &RegionId) -> bool {
        let lost = self.lost.lock().unwrap_or_else(PoisonError::into_inner);
        lost.contains_key(region)
    }

    /// A gateway of a region answered: a lost one is asked again once some have, without a gap
    /// of more than `hold`, for `hold`.
    pub(crate) fn answers(&self, region: &RegionId, hold: Duration) {
        let mut lost = self.lost.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(back) = lost.get_mut(region) else {
            return;
        };
        let now = Instant::now();
        let goes_on = back.filter(|back| now - back.last <= hold);
        let since = goes_on.map_or(now, |back| back.since);
        *back = Some(Back { since, last: now });
        if now - since >= hold {
            lost.remove(region);
        }
    }

    /// A client's get begins; it ends when what this returns is dropped.
    pub(crate) fn get_begins(self: &Arc<Self>) -> Under {
        self.gets.fetch_add(1, Ordering::Relaxed);
        Under {
            reach: Arc::clone(self),
            turned: false,
        }
    }
}

/// A client's get, as [`Reach`] counts it.
#[derive(Debug)]
pub(crate) struct Under {
    reach: Arc<Reach>,
    turned: bool,
}

impl Under {
    /// Whether the get may turn to another region than the one that would be asked. At most
    /// `share` (thousandths) of the gets that are under way may at once, so that a lost region
    /// does not drown the others.
    pub(crate) fn may_turn(&mut self, share: u64) -> bool {
        if self.turned {
            return true;
        }
        let gets = self.reach.gets.load(Ordering::Relaxed) as u64;
        let most = usize::try_from(gets * share / 1_000).unwrap_or(usize::MAX);
        let most = most.max(FAILOVERS_MIN);
        let one_more = |turned: usize| (turned < most).then_some(turned + 1);
        let turned = &self.reach.turned;
        let update = turned.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more);
        self.turned = update.is_ok();
        self.turned
    }
}

impl Drop for Under {
    fn drop(&mut self) {
        self.reach.gets.fetch_sub(1, Ordering::Relaxed);
        if self.turned {
            self.reach.turned.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn at_most_a_share_of_the_gets_turns_to_another_region_at_once() {
        let reach = Arc::new(Reach::default());
        let mut gets: Vec<Under> = (0..100).map(|_| reach.get_begins()).collect();
        let turned = |gets: &mut Vec<Under>| {
            gets.iter_mut()
                .filter_map(|get| get.may_turn(200).then_some(()))
                .count()
        };
        assert_eq!(turned(&mut gets), 20);
        // Who turned once may again; others may when it ends.
        assert_eq!(turned(&mut gets), 20);
        gets.drain(..5);
        assert_eq!(turned(&mut gets), 19, "a fifth of the 95 that are left");
        // Few are not held up by the rounding.
        gets.truncate(0);
        gets.extend((0..6).map(|_| reach.get_begins()));
        assert_eq!(turned(&mut gets), FAILOVERS_MIN);
    }

    #[tokio::test(start_paused = true)]
    async fn a_lost_region_is_asked_again_after_it_answered_for_a_while() {
        let (reach, hold) = (Reach::default(), Duration::from_secs(1));
        let region: RegionId = "eu".parse().unwrap();
        reach.answers(&region, hold);
        assert!(!reach.is_lost(&region), "it never was");
        reach.unreached(&region);
        // The second answer comes too late to go on with the first.
        for (wait_ms, lost) in [(500, true), (1_001, true), (999, true), (1, false)] {
            tokio::time::advance(Duration::from_millis(wait_ms)).await;
            reach.answers(&region, hold);
            assert_eq!(reach.is_lost(&region), lost, "{wait_ms}");
        }
        reach.unreached(&region);
        assert!(reach.is_lost(&region));
    }
}
