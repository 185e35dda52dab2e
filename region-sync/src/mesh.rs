//! What this region-sync tells its gateways: the tags of every other region, and the links.
//!
//! Written by the tasks of the peers, read by subscribers. A subscriber gets the news by a
//! bounded queue; one that lags, or hears that a region's tags were replaced, takes the
//! region's tags anew. Repeated steps are harmless: their positions are covered already.

use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
    time::Duration,
};

use kvmesh_directory::{FeedPosition, MeshView, RegionId, Tag};
use tokio::{sync::broadcast, time::Instant};

use crate::backlog::{Change, Tags};

/// Steps that a subscriber may lag behind before it takes everything anew.
pub(crate) const NEWS_MAX: usize = 4_096;

/// The way to another region.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Link {
    /// It answered lately.
    pub(crate) reachable: bool,
    /// Last round trip seen.
    pub(crate) rtt: Option<Duration>,
    /// Bytes per second, as configured.
    pub(crate) bandwidth: f64,
    /// The one that answered last comes first.
    pub(crate) gateways: Vec<String>,
    /// When its feed was last heard; at first when this process started.
    pub(crate) heard: Instant,
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
    /// A region became reachable, or unreachable.
    Link(RegionId),
}

struct Inner {
    view: MeshView,
    links: BTreeMap<RegionId, Link>,
}

/// See the module.
pub(crate) struct Mesh {
    inner: RwLock<Inner>,
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

    /// Notes that a region's feed was heard.
    pub(crate) fn hear(&self, region: &RegionId) {
        if let Some(link) = self.write().links.get_mut(region) {
            link.heard = Instant::now();
        }
    }

    /// Changes a link; everybody is told when it became reachable or unreachable.
    pub(crate) fn change_link(&self, region: &RegionId, change: impl FnOnce(&mut Link)) {
        let mut inner = self.write();
        let Some(link) = inner.links.get_mut(region) else {
            return;
        };
        let before = link.reachable;
        change(link);
        if link.reachable != before {
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
