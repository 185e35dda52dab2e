//! The gateways of a client, the preferred one first: whom a call asks.
//!
//! A gateway that fails is lost: calls go to the next one, and come back by themselves when it
//! has answered again for a while. Whether it does is tried by a task, never by a call; so a
//! dead gateway costs the calls that were under way one connect timeout, and the later ones
//! nothing. One that takes calls and says nothing is found by a probe beside the call, since a
//! region behind a link that swallows packets looks alive until TCP gives up.
//!
//! Invariant: with one gateway nothing is lost and nothing is probed.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use kvmesh_directory::RegionId;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};
use tonic::{Code, Request, Status};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};
use tracing::{info, warn};

use crate::{
    channel::{AddressError, CONNECT_TIMEOUT, Channel, Channels},
    rpc::RpcError,
};

/// A call that has heard nothing for so long has its gateway probed beside it.
const QUIET_MAX: Duration = Duration::from_millis(500);
/// A gateway that answers no probe in this time is silent. With [`QUIET_MAX`], a call that was
/// under way turns to another gateway well within two seconds.
const PROBE_MAX: Duration = Duration::from_millis(750);
/// A lost gateway is probed so often at first, and up to so rarely while it stays silent.
const RETRY_MIN: Duration = Duration::from_millis(500);
const RETRY_MAX: Duration = Duration::from_secs(4);
/// A lost gateway answers for so long without a failure before calls come back to it.
const HOLD: Duration = Duration::from_secs(1);

const _: () = assert!(QUIET_MAX.as_millis() >= CONNECT_TIMEOUT.as_millis());
const _: () = assert!(QUIET_MAX.as_millis() + PROBE_MAX.as_millis() < 2_000);

/// See the module. Shared by a client and the tasks that try its lost gateways.
pub(super) struct Gateways {
    all: Vec<Gateway>,
    channels: Channels,
    instance: String,
    /// Where a call starts while all are lost: past the one that failed last.
    next: AtomicUsize,
    tasks: TaskTracker,
    over: CancellationToken,
}

struct Gateway {
    address: String,
    lost: AtomicBool,
    /// Once one of its answers has said so.
    region: Mutex<Option<RegionId>>,
    /// When a probe was last answered; held while one is under way, which all calls share.
    probed: tokio::sync::Mutex<Option<Instant>>,
}

impl Gateways {
    /// The preferred gateway first. Nothing is tried any more once the guard is dropped.
    pub(super) fn new(
        addresses: Vec<String>,
        channels: Channels,
        instance: &str,
    ) -> Result<(Arc<Self>, DropGuard), AddressError> {
        for address in &addresses {
            channels.to(address)?;
        }
        let gateway = |address| Gateway {
            address,
            lost: AtomicBool::new(false),
            region: Mutex::default(),
            probed: tokio::sync::Mutex::default(),
        };
        let over = CancellationToken::new();
        let gateways = Arc::new(Self {
            all: addresses.into_iter().map(gateway).collect(),
            channels,
            instance: instance.to_owned(),
            next: AtomicUsize::new(0),
            tasks: TaskTracker::new(),
            over: over.clone(),
        });
        Ok((gateways, over.drop_guard()))
    }

    pub(super) fn address(&self, at: usize) -> &str {
        &self.all[at].address
    }

    pub(super) fn channel(&self, at: usize) -> Result<Channel, AddressError> {
        self.channels.to(self.address(at))
    }

    /// Where a call starts: the first one that is not lost.
    pub(super) fn first(&self) -> usize {
        let living = (0..self.all.len()).find(|at| !self.is_lost(*at));
        living.unwrap_or_else(|| self.next.load(Ordering::Relaxed))
    }

    /// Where a call goes on that failed at `at`: the next one around that is not lost.
    pub(super) fn after(&self, at: usize) -> usize {
        let around = (1..=self.all.len()).map(|step| (at + step) % self.all.len());
        let living = around.clone().find(|at| !self.is_lost(*at));
        living.unwrap_or((at + 1) % self.all.len())
    }

    pub(super) fn is_lost(&self, at: usize) -> bool {
        self.all[at].lost.load(Ordering::Relaxed)
    }

    /// The gateway cannot be reached, or does not serve.
    pub(super) fn lose(self: &Arc<Self>, at: usize, why: &dyn std::fmt::Display) {
        self.next
            .store((at + 1) % self.all.len(), Ordering::Relaxed);
        if self.all.len() < 2 || self.all[at].lost.swap(true, Ordering::Relaxed) {
            return;
        }
        warn!(gateway = self.address(at), %why, "a gateway is lost, the next one is asked");
        self.count("lost");
        let (gateways, over) = (Arc::clone(self), self.over.clone());
        self.tasks.spawn(async move {
            tokio::select! {
                () = over.cancelled() => {}
                () = gateways.wait_for(at) => {}
            }
        });
    }

    /// The gateway answered a call, as one does that is asked although it is lost.
    pub(super) fn answered(&self, at: usize) {
        if self.all[at].lost.swap(false, Ordering::Relaxed) {
            info!(gateway = self.address(at), "a gateway is asked again");
            self.count("found");
        }
    }

    /// An answer of the gateway says where it is.
    pub(super) fn resides(&self, at: usize, region: &RegionId) {
        let known = self.all[at].region.lock();
        let mut known = known.unwrap_or_else(PoisonError::into_inner);
        if known.as_ref() != Some(region) {
            *known = Some(region.clone());
        }
    }

    /// Regions all of whose gateways are lost, as far as it is known where they are.
    pub(super) fn lost_regions(&self) -> BTreeSet<RegionId> {
        let (mut lost, mut living) = (BTreeSet::new(), BTreeSet::new());
        for at in 0..self.all.len() {
            let region = self.all[at].region.lock();
            let region = region.unwrap_or_else(PoisonError::into_inner).clone();
            match self.is_lost(at) {
                true => lost.extend(region),
                false => living.extend(region),
            }
        }
        &lost - &living
    }

    /// Ends when the gateway is found to be silent; it is lost then. For a call that waits for
    /// it, from now on.
    pub(super) async fn silent(self: Arc<Self>, at: usize) -> RpcError {
        if self.all.len() < 2 {
            return std::future::pending().await;
        }
        loop {
            sleep(QUIET_MAX).await;
            // Whoever asks all of them, since all are lost, waits as long as he likes.
            if self.all.iter().all(|it| it.lost.load(Ordering::Relaxed)) {
                continue;
            }
            let mut probed = self.all[at].probed.lock().await;
            let lately = probed.is_some_and(|probed| probed.elapsed() < QUIET_MAX);
            if !self.is_lost(at) && (lately || self.answers(at).await) {
                *probed = Some(Instant::now());
                continue;
            }
            let why = "it takes calls, and does not answer";
            self.lose(at, &why);
            return Status::unavailable(why).into();
        }
    }

    /// Until a lost gateway is asked again.
    async fn wait_for(&self, at: usize) {
        let (mut since, mut pause): (Option<Instant>, _) = (None, RETRY_MIN);
        loop {
            sleep(pause.mul_f64(crate::random::in_range(0.9..1.1))).await;
            if !self.is_lost(at) {
                return;
            }
            if !self.answers(at).await {
                (since, pause) = (None, (pause * 2).min(RETRY_MAX));
                continue;
            }
            pause = RETRY_MIN;
            if since.get_or_insert_with(Instant::now).elapsed() >= HOLD {
                return self.answered(at);
            }
        }
    }

    async fn answers(&self, at: usize) -> bool {
        let Ok(channel) = self.channel(at) else {
            return false;
        };
        let mut request = Request::new(HealthCheckRequest::default());
        request.set_timeout(PROBE_MAX);
        match timeout(PROBE_MAX, HealthClient::new(channel).check(request)).await {
            Ok(Ok(answer)) => answer.into_inner().status() == ServingStatus::Serving,
            // Whoever knows no health is there.
            Ok(Err(status)) => status.code() == Code::Unimplemented,
            Err(_) => false,
        }
    }

    fn count(&self, change: &'static str) {
        metrics::counter!(
            "kvmesh_client_gateway_changes_total",
            "instance" => self.instance.clone(), "change" => change
        )
        .increment(1);
    }
}

#[cfg(test)]
#[path = "gateways_test.rs"]
mod gateways_test;
