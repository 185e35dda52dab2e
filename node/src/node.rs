//! What the parts of a node share.

use std::{
    panic::Location,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use kvmesh_client::{
    Block, BlockMeta, Problem, Ranges,
    ranges::{Pieces, RangesError},
};
use kvmesh_directory::{
    BlockName, Copy, CopyNumber, FeedPosition, Hlc, Incarnation, Namespace, NamespaceId, NodeId,
    RegionId, RingEpoch,
    hlc::HlcClock,
    mutation::{self, Mutation},
    state::Entry,
};
use kvmesh_process::{Environment, settings::Live};
use tokio::{
    sync::Semaphore,
    time::{Instant, timeout_at},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::debug;

use crate::{
    Settings, budget,
    consensus::Consensus,
    copying::Pace,
    directory::SharedDirectory,
    gate::ByteGate,
    local::Held,
    metrics::Metrics,
    moving::Progress,
    placement::Placement,
    reports::Reports,
    store::{CopyKey, KeepError, Store},
    write::Flights,
};

/// Offered blocks that are not settled yet, over all calls.
const OFFERS_MAX: usize = 65_536;
/// Blocks that are copied to other owners at a time.
const COPYING_MAX: usize = 64;

/// One node.
pub(crate) struct Node {
    pub(crate) settings: Live<Settings>,
    pub(crate) region: RegionId,
    pub(crate) me: NodeId,
    pub(crate) environment: Environment,
    pub(crate) directory: SharedDirectory,
    pub(crate) consensus: Consensus,
    pub(crate) placement: Placement,
    pub(crate) store: Store,
    pub(crate) reports: Reports,
    pub(crate) flights: Arc<Flights>,
    pub(crate) metrics: Metrics,
    /// Bytes of puts in flight.
    pub(crate) put_gate: ByteGate,
    /// Bytes of copies from other owners in flight: a gate of their own, so that owners
    /// that fill one another's memory do not wait in a circle.
    pub(crate) copy_gate: ByteGate,
    pub(crate) offers: Arc<Semaphore>,
    /// Blocks that are being copied to other owners.
    pub(crate) copying: Semaphore,
    /// Of repairs and moves.
    pub(crate) pace: Pace,
    /// Of the move that is under way.
    pub(crate) progress: Progress,
    /// What clients on this host read when the node ends.
    pub(crate) held: Held,
    pub(crate) tasks: TaskTracker,
    /// Ends the streams of calls; consensus and workers end later.
    pub(crate) stop: CancellationToken,
    clock: Mutex<HlcClock>,
    copy_numbers: AtomicU64,
}

/// What a node is made of.
pub(crate) struct Parts {
    pub(crate) settings: Live<Settings>,
    pub(crate) region: RegionId,
    pub(crate) environment: Environment,
    pub(crate) directory: SharedDirectory,
    pub(crate) consensus: Consensus,
    pub(crate) store: Store,
    pub(crate) tasks: TaskTracker,
    pub(crate) stop: CancellationToken,
}

impl Node {
    pub(crate) fn new(parts: Parts) -> Self {
        let settings = parts.settings.now();
        let inflight = budget::inflight_bytes(&settings);
        Self {
            me: NodeId(settings.node),
            region: parts.region,
            placement: Placement::new(parts.directory.clone()),
            metrics: Metrics::new(&parts.environment.instance),
            environment: parts.environment,
            directory: parts.directory,
            consensus: parts.consensus,
            store: parts.store,
            reports: Reports::default(),
            flights: Arc::default(),
            put_gate: ByteGate::new(inflight),
            copy_gate: ByteGate::new(inflight),
            offers: Arc::new(Semaphore::new(OFFERS_MAX)),
            copying: Semaphore::new(COPYING_MAX),
            pace: Pace::default(),
            progress: Progress::default(),
            held: Held::default(),
            tasks: parts.tasks,
            stop: parts.stop,
            clock: Mutex::default(),
            copy_numbers: AtomicU64::new(1),
            settings: parts.settings,
        }
    }

    /// Waits until no offered block is unsettled.
    pub(crate) async fn settled(&self) {
        let all = self.offers.acquire_many(OFFERS_MAX as u32).await;
        drop(all);
    }

    /// A new clock value, above everything that the log has shown.
    pub(crate) fn stamp(&self) -> Hlc {
        let seen = self.directory.with(|state| state.hlc_max());
        let mut clock = self.clock.lock().unwrap_or_else(PoisonError::into_inner);
        clock.see(seen);
        clock.tick(self.environment.clock.millis())
    }

    /// This start, once it is committed.
    pub(crate) fn incarnation(&self) -> Option<Incarnation> {
        self.consensus.incarnation()
    }

    /// A copy that never was, at this start. None: the start is not committed yet.
    pub(crate) fn new_copy(&self) -> Option<Copy> {
        self.incarnation()
            .map(|incarnation| self.copy_of(incarnation))
    }

    /// A copy that never was, at a start of this node.
    pub(crate) fn copy_of(&self, incarnation: Incarnation) -> Copy {
        let number = self.copy_numbers.fetch_add(1, Ordering::Relaxed);
        Copy {
            node: self.me,
            incarnation,
            copy: CopyNumber(number),
        }
    }

    /// Keeps a block provisionally and reports what had to go for it. A copy of the same
    /// content and clock that is here already is used again, and stays although its own put is
    /// refused.
    pub(crate) async fn keep(&self, name: BlockName, block: Arc<Block>) -> Result<Copy, Problem> {
        let retry_after = Duration::from_millis(500);
        let copy = self
            .new_copy()
            .ok_or_else(|| Problem::unavailable("this node has not begun its start yet"))?;
        let current = self.store.join(&name, &block.meta);
        if let Some(known) = current.filter(|known| known.incarnation == copy.incarnation) {
            return Ok(known);
        }
        let full = |limit: String| Problem::Exhausted { limit, retry_after };
        if self.reports.is_full() {
            return Err(full("the queue of evictions".to_owned()));
        }
        self.store
            .set_log(|| Some(self.position().ok()?.log_incarnation));
        match self.store.keep(CopyKey { name, copy }, block).await {
            Ok(evicted) => {
                self.metrics.evictions.increment(evicted.len() as u64);
                self.reports.evicted(&evicted);
                Ok(copy)
            }
            Err(KeepError::Full(error)) => Err(full(format!("block memory ({error})"))),
            Err(KeepError::Tier(error)) => Err(Problem::Internal(error.to_string())),
        }
    }

    /// Whether what would go for a block was used since the block was first put.
    pub(crate) fn is_worth_more(&self, name: &BlockName, meta: &BlockMeta) -> bool {
        let age_ms = (self.environment.clock.millis()).saturating_sub(meta.put_hlc.millis());
        let age = Settings::millis(age_ms);
        self.store.is_worth_more(name.namespace, meta.bytes, age)
    }

    /// Lets a copy go that the directory does not list (any more), unless a put relies on it.
    pub(crate) async fn unlisted(&self, key: CopyKey) {
        let ttl = Settings::millis(self.settings.now().provisional_ttl_ms);
        self.store.unlisted(key, ttl).await;
    }

    /// The copy that the directory says this node has, with its entry.
    pub(crate) fn listed(&self, name: &BlockName) -> Option<(Entry, CopyKey)> {
        let entry = self.directory.with(|state| state.entry(name))?;
        let copy = *entry.holders.iter().find(|copy| copy.node == self.me)?;
        Some((entry, CopyKey { name: *name, copy }))
    }

    /// As [`Self::listed`], unless it is withheld.
    fn servable(&self, name: &BlockName) -> Option<(Entry, CopyKey)> {
        self.listed(name).filter(|(_, key)| !self.is_withheld(*key))
    }

    /// A block as this node may serve it: the directory lists this very copy, and the
    /// serve lease is valid. A copy that is listed and not here is reported.
    pub(crate) async fn read(&self, name: &BlockName) -> Option<(Arc<Block>, Entry)> {
        self.read_as(name, false).await
    }

    /// As [`Self::read`]; where it is to be copied elsewhere, that does not count as a use.
    pub(crate) async fn read_as(
        &self,
        name: &BlockName,
        aside: bool,
    ) -> Option<(Arc<Block>, Entry)> {
        if !self.consensus.lease_valid() {
            return None;
        }
        let (entry, key) = self.servable(name)?;
        let read = match aside {
            true => self.store.read_aside(key).await,
            false => self.store.read(key).await,
        };
        let block = read.or_missing(|| self.stale_claim(key))?;
        Some((block, entry))
    }

    /// As [`Self::read`], of the pieces that ranges touch.
    ///
    /// # Errors
    /// When the block does not have the wanted bytes.
    pub(crate) async fn read_pieces(
        &self,
        name: &BlockName,
        ranges: &Ranges,
    ) -> Result<Option<(Pieces, Entry)>, RangesError> {
        let listed = self.consensus.lease_valid().then(|| self.servable(name));
        let Some((entry, key)) = listed.flatten() else {
            return Ok(None);
        };
        ranges.check(entry.bytes.into())?;
        let read = self.store.read_pieces(key, ranges).await;
        let pieces = read.or_missing(|| self.stale_claim(key));
        Ok(pieces.map(|pieces| (pieces, entry)))
    }

    /// Whether a copy is here that may be served: one that went through a lossy encoding only
    /// while the namespace's policy allows that. Afterwards it goes (`aging`).
    pub(crate) fn has(&self, key: CopyKey) -> bool {
        self.store.holds(key) && !self.is_withheld(key)
    }

    /// Whether a copy went through a lossy encoding, which its namespace does not allow (any more).
    pub(crate) fn is_withheld(&self, key: CopyKey) -> bool {
        let allowed = || {
            self.directory
                .with(|state| state.takes_lossy(key.name.namespace))
        };
        self.store.is_transcoded(key) && !allowed()
    }

    /// Reports a copy that the directory lists and that is not here.
    #[track_caller]
    pub(crate) fn stale_claim(&self, key: CopyKey) {
        if self.incarnation() == Some(key.copy.incarnation) && self.reports.missing(key) {
            debug!(?key, at = %Location::caller(), "a copy that is listed is not here");
            self.metrics.stale_claims.increment(1);
        }
    }

    /// A namespace that is known here.
    pub(crate) fn namespace(&self, id: NamespaceId) -> Result<Namespace, Problem> {
        self.directory.with(|state| {
            if state.region().is_none() {
                return Err(Problem::NotInitialised);
            }
            let unknown = || Problem::UnknownNamespace(id.to_string());
            // One that may not be here is none, whatever a log says.
            let known = state.namespace(id);
            let known = known.filter(|known| known.description.resides_in(&self.region));
            known.cloned().ok_or_else(unknown)
        })
    }

    /// Where this node stands in the region's feed.
    pub(crate) fn position(&self) -> Result<FeedPosition, Problem> {
        let position = self.directory.with(|state| state.position());
        position.ok_or(Problem::NotInitialised)
    }

    /// Waits until this node has applied every position of its own region. False: not in time.
    pub(crate) async fn reached(&self, positions: &[FeedPosition]) -> bool {
        let mut own = positions
            .iter()
            .filter(|position| position.region == self.region);
        let Some(index) = own.clone().map(|position| position.index).max() else {
            return true;
        };
        // A position of another log will never be reached.
        let log = self.position().map(|position| position.log_incarnation);
        if own.any(|position| log != Ok(position.log_incarnation)) {
            return false;
        }
        self.applied(
            index,
            Settings::millis(self.settings.now().at_least_wait_ms),
        )
        .await
    }

    /// Waits until this node has applied an index. False: not in time.
    pub(crate) async fn applied(&self, index: u64, wait: Duration) -> bool {
        let mut applied = self.directory.applied();
        let reached = applied.wait_for(|applied| *applied >= index);
        matches!(timeout_at(Instant::now() + wait, reached).await, Ok(Ok(_)))
    }

    /// Waits until this node's ring is at the caller's epoch.
    pub(crate) async fn at_epoch(&self, named: RingEpoch) -> Result<(), Problem> {
        if mutation::on(Mutation::EpochNotChecked) {
            return Ok(());
        }
        let mut applied = self.directory.applied();
        let wait = Settings::millis(self.settings.now().epoch_wait_ms);
        let reached = applied.wait_for(|_| self.placement.epoch() >= named);
        if timeout_at(Instant::now() + wait, reached).await.is_err() {
            return Err(Problem::unavailable(format!(
                "this node has not reached ring epoch {named}: ask another one"
            )));
        }
        match self.placement.epoch() {
            current if current == named => Ok(()),
            current => Err(Problem::StaleEpoch {
                current: current.0,
                named: named.0,
            }),
        }
    }
}
