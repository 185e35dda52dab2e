//! What the other regions have, and how far they are, shared by everybody in the process.

use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
    time::Duration,
};

use kvmesh_directory::{
    FeedPosition, MeshView, PeerState, RegionId, Tag, cost::Configured, limits::REGIONS_MAX,
};
use tokio::{
    sync::watch,
    time::{Instant, timeout_at},
};

/// The way to another region, as region-sync last said.
#[derive(Debug, Clone, PartialEq)]
pub struct Link {
    /// It is asked: online, or suspect.
    pub reachable: bool,
    /// What region-sync thinks of it.
    pub state: PeerState,
    /// Log entries of it that region-sync heard and does not show yet.
    pub lag_entries: u64,
    /// Last round trip seen, milliseconds; 0: none yet.
    pub rtt_ms: f64,
    /// Bytes per second.
    pub bandwidth: f64,
    /// What settings and probes say of it.
    pub configured: Configured,
    /// `host:port` of the region's gateways.
    pub gateways: Vec<String>,
    /// When the region's own feed was last heard.
    pub heard: Instant,
}

#[derive(Default)]
struct Inner {
    view: RwLock<MeshView>,
    links: RwLock<BTreeMap<RegionId, Link>>,
    tick: watch::Sender<u64>,
}

/// A view of the other regions. Cheap to clone; clones share it.
#[derive(Clone, Default)]
pub struct SharedMeshView {
    inner: Arc<Inner>,
}

impl SharedMeshView {
    /// Nothing known; written by a [`super::MeshViewFollower`] from then on.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads the view under a short lock. Do not call back into the view from `read`.
    pub fn with<T>(&self, read: impl FnOnce(&MeshView) -> T) -> T {
        read(&self.view())
    }

    /// The link to a region; none before region-sync spoke of it.
    #[must_use]
    pub fn link(&self, region: &RegionId) -> Option<Link> {
        self.links_guard().get(region).cloned()
    }

    /// Every link, ascending by region.
    #[must_use]
    pub fn links(&self) -> Vec<(RegionId, Link)> {
        let links = self.links_guard();
        links
            .iter()
            .map(|(region, link)| (region.clone(), link.clone()))
            .collect()
    }

    /// Time since a region's feed was last heard; none: never.
    #[must_use]
    pub fn age(&self, region: &RegionId) -> Option<Duration> {
        self.links_guard()
            .get(region)
            .map(|link| link.heard.elapsed())
    }

    /// Where the view of a region stands.
    #[must_use]
    pub fn position(&self, region: &RegionId) -> Option<FeedPosition> {
        self.with(|view| view.position(region).cloned())
    }

    /// Changes with every step and every news of a link.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.inner.tick.subscribe()
    }

    /// Waits until the view of the position's region shows everything that one at `position`
    /// shows, at most until `deadline`. Says whether it does.
    pub async fn wait_for(&self, position: &FeedPosition, deadline: Instant) -> bool {
        let mut changes = self.changes();
        let covered = changes.wait_for(|_| {
            self.with(|view| {
                view.position(&position.region)
                    .is_some_and(|at| at.covers(position))
            })
        });
        matches!(timeout_at(deadline, covered).await, Ok(Ok(_)))
    }

    /// A region has these blocks and no others.
    pub(super) fn replace(&self, region: &RegionId, tags: &[(Tag, u32)], position: FeedPosition) {
        {
            let mut view = self.view_mut();
            view.reset(region);
            view.step(region, tags, &[], Some(position));
        }
        self.changed();
    }

    /// A region took a step.
    pub(super) fn step(
        &self,
        region: &RegionId,
        appeared: &[(Tag, u32)],
        vanished: &[Tag],
        position: FeedPosition,
    ) {
        self.view_mut()
            .step(region, appeared, vanished, Some(position));
        self.changed();
    }

    /// What a region is said to have at a position was wrong. Where the view is at a later one,
    /// it has had this. False: it is not so far, or follows another log.
    pub(super) fn mend(
        &self,
        region: &RegionId,
        appeared: &[(Tag, u32)],
        vanished: &[Tag],
        position: &FeedPosition,
    ) -> bool {
        {
            let mut view = self.view_mut();
            match view.position(region) {
                Some(at) if at == position => view.mend(region, appeared, vanished),
                Some(at) => return at.covers(position),
                None => return false,
            }
        }
        self.changed();
        true
    }

    /// The view as it is now, and where it stands in a region's feed; costs a few pointers.
    pub(super) fn freeze(&self, region: &RegionId) -> Option<(MeshView, FeedPosition)> {
        self.with(|view| Some((view.clone(), view.position(region)?.clone())))
    }

    /// News of a link; more regions than a mesh can have are not kept.
    pub(super) fn set_link(&self, region: RegionId, link: Link) {
        {
            let links = self.inner.links.write();
            let mut links = links.unwrap_or_else(PoisonError::into_inner);
            if links.len() < REGIONS_MAX || links.contains_key(&region) {
                links.insert(region, link);
            }
        }
        self.changed();
    }

    fn changed(&self) {
        self.inner.tick.send_modify(|tick| *tick += 1);
    }

    fn view(&self) -> RwLockReadGuard<'_, MeshView> {
        let view = self.inner.view.read();
        view.unwrap_or_else(PoisonError::into_inner)
    }

    fn view_mut(&self) -> RwLockWriteGuard<'_, MeshView> {
        let view = self.inner.view.write();
        view.unwrap_or_else(PoisonError::into_inner)
    }

    fn links_guard(&self) -> RwLockReadGuard<'_, BTreeMap<RegionId, Link>> {
        let links = self.inner.links.read();
        links.unwrap_or_else(PoisonError::into_inner)
    }
}
