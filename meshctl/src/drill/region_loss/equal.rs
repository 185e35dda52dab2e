//! Whether, after the return, every region knows of every other one what that one has: their
//! digests are compared, by each region-sync with each of its peers.
//!
//! A comparison mends what it finds. So one that found anything is counted, and proves nothing;
//! only a later one that finds nothing does.

use std::time::Duration;

use futures::future::join_all;
use kvmesh_directory::{FeedPosition, RegionId};
use serde::Serialize;
use tokio::time::{Instant, sleep};

use super::{Place, say};
use crate::{
    drill::{
        place::{Site, Sync},
        report::{Promise, promise, seen},
    },
    rpc::{CallError, sync::How, sync::Synced},
};

/// Between two comparisons of a pair.
const AGAIN: Duration = Duration::from_millis(250);
/// A gateway that does not answer is asked again.
const ANSWER_MAX: Duration = Duration::from_secs(2);

/// See the module. Seconds count from when the region was let back; none: not in time.
#[derive(Debug, Default, Serialize)]
pub(in crate::drill) struct Equal {
    /// Until every pair was found equal.
    pub(in crate::drill) equal_s: Option<f64>,
    /// Empty: no region-sync was named.
    pairs: Vec<Pair>,
}

/// What one region-sync knows of one peer.
#[derive(Debug, Default, Serialize)]
struct Pair {
    by: String,
    peer: String,
    equal_s: Option<f64>,
    /// That found something out.
    comparisons: u32,
    /// What they had to mend.
    mended_blocks: u64,
    /// Why the last one found nothing out.
    failure: Option<String>,
    /// The last one ended after all was shown that has to be.
    #[serde(skip)]
    late: bool,
}

impl Equal {
    /// Compares until every pair was found equal, or the time is over.
    pub(super) async fn watch(place: &Place, since: Instant, bound: Duration) -> Self {
        let pairs = place.syncs.iter().flat_map(|sync| {
            let peers = place.others(sync.region);
            peers.map(move |peer| watch_pair(place, sync, peer, since + bound))
        });
        let mut pairs = join_all(pairs).await;
        for (pair, at) in &mut pairs {
            pair.equal_s = at.map(|at| (at - since).as_secs_f64());
        }
        let pairs: Vec<Pair> = pairs.into_iter().map(|(pair, _)| pair).collect();
        let equal = Self::of(pairs);
        if !equal.pairs.is_empty() {
            say(&format!("views are equal: {}", seen(equal.equal_s)));
        }
        equal
    }

    fn of(pairs: Vec<Pair>) -> Self {
        let seconds: Option<Vec<f64>> = pairs.iter().map(|pair| pair.equal_s).collect();
        Self {
            equal_s: seconds.and_then(|seconds| seconds.into_iter().reduce(f64::max)),
            pairs,
        }
    }

    /// None where no region-sync was named.
    pub(in crate::drill) fn promise(&self, bar: Duration) -> Option<Promise> {
        if self.pairs.is_empty() {
            return None;
        }
        let mended: u64 = self.pairs.iter().map(|pair| pair.mended_blocks).sum();
        let unequal = self.pairs.iter().filter(|pair| pair.equal_s.is_none());
        let unequal: Vec<String> = unequal.map(Pair::told).collect();
        let bar = bar.as_secs_f64();
        let held = self.equal_s.is_some_and(|seconds| seconds <= bar) && mended == 0;
        let pairs = self.pairs.len();
        let mut told = format!("{pairs} pairs {}", seen(self.equal_s));
        if mended > 0 {
            told += &format!(", but comparing had to mend {mended} blocks");
        }
        let told = [&[told], &unequal[..]].concat().join("; ");
        let what = format!("within {bar} s every region knows what every other one has");
        Some(promise("equal", what, held, told))
    }
}

impl Pair {
    fn told(&self) -> String {
        let why = self.failure.as_deref().unwrap_or("it differed");
        format!("{} of {}: {why}", self.by, self.peer)
    }

    /// Whether a comparison found this pair equal that began at `least` or later. How late it began
    /// is known by the one before.
    fn take(&mut self, compared: Result<Synced, CallError>, least: &FeedPosition) -> bool {
        let synced = match compared {
            Ok(synced) => synced,
            Err(error) => {
                self.failure = Some(error.to_string());
                return false;
            }
        };
        self.failure = None;
        self.comparisons += 1;
        self.mended_blocks += synced.missing + synced.gone + synced.resized;
        let at = synced.position.as_ref();
        let late = at.is_some_and(|at| {
            at.log_incarnation == least.log_incarnation && at.index >= least.index
        });
        let equal = synced.ranges == 0 && synced.objects == 0;
        equal && std::mem::replace(&mut self.late, late)
    }
}

/// One pair, and when it was found equal.
async fn watch_pair(
    place: &Place,
    sync: &Sync,
    peer: &Site,
    until: Instant,
) -> (Pair, Option<Instant>) {
    let mut pair = Pair {
        by: place.sites[sync.region].region.clone(),
        peer: peer.region.clone(),
        failure: Some("its gateway does not answer".to_owned()),
        ..Pair::default()
    };
    let Ok(region) = peer.region.parse::<RegionId>() else {
        return (pair, None);
    };
    // What the peer did until now has to be known, not what it did until it was cut off.
    let mut least = None;
    while Instant::now() < until {
        match &least {
            None => least = stands(peer).await,
            Some(least) => {
                let compared = sync.peer.sync(&region, How::Compare, |_, _| {}).await;
                if pair.take(compared, least) {
                    return (pair, Some(Instant::now()));
                }
            }
        }
        sleep(AGAIN).await;
    }
    (pair, None)
}

/// Where a region's own log is.
async fn stands(site: &Site) -> Option<FeedPosition> {
    let regions = site.gateway.within(ANSWER_MAX).regions().await.ok()?;
    let own = regions.into_iter().find(|status| status.local)?;
    own.position
}

#[cfg(test)]
mod tests {
    use kvmesh_directory::LogIncarnation;

    use super::*;

    fn at(log: u64, index: u64) -> FeedPosition {
        FeedPosition {
            region: "eu".parse().unwrap(),
            log_incarnation: LogIncarnation(log),
            index,
        }
    }

    fn synced(position: FeedPosition, ranges: u32, missing: u64) -> Result<Synced, CallError> {
        Ok(Synced {
            position: Some(position),
            blocks: 9,
            ranges,
            missing,
            gone: 0,
            resized: 0,
            objects: 0,
        })
    }

    const BAR: Duration = Duration::from_secs(30);

    #[test]
    fn only_a_comparison_that_finds_nothing_late_enough_says_that_they_are_equal() {
        let mut pair = Pair::default();
        assert!(
            !pair.take(synced(at(1, 6), 0, 0), &at(1, 7)),
            "before the return"
        );
        assert!(
            !pair.take(synced(at(2, 8), 0, 0), &at(1, 7)),
            "of another log"
        );
        assert!(
            !pair.take(synced(at(1, 7), 0, 0), &at(1, 7)),
            "it began before"
        );
        assert!(!pair.take(synced(at(1, 7), 2, 3), &at(1, 7)), "it mended");
        assert!(pair.take(synced(at(1, 7), 0, 0), &at(1, 7)));
        assert_eq!((pair.comparisons, pair.mended_blocks), (5, 3));
        let refused = CallError::Broken {
            what: "synchronising",
            address: "x".to_owned(),
            how: "so".to_owned(),
        };
        assert!(!pair.take(Err(refused), &at(1, 7)));
        assert_eq!(pair.comparisons, 5);
        assert!(
            pair.told().contains("broke the protocol"),
            "{}",
            pair.told()
        );
    }

    #[test]
    fn every_pair_must_be_equal_in_time_without_being_mended() {
        let pair = |equal_s, mended_blocks| Pair {
            equal_s,
            mended_blocks,
            ..Pair::default()
        };
        let held = |pairs| Equal::of(pairs).promise(BAR).map(|it| it.held);
        assert_eq!(held(Vec::new()), None, "nobody was asked");
        assert_eq!(
            held(vec![pair(Some(1.0), 0), pair(Some(30.0), 0)]),
            Some(true)
        );
        assert_eq!(
            held(vec![pair(Some(1.0), 0), pair(Some(30.1), 0)]),
            Some(false)
        );
        assert_eq!(held(vec![pair(Some(1.0), 0), pair(None, 0)]), Some(false));
        assert_eq!(
            held(vec![pair(Some(1.0), 1), pair(Some(1.0), 0)]),
            Some(false)
        );
    }
}
