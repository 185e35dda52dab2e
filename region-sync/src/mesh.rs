//! What this region-sync tells its gateways: the tags of every other region, and the links.
//!
//! Written by the tasks of the peers, read by subscribers. A subscriber gets the news by a
//! bounded queue; one that lags, or hears that a region's tags were replaced, takes the
//! region's tags anew. Repeated steps are harmless: their positions are covered already.

mod frozen;
mod seen;

pub(crate) use frozen::{Frozen, Lost};

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
    time::Duration,
};

use kvmesh_client::follow::SILENCE_MAX;
use kvmesh_directory::{
    FeedPosition, MeshView, PeerState, RegionId, Tag,
    cost::{Estimate, Links},
    view::RangeDigest,
};
use tokio::{sync::broadcast, time::Instant};

use crate::backlog::{Change, Tags};

/// Steps that a subscriber may lag behind before it takes everything anew.
pub(crate) const NEWS_MAX: usize = 4_096;
/// A view that is no further behind than a batch of the feed has caught up.
const LAG_CAUGHT_UP_MAX: u64 = 256;

/// The way to another region.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Link {
    /// Whether it is asked.
    pub(crate) state: PeerState,
    /// Last round trip seen.
    pub(crate) rtt: Option<Duration>,
    /// Median and spread of the newest round trips, in seconds.
    pub(crate) trips: Option<Estimate>,
    /// Dollars that 1e9 bytes cost; 0: not known.
    pub(crate) dollars_per_gb: f64,
    /// Bytes per second, as configured.
    pub(crate) bandwidth: f64,
    /// The one that answered last comes first.
    pub(crate) gateways: Vec<String>,
    /// When its feed was last heard; at first when this process started.
    pub(crate) heard: Instant,
    /// The last position that was heard of.
    pub(crate) heard_at: Option<FeedPosition>,
}

/// What changed.
#[derive(Debug)]
pub(crate) enum News {
    /// All tags of a region.
    Replaced(RegionId),
    /// One step of a region.
    Step {
        region: RegionId,
        appeared: Vec<(Tag, u32)>,
        vanished: Vec<Tag>,
        position: FeedPosition,
    },
    /// What a region was said to have at a position was wrong.
    Mended {
        region: RegionId,
        appeared: Vec<(Tag, u32)>,
        vanished: Vec<Tag>,
        position: FeedPosition,
    },
    /// What a region has at this position is to be remembered.
    Mark(RegionId, FeedPosition),
    /// What that was.
    Digest(RegionId, FeedPosition, RangeDigest),
    /// A region has another state.
    Link(RegionId),
}

struct Inner {
    view: MeshView,
    links: BTreeMap<RegionId, Link>,
}

/// See the module.
pub(crate) struct Mesh {
    inner: RwLock<Inner>,
    begun: Instant,
    /// What gateways of the region saw of the links; bounded by the peers.
    seen: Mutex<Links>,
    news: broadcast::Sender<Arc<News>>,
}

impl Mesh {
    /// Of these peers, nothing known yet.
    pub(crate) fn new(links: BTreeMap<RegionId, Link>) -> Self {
        Self::with_news_max(links, NEWS_MAX)
    }

    pub(crate) fn with_news_max(links: BTreeMap<RegionId, Link>, news_max: usize) -> Self {
        let view = MeshView::new();
        Self {
            inner: RwLock::new(Inner { view, links }),
            begun: Instant::now(),
            seen: Mutex::default(),
            news: broadcast::Sender::new(news_max),
        }
    }

    /// Shows a change of a region to everybody.
    pub(crate) fn show(&self, region: &RegionId, change: Change) {
        let position = change.position;
        let mut inner = self.write();
        if inner
            .view
            .position(region)
            .is_some_and(|at| at.covers(&position))
        {
            return;
        }
        let news = match change.tags {
            Tags::Whole(tags) => {
                inner.view.reset(region);
                inner.view.step(region, &tags, &[], Some(position));
                News::Replaced(region.clone())
            }
            Tags::Step { appeared, vanished } => {
                let at = Some(position.clone());
                inner.view.step(region, &appeared, &vanished, at);
                News::Step {
                    region: region.clone(),
                    appeared,
                    vanished,
                    position,
                }
            }
        };
        // Under the lock: news come in the order of the view. An error: nobody listens.
        let _ = self.news.send(Arc::new(news));
    }

    /// Takes a change in place of what is shown, whatever the position: a snapshot, or a step up
    /// to `until`, where the feed is followed again. Gateways get everything anew at the end; says
    /// whether this was it.
    pub(crate) fn show_again(
        &self,
        region: &RegionId,
        change: Change,
        until: Option<&FeedPosition>,
    ) -> bool {
        let mut inner = self.write();
        let past =
            |at: &FeedPosition| until.is_none_or(|until| at.covers(until) || !until.covers(at));
        let at = change.position.clone();
        match &change.tags {
            Tags::Whole(tags) => {
                inner.view.reset(region);
                inner.view.step(region, tags, &[], Some(at));
            }
            Tags::Step { appeared, vanished } => {
                if until.is_some_and(|until| until.covers(&at)) {
                    inner.view.mend(region, appeared, vanished);
                }
                if !past(&at) {
                    return false;
                }
            }
        }
        let _ = self.news.send(Arc::new(News::Replaced(region.clone())));
        drop(inner);
        // A step that leads further; all else is covered.
        self.show(region, change);
        true
    }

    /// Notes that a region's feed was heard, and how far it said to be.
    pub(crate) fn hear(&self, region: &RegionId, at: Option<&FeedPosition>) {
        if let Some(link) = self.write().links.get_mut(region) {
            link.heard = Instant::now();
            link.heard_at = at.cloned().or(link.heard_at.take());
        }
    }

    /// Log entries of a region that were heard and are not shown yet; none: nothing was heard.
    pub(crate) fn lag(&self, region: &RegionId) -> Option<u64> {
        let inner = self.read();
        let heard = inner.links.get(region)?.heard_at.as_ref()?;
        Some(match inner.view.position(region) {
            Some(shown) if heard.log_incarnation == shown.log_incarnation => {
                heard.index.saturating_sub(shown.index)
            }
            _ => heard.index,
        })
    }

    /// Whether a region's tags show what its feed says now.
    pub(crate) fn caught_up(&self, region: &RegionId) -> bool {
        let lively = |link: &Link| link.heard.elapsed() < SILENCE_MAX;
        let near = |lag| lag <= LAG_CAUGHT_UP_MAX;
        self.standing(region).0.is_some()
            && self.lag(region).is_some_and(near)
            && self.link(region).as_ref().is_some_and(lively)
    }

    /// Changes a link; everybody is told when its region has another state.
    pub(crate) fn change_link(&self, region: &RegionId, change: impl FnOnce(&mut Link)) {
        let mut inner = self.write();
        let Some(link) = inner.links.get_mut(region) else {
            return;
        };
        let before = link.state;
        change(link);
        if link.state != before {
            let _ = self.news.send(Arc::new(News::Link(region.clone())));
        }
    }

    /// News from now on.
    pub(crate) fn subscribe(&self) -> broadcast::Receiver<Arc<News>> {
        self.news.subscribe()
    }

    /// Every link, ascending by region.
    pub(crate) fn links(&self) -> Vec<(RegionId, Link)> {
        let inner = self.read();
        let links = inner.links.iter();
        links
            .map(|(region, link)| (region.clone(), link.clone()))
            .collect()
    }

    /// The link to a region.
    pub(crate) fn link(&self, region: &RegionId) -> Option<Link> {
        self.read().links.get(region).cloned()
    }

    /// A region's tags and the position that they show; none before its first snapshot.
    pub(crate) fn tags(&self, region: &RegionId) -> Option<(Vec<(Tag, u32)>, FeedPosition)> {
        let inner = self.read();
        let position = inner.view.position(region)?.clone();
        Some((inner.view.tags_of(region), position))
    }

    /// The position that a region's tags show, and their number.
    pub(crate) fn standing(&self, region: &RegionId) -> (Option<FeedPosition>, u64) {
        let inner = self.read();
        let found = inner.view.regions().find(|(name, _, _)| *name == region);
        found.map_or((None, 0), |(_, position, tags)| (position.cloned(), tags))
    }

    fn read(&self) -> RwLockReadGuard<'_, Inner> {
        self.inner.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Inner> {
        self.inner.write().unwrap_or_else(PoisonError::into_inner)
    }
}
