//! What every call of one gateway shares.

use std::{sync::Arc, time::Duration};

use kvmesh_client::{Problem, local::Local};
use kvmesh_directory::RegionId;
use kvmesh_process::{Environment, settings::Live};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    absent::Absent,
    budget::{Budget, Room},
    coding::Coding,
    far::Hedges,
    fill::Fills,
    flight::Flights,
    hot::Hot,
    links::Links,
    meters::Meters,
    peers::Peers,
    pending::Pending,
    prefetch::Prefetches,
    prefill::Prefill,
    reach::Reach,
    settings::Settings,
    views::Views,
    watch::WATCHES_MAX,
};

/// When a caller that found a limit used up should try again.
pub(crate) const RETRY_AFTER: Duration = Duration::from_millis(200);

/// One gateway.
pub(crate) struct Gateway {
    pub(crate) settings: Live<Settings>,
    pub(crate) region: RegionId,
    pub(crate) environment: Environment,
    pub(crate) views: Views,
    pub(crate) peers: Peers,
    /// Which other regions this gateway could not reach.
    pub(crate) reach: Arc<Reach>,
    /// What other regions said a moment ago that they do not have.
    pub(crate) absent: Absent,
    pub(crate) meters: Meters,
    pub(crate) tasks: TaskTracker,
    /// Puts under way here.
    pub(crate) pending: Pending,
    /// Fetches under way here.
    pub(crate) flights: Flights,
    /// Second askings of fetches that may be made.
    pub(crate) hedges: Hedges,
    /// Fetched blocks on their way into this region.
    pub(crate) fills: Fills,
    /// Bytes of gets, of fetches, and of puts that are in memory.
    pub(crate) get_bytes: Budget,
    pub(crate) fetch_bytes: Budget,
    pub(crate) put_bytes: Budget,
    /// What fetches showed of the links to other regions.
    pub(crate) links: Arc<Links>,
    /// How fast engines prefill.
    pub(crate) prefill: Prefill,
    pub(crate) prefetches: Prefetches,
    /// What gets wanted of other regions, where that decides what is kept.
    pub(crate) hot: Hot,
    /// Encodings on links.
    pub(crate) coding: Coding,
    /// Nodes on this host.
    pub(crate) mapped: Option<Local>,
    /// Room for watches.
    pub(crate) watches: Arc<Semaphore>,
    /// Ends what would go on for long.
    pub(crate) stop: CancellationToken,
    pub(crate) calls: Room,
}

fn mapped(settings: &Settings, own: &RegionId, environment: &Environment) -> Option<Local> {
    let place = settings.local_sockets.clone();
    let local = Local::new(place, &environment.instance);
    local.settle(own);
    (!settings.local_sockets.as_os_str().is_empty()).then_some(local)
}

impl Gateway {
    pub(crate) fn new(
        settings: Live<Settings>,
        region: RegionId,
        environment: Environment,
        views: Views,
        fills: Fills,
        tasks: TaskTracker,
        stop: CancellationToken,
    ) -> Self {
        let first = settings.now();
        let bytes = first.inflight_bytes_max;
        let meters = Meters::new(Arc::clone(&environment.instance));
        Self {
            peers: Peers::new(&environment.channels, &region, settings.clone()),
            mapped: mapped(&first, &region, &environment),
            region,
            views,
            reach: Arc::default(),
            absent: Absent::default(),
            links: Arc::new(Links::new(meters.clone())),
            meters,
            prefill: Prefill::default(),
            prefetches: Prefetches::new(&environment.instance, environment.clock.millis()),
            hot: Hot::default(),
            coding: Coding::new(
                environment.clone(),
                Meters::new(Arc::clone(&environment.instance)),
            ),
            watches: Arc::new(Semaphore::new(WATCHES_MAX)),
            stop,
            environment,
            tasks,
            pending: Pending::default(),
            flights: Flights::default(),
            hedges: Hedges::default(),
            fills,
            get_bytes: Budget::new("inflight_bytes_max (gets)", bytes),
            fetch_bytes: Budget::new("inflight_bytes_max (fetches)", bytes),
            put_bytes: Budget::new("inflight_bytes_max (puts)", bytes),
            calls: Room::new(first.calls_max),
            settings,
        }
    }

    /// Admits one more call, or says that there are too many.
    pub(crate) fn admit(&self) -> Result<OwnedSemaphorePermit, Problem> {
        let room = self.calls.take_now(1);
        room.map_err(|_| exhausted("calls_max"))
    }

    /// Whether gets and fills leave so much room that what is pushed may take some.
    pub(crate) fn is_quiet(&self) -> bool {
        self.fetch_bytes.is_half_free() && self.fills.bytes.is_half_free()
    }

    /// How long an owner may take to answer about so many bytes.
    pub(crate) fn owner_timeout(&self, bytes: u64) -> Duration {
        Duration::from_millis(self.settings.now().owner_timeout_ms) + transfer_time(bytes)
    }
}

/// Of bytes at 100 MB/s.
fn transfer_time(bytes: u64) -> Duration {
    Duration::from_micros(bytes / 100)
}

pub(crate) fn exhausted(limit: &str) -> Problem {
    Problem::Exhausted {
        limit: limit.to_owned(),
        retry_after: RETRY_AFTER,
    }
}
