//! Compares what is known of one peer with what the peer has, from time to time and when an
//! operator orders it, and mends what differs. `docs/decisions/0027-comparing.md` says why so.
//!
//! Nothing waits for it: both sides are frozen at one position and counted apart.

#[cfg(test)]
mod compare_test;
mod difference;
pub(crate) mod order;
#[cfg(test)]
mod world_test;

pub(crate) use difference::Difference;

use std::{sync::Arc, time::Duration};

use kvmesh_client::follow;
use kvmesh_directory::{FeedPosition, LogIncarnation, PeerState, view::Digest};
use kvmesh_process::settings::Live;
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::{
    Settings,
    backlog::Batch,
    home::Home,
    mesh::{Frozen, Lost, Mesh},
    meters::Meters,
    peer::Restart,
    push::Push,
    rpc::compare::{AskError, Counted, PeerNodes},
};
use order::Order;

/// How long what is shown may take to get where the peer was.
const REACH_MAX: Duration = Duration::from_secs(30);
/// A comparison takes no longer, mending included.
const COMPARE_MAX: Duration = Duration::from_secs(600);
/// How long the view of the own region may take to show what was committed.
const HOME_VIEW_MAX: Duration = Duration::from_secs(2);
/// How long the own region may take to commit what it had not heard of.
const HOME_COMMIT_MAX: Duration = Duration::from_secs(60);
/// After one that did not end, unless the next one is due earlier.
const RETRY_AFTER: Duration = Duration::from_secs(20);
/// How often it is looked whether one is due: settings can change.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// On whose wish it is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wish {
    Own,
    Operator,
}

impl Wish {
    /// Whether a peer of this state is compared. One that comes back has enough to do; but an
    /// operator may want to know whether what it did meanwhile is known by now.
    fn holds(self, state: PeerState) -> bool {
        state.is_asked() || self == Self::Operator && state == PeerState::CatchingUp
    }
}

/// Why a comparison found nothing out.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CompareError {
    /// There is nothing to compare yet, or nobody to ask.
    #[error("the region does not answer now, or nothing is known of it yet")]
    NotNow,
    /// What was frozen is of no use any more.
    #[error(transparent)]
    Lost(#[from] Lost),
    /// The peer did not say what it has.
    #[error(transparent)]
    Ask(#[from] AskError),
    /// It took too long.
    #[error("comparing took too long")]
    Late,
}

/// See the module. One for each peer.
pub(crate) struct Comparing {
    pub(crate) nodes: PeerNodes,
    pub(crate) mesh: Arc<Mesh>,
    pub(crate) home: Home,
    pub(crate) push: Arc<Push>,
    pub(crate) meters: Meters,
    pub(crate) settings: Live<Settings>,
    /// Of operators.
    pub(crate) orders: mpsc::Receiver<Order>,
    /// To who follows the peer.
    pub(crate) restarts: mpsc::Sender<Restart>,
    /// It was said that the peer does not compare.
    pub(crate) told: bool,
    /// Of the peer's namespaces and deleted names when the own region had all of them, and in
    /// which of its logs.
    pub(crate) objects: Option<(LogIncarnation, u64)>,
}

impl Comparing {
    /// Works until `stop`.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        stop.run_until_cancelled(self.work()).await;
    }

    async fn work(&mut self) {
        let (mut last, mut share) = (Instant::now(), jitter());
        let mut retry: Option<Instant> = None;
        loop {
            let every = self.settings.now().compare_every();
            let usual = every.map(|every| last + every.mul_f64(share));
            let due = usual.map(|usual| retry.map_or(usual, |retry| retry.min(usual)));
            let now = Instant::now();
            if due.is_some_and(|due| due <= now) {
                let ended = self.by_itself().await;
                (last, share) = (Instant::now(), jitter());
                retry = (!ended).then(|| last + RETRY_AFTER.mul_f64(share));
                continue;
            }
            let look = now + LOOK_EVERY;
            tokio::select! {
                Some(order) = self.orders.recv() => self.serve(order).await,
                () = sleep_until(due.map_or(look, |due| due.min(look))) => {}
            }
        }
    }

    /// Compares, and has gateways compare as well; false: it is to be tried again soon.
    async fn by_itself(&mut self) -> bool {
        let compared = self.compare(Wish::Own).await;
        if !matches!(compared, Err(CompareError::NotNow)) {
            self.tell_gateways().await;
        }
        match compared {
            Ok(_) => true,
            Err(CompareError::Ask(AskError::Unknown(_))) => true,
            Err(error) => {
                debug!(peer = %self.nodes.region, %error, "not compared");
                false
            }
        }
    }

    /// Compares once, mends and counts.
    async fn compare(&mut self, wish: Wish) -> Result<Difference, CompareError> {
        let compared = match timeout(COMPARE_MAX, self.attempt(wish)).await {
            Ok(compared) => compared,
            Err(_) => Err(CompareError::Late),
        };
        let end = match &compared {
            Ok(found) if found.is_empty() => "equal",
            Ok(_) => "mended",
            Err(CompareError::Ask(AskError::Unknown(_))) => "unknown",
            Err(CompareError::NotNow) => return compared,
            Err(_) => "failed",
        };
        self.meters.compared(end);
        let peer = &self.nodes.region;
        match &compared {
            Ok(found) if !found.is_empty() => {
                let (missing, gone) = (found.missing.len(), found.gone.len());
                let (ranges, resized) = (found.ranges(), found.resized.len());
                let objects = found.objects;
                warn!(%peer, ranges, missing, gone, resized, objects, "what was known of a region was wrong, and is mended");
            }
            Err(CompareError::Ask(error @ AskError::Unknown(_))) if !self.told => {
                self.told = true;
                warn!(%peer, %error, "what is known of a region is not compared with what it has");
            }
            _ => {}
        }
        compared
    }

    async fn attempt(&mut self, wish: Wish) -> Result<Difference, CompareError> {
        let region = self.nodes.region.clone();
        let region = &region;
        let link = self.mesh.link(region);
        if link.is_none_or(|link| !wish.holds(link.state)) {
            return Err(CompareError::NotNow);
        }
        let mut frozen = self.mesh.freeze(region).ok_or(CompareError::NotNow)?;
        let at = frozen.at().clone();
        let Counted {
            position,
            blocks: theirs,
            objects,
        } = frozen.during(self.nodes.digest(&at)).await??;
        frozen.reach(&position, Instant::now() + REACH_MAX).await?;
        let view = frozen.view().clone();
        let ours = frozen.during(follow::digest(&view, region)).await?;
        let mut mended = Difference::default();
        if let Some(digest) = objects {
            mended.objects = self.objects(&mut frozen, digest).await?;
        }
        let rate = self.settings.now().mend_blocks_per_second.max(1);
        for (ranges, about) in batches(&ours.differing(&theirs), &theirs, rate as usize) {
            let begun = Instant::now();
            let found = self.mend(&mut frozen, &ranges, about).await?;
            mended.extend(found);
            let pace = Duration::from_secs_f64(about as f64 / f64::from(rate));
            frozen.during(sleep_until(begun + pace)).await?;
        }
        Ok(mended)
    }

    /// Has the own region commit the peer's namespaces and deleted names that it lacks; how many
    /// these were. Nothing is read while they are what they were when it had all of them.
    async fn objects(&mut self, frozen: &mut Frozen, digest: u64) -> Result<usize, CompareError> {
        let log = self.home.log().ok_or(CompareError::NotNow)?;
        if self.objects == Some((log, digest)) {
            return Ok(0);
        }
        let at = frozen.at().clone();
        let asked = self.nodes.objects(&at);
        let (position, theirs) = frozen.during(asked).await??;
        // What the feed said is committed before it is shown.
        frozen.reach(&position, Instant::now() + REACH_MAX).await?;
        let lacking = || (self.home).with(|home| theirs.lacking(&position.region, home));
        let mut lacks = lacking();
        if !lacks.is_empty() {
            frozen.during(sleep(HOME_VIEW_MAX)).await?;
            lacks = lacking();
        }
        let found = lacks.weight();
        if found > 0 {
            let batch = Batch::left_out(lacks, position);
            let committing = self.home.commit(&batch, true, &self.meters);
            let committed = frozen.during(timeout(HOME_COMMIT_MAX, committing)).await?;
            committed.map_err(|_| CompareError::Late)?;
            let objects = Difference {
                objects: found,
                ..Difference::default()
            };
            self.meters.mended(&objects);
        }
        self.objects = Some((log, digest));
        Ok(found)
    }

    /// Gives some ranges the content that the peer has.
    async fn mend(
        &self,
        frozen: &mut Frozen,
        ranges: &[usize],
        about: usize,
    ) -> Result<Difference, CompareError> {
        let at = frozen.at().clone();
        let asked = self.nodes.blocks(ranges, about, &at);
        let (position, there) = frozen.during(asked).await??;
        frozen.reach(&position, Instant::now() + REACH_MAX).await?;
        let (view, region) = (frozen.view(), &self.nodes.region);
        let shown = ranges
            .iter()
            .flat_map(|range| view.blocks_in(region, *range));
        let found = Difference::between(shown, &there);
        let mended = self.mesh.mend(frozen, found)?;
        self.meters.mended(&mended);
        self.push.take_missed(&mended.missing);
        Ok(mended)
    }

    /// Gateways that hold something else than what is shown ask for all of it again.
    async fn tell_gateways(&self) {
        let region = &self.nodes.region;
        if let Some((view, position)) = self.mesh.mark(region) {
            let total = follow::digest(&view, region).await.total();
            self.mesh.tell_digest(region, position, total);
        }
    }

    /// For an operator, as often as it takes, within bounds: what is followed may be replaced, and a node may
    /// be busy with another caller.
    async fn compare_patiently(&mut self) -> Result<Difference, CompareError> {
        let mut left = 5;
        loop {
            left -= 1;
            match self.compare(Wish::Operator).await {
                Err(CompareError::Lost(_) | CompareError::Ask(AskError::Status(_))) if left > 0 => {
                    sleep(LOOK_EVERY).await;
                }
                ended => return ended,
            }
        }
    }

    /// What gateways are shown of the peer.
    fn standing(&self) -> (Option<FeedPosition>, u64) {
        self.mesh.standing(&self.nodes.region)
    }
}

/// Ranges that are read together, about a second's worth of blocks, with their number.
fn batches(differing: &[usize], theirs: &Digest, blocks_max: usize) -> Vec<(Vec<usize>, usize)> {
    let mut batches: Vec<(Vec<usize>, usize)> = Vec::new();
    for range in differing {
        let blocks = theirs.ranges()[*range].blocks;
        let blocks = usize::try_from(blocks).unwrap_or(usize::MAX);
        match batches.last_mut() {
            Some((ranges, about)) if about.saturating_add(blocks) <= blocks_max => {
                ranges.push(*range);
                *about += blocks;
            }
            _ => batches.push((vec![*range], blocks)),
        }
    }
    batches
}

fn jitter() -> f64 {
    kvmesh_client::random::in_range(0.9..1.1)
}
