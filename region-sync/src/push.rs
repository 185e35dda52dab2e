//! Brings here what one peer has of namespaces that are pushed to this region.
//!
//! The receiver pulls: it hears by the peer's `MESH` feed what is there, knows what is lacking
//! here, and asks a gateway of its own region to fetch it. Names wait in `queue`; bodies never
//! come by. What the queue could not keep, and what was there when a policy changed, is found by
//! reading the peer's snapshot again. `docs/decisions/0025-push-and-hot.md` says why so.

#[cfg(test)]
mod push_test;
mod queue;

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use kvmesh_client::follow::{MeshEvent, MeshScopeFollower, Source};
use kvmesh_directory::{
    BlockName, DirectoryState, Namespace, NamespaceId, PeerState, RegionId, limits::NAMESPACES_MAX,
};
use kvmesh_process::settings::Live;
use tokio::{
    sync::{Notify, Semaphore, mpsc},
    time::{Instant, sleep, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::{
    Settings,
    home::Home,
    mesh::Mesh,
    meters::Meters,
    rpc::bring::{Gateways, Order},
};
use queue::{Fate, Queue, Range, Waiting};

/// Blocks and bytes of one call to a gateway.
const CALL_BLOCKS: usize = 256;
const CALL_BYTES: u64 = 64 << 20;
/// Calls under way at a time, over all peers: a gateway takes 16 prefetches.
pub(crate) const CALLS_AT_ONCE: usize = 4;
/// How long a call may take; a gateway allows no more.
const CALL_MAX: Duration = Duration::from_secs(600);
/// Its part that does not depend on the bytes.
const CALL_MIN: Duration = Duration::from_secs(30);
/// How long the own view may take to show what came.
const VIEW_WAIT: Duration = Duration::from_secs(1);
/// After a call that failed.
const RETRY_MIN: Duration = Duration::from_millis(200);
const RETRY_MAX: Duration = Duration::from_secs(10);
/// How often it is looked at what time alone changes.
const TICK: Duration = Duration::from_millis(500);
/// After a mending that found nothing, or did not end; and how long one may take.
const MEND_PAUSE: Duration = Duration::from_secs(1);
const MEND_MAX: Duration = Duration::from_secs(600);
/// Events between the feed and who mends.
const EVENTS_MAX: usize = 16;

/// What was heard of one peer.
struct Heard {
    queue: Queue,
    /// Namespaces that are pushed to this region, as the peer says.
    pushed: BTreeSet<NamespaceId>,
}

/// What one peer has that is to be here: written by who follows its feed, read by [`Pushing`].
pub(crate) struct Push {
    own: RegionId,
    region: RegionId,
    home: Home,
    meters: Meters,
    heard: Mutex<Heard>,
    news: Notify,
}

impl Push {
    /// Nothing heard yet. At most `queue_max` names wait.
    pub(crate) fn new(
        (own, region): (&RegionId, &RegionId),
        home: Home,
        meters: Meters,
        queue_max: usize,
    ) -> Self {
        let heard = Heard {
            queue: Queue::new(queue_max),
            pushed: BTreeSet::new(),
        };
        Self {
            own: own.clone(),
            region: region.clone(),
            home,
            meters,
            heard: Mutex::new(heard),
            news: Notify::new(),
        }
    }

    fn heard(&self) -> MutexGuard<'_, Heard> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes what the feed said. Nothing waits for it to be brought here.
    pub(crate) fn take(&self, event: &MeshEvent) {
        match event {
            MeshEvent::SnapshotBegin | MeshEvent::SnapshotEnd(_) | MeshEvent::Heartbeat(_) => {}
            MeshEvent::Snapshot {
                blocks, namespaces, ..
            } => {
                // Their blocks come after them.
                self.know(namespaces, false);
                self.add(blocks, None);
            }
            MeshEvent::Step(_, step) => {
                self.know(&step.namespaces, true);
                self.add(&step.appeared, None);
                let mut heard = self.heard();
                for name in &step.vanished {
                    heard.queue.vanished(name);
                }
            }
        }
    }

    /// Notes which namespaces are pushed here. Of one that was not before, the peer may have
    /// had blocks for long: `had_blocks` says that they were not told after it.
    fn know(&self, namespaces: &[Namespace], had_blocks: bool) {
        let mut heard = self.heard();
        for namespace in namespaces {
            let resides = |region| namespace.description.resides_in(region);
            let pushed = namespace.policy.pushes_to(&self.own)
                && resides(&self.own)
                && resides(&self.region);
            if !pushed {
                heard.pushed.remove(&namespace.id);
            } else if heard.pushed.len() < NAMESPACES_MAX
                && heard.pushed.insert(namespace.id)
                && had_blocks
            {
                heard.queue.mark(Range::of(namespace.id));
                self.news.notify_one();
            }
        }
    }

    /// Takes blocks that the feed should have told.
    pub(crate) fn take_missed(&self, blocks: &[(BlockName, u32)]) {
        self.add(blocks, None);
    }

    /// Names that are lacking here, of those within a range.
    fn add(&self, blocks: &[(BlockName, u32)], within: Option<&Range>) {
        let mut heard = self.heard();
        if heard.pushed.is_empty() {
            return;
        }
        let pushed = |(name, _): &&(BlockName, u32)| {
            heard.pushed.contains(&name.namespace) && within.is_none_or(|range| range.has(name))
        };
        let pushed: Vec<(BlockName, u32)> = blocks.iter().filter(pushed).copied().collect();
        let lacking: Vec<(BlockName, u32)> = self.home.with(|state| {
            let lacks = |(name, _): &(BlockName, u32)| state.entry(name).is_none();
            pushed.into_iter().filter(lacks).collect()
        });
        let now = Instant::now();
        let mut refused = 0;
        let news = !lacking.is_empty();
        for (name, bytes) in lacking {
            refused += u64::from(!heard.queue.add(name, bytes, now));
        }
        drop(heard);
        self.meters.push_left("full", refused);
        if news {
            self.news.notify_one();
        }
    }

    /// What to bring next.
    fn next(&self) -> Vec<Waiting> {
        let mut heard = self.heard();
        let Heard { queue, pushed } = &mut *heard;
        self.home.with(|state| {
            let fate = |name: &BlockName| self.fate(state, pushed, name);
            queue.take(Instant::now(), (CALL_BLOCKS, CALL_BYTES), fate)
        })
    }

    fn fate(
        &self,
        home: &DirectoryState,
        pushed: &BTreeSet<NamespaceId>,
        name: &BlockName,
    ) -> Fate {
        if !pushed.contains(&name.namespace) || home.entry(name).is_some() {
            return Fate::Drop;
        }
        // What the peer says of it may not be committed here yet.
        let known = home.namespace(name.namespace);
        match known.is_some_and(|known| known.policy.pushes_to(&self.own)) {
            true => Fate::Bring,
            false => Fate::Wait,
        }
    }
}

/// Brings what one peer has.
pub(crate) struct Pushing {
    pub(crate) push: Arc<Push>,
    /// Of the peer's feed.
    pub(crate) source: Source,
    pub(crate) gateways: Gateways,
    pub(crate) mesh: Arc<Mesh>,
    pub(crate) settings: Live<Settings>,
    pub(crate) calls: Arc<Semaphore>,
}

impl Pushing {
    /// Works until `stop`.
    pub(crate) async fn run(self, stop: CancellationToken) {
        if self.gateways.is_empty() {
            if stop
                .run_until_cancelled(self.push.news.notified())
                .await
                .is_some()
            {
                warn!(peer = %self.push.region, "blocks are pushed to this region and not brought here: name its gateways in the setting `gateways`");
            }
            return;
        }
        stop.run_until_cancelled(self.work(&stop)).await;
    }

    async fn work(&self, stop: &CancellationToken) {
        // When a range may be mended again: at once, where the last time brought something.
        let (mut failures, mut mend_from) = (0_u32, Instant::now());
        loop {
            self.age();
            let idle = timeout(TICK, self.push.news.notified());
            if self.state() != Some(PeerState::Online) {
                // Names that come wait; those that wait too long are found again by mending.
                sleep(TICK).await;
                continue;
            }
            let rested = Instant::now() >= mend_from;
            let dirty = rested.then(|| self.push.heard().queue.take_dirty());
            if let Some(range) = dirty.flatten() {
                if !self.mend(range, stop).await {
                    mend_from = Instant::now() + MEND_PAUSE;
                }
                continue;
            }
            let batch = self.push.next();
            if batch.is_empty() {
                let _ = idle.await;
                continue;
            }
            match self.bring(batch, failures as usize).await {
                true => failures = 0,
                false => {
                    let wait = RETRY_MIN * 2_u32.pow(failures.min(10));
                    failures = failures.wrapping_add(1);
                    sleep(wait.min(RETRY_MAX)).await;
                }
            }
        }
    }

    fn state(&self) -> Option<PeerState> {
        self.mesh.link(&self.push.region).map(|link| link.state)
    }

    fn age(&self) {
        let age_max = self.settings.now().push_queue_age_max();
        let mut heard = self.push.heard();
        let old = heard.queue.age(Instant::now(), age_max);
        let (waiting, dirty) = (heard.queue.len(), heard.queue.is_dirty());
        drop(heard);
        self.push.meters.push_left("old", old as u64);
        self.push.meters.push_standing(waiting, dirty);
    }

    /// One call; false: nothing is known of what came of it, and all of it waits on. Takes at
    /// least as long as its bytes may.
    async fn bring(&self, batch: Vec<Waiting>, turn: usize) -> bool {
        let Some(first) = batch.first() else {
            return true;
        };
        let Ok(_call) = self.calls.acquire().await else {
            return false;
        };
        let bytes: u64 = batch.iter().map(|waiting| u64::from(waiting.bytes)).sum();
        let rate = self.rate();
        let limit = CALL_MIN + Duration::from_secs_f64((bytes as f64 * 4.0 / rate).min(1e6));
        let order = Order {
            namespace: first.name.namespace,
            keys: batch.iter().map(|waiting| waiting.name.key()).collect(),
            region: self.push.region.clone(),
            limit: limit.min(CALL_MAX),
        };
        let begun = Instant::now();
        let out_of_time = match self.gateways.bring(&order, turn).await {
            Err(error) => {
                debug!(peer = %self.push.region, %error, "blocks that are pushed are not brought yet");
                self.push.meters.push_call_failed();
                self.push.heard().queue.put_back(batch, Instant::now());
                return false;
            }
            Ok(brought) => {
                if let Some(position) = brought.position {
                    let until = Instant::now() + VIEW_WAIT;
                    self.push.home.reaches(&position, until).await;
                }
                brought.out_of_time
            }
        };
        let came = self.settle(batch, !out_of_time);
        let pace = Duration::from_secs_f64((came as f64 / rate).min(3_600.0));
        sleep_until(begun + pace).await;
        true
    }

    /// Tells what came from what did not; says how many bytes came. Of what was not tried, nothing
    /// is concluded.
    fn settle(&self, batch: Vec<Waiting>, tried: bool) -> u64 {
        let here: Vec<bool> = self.push.home.with(|state| {
            let here = |waiting: &Waiting| state.entry(&waiting.name).is_some();
            batch.iter().map(here).collect()
        });
        // Behind a link that breaks, nothing comes, and that says nothing of the blocks.
        let tried = tried && self.state() == Some(PeerState::Online);
        let (mut blocks, mut bytes, mut given_up) = (0, 0, 0);
        let (mut heard, now) = (self.push.heard(), Instant::now());
        for (waiting, here) in batch.into_iter().zip(here) {
            match (here, tried) {
                (true, _) => {
                    blocks += 1;
                    bytes += u64::from(waiting.bytes);
                }
                (false, true) => given_up += u64::from(!heard.queue.failed(waiting, now)),
                (false, false) => heard.queue.put_back(vec![waiting], now),
            }
        }
        drop(heard);
        self.push.meters.pushed(blocks, bytes, given_up);
        bytes
    }

    /// Reads the peer's snapshot for names of a range that are lacking here; says whether there
    /// are some.
    async fn mend(&self, range: Range, stop: &CancellationToken) -> bool {
        self.push.meters.push_mended();
        let (events, mut taken) = mpsc::channel(EVENTS_MAX);
        let push = &self.push;
        let (region, own) = (push.region.clone(), push.own.clone());
        let follower = MeshScopeFollower::new(self.source.clone(), region, own, None, events);
        let reading = async {
            while let Some(event) = taken.recv().await {
                match event {
                    MeshEvent::Snapshot { blocks, .. } => push.add(&blocks, Some(&range)),
                    MeshEvent::SnapshotEnd(_) => return true,
                    _ => {}
                }
            }
            false
        };
        let whole = tokio::select! {
            () = follower.run(stop.child_token()) => false,
            whole = timeout(MEND_MAX, reading) => whole.unwrap_or(false),
        };
        if !whole {
            push.heard().queue.mark(range);
        }
        whole && push.heard().queue.len() > 0
    }

    /// Bytes a second that what is pushed may take of the link.
    fn rate(&self) -> f64 {
        let share = f64::from(self.settings.now().push_share_permille) / 1_000.0;
        let cost = self.mesh.cost(&self.push.region);
        // Of a setting without any transfer, it is the setting.
        cost.map_or(1.0, |cost| (cost.bandwidth.median * share).max(1.0))
    }
}
