//! Whom the gateway talks to: warm channels, and a short memory of who could not be reached.

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use kvmesh_client::{
    Problem,
    channel::{Channel, Channels},
};
use kvmesh_directory::RegionId;
use kvmesh_process::{
    settings::Live,
    tls::{Expected, Role},
};
use tokio::time::Instant;

use crate::settings::Settings;

/// Addresses that are remembered as failing; more are not remembered.
const FAILING_MAX: usize = 4_096;
/// Far gateways that are doubted at once; more are found out about in their turn.
const DOUBTED_MAX: usize = 64;

/// Channels and failures by address.
pub(crate) struct Peers {
    /// To nodes of the own region.
    near: Channels,
    /// To region-syncs of the own region.
    syncs: Channels,
    /// To gateways of other regions.
    far: Channels,
    settings: Live<Settings>,
    failing: Mutex<BTreeMap<String, Instant>>,
    /// Far gateways that did not answer while they were waited for.
    doubted: Mutex<BTreeSet<(RegionId, String)>>,
    turn: AtomicUsize,
}

impl Peers {
    pub(crate) fn new(channels: &Channels, own: &RegionId, settings: Live<Settings>) -> Self {
        Self {
            near: channels.expecting(Expected::of(Role::Node, own)),
            syncs: channels.expecting(Expected::of(Role::RegionSync, own)),
            far: channels.far(),
            settings,
            failing: Mutex::default(),
            doubted: Mutex::default(),
            turn: AtomicUsize::new(0),
        }
    }

    /// The channel to a node of the own region.
    pub(crate) fn channel(&self, address: &str) -> Result<Channel, Problem> {
        self.near
            .to(address)
            .map_err(|error| Problem::Internal(error.to_string()))
    }

    /// The channel to a region-sync of the own region.
    pub(crate) fn region_sync(&self, address: &str) -> Result<Channel, Problem> {
        self.syncs
            .to(address)
            .map_err(|error| Problem::Internal(error.to_string()))
    }

    /// A channel to a gateway of another region: one of its lanes, from 0 on.
    pub(crate) fn far(
        &self,
        region: &RegionId,
        address: &str,
        lane: usize,
    ) -> Result<Channel, Problem> {
        self.far
            .expecting(Expected::of(Role::Gateway, region))
            .lane(address, lane)
            .map_err(|error| Problem::Internal(error.to_string()))
    }

    /// A far gateway may be dead: nobody waits for its answer any more.
    pub(crate) fn doubt(&self, region: &RegionId, address: &str) {
        let mut doubted = self.doubted.lock().unwrap_or_else(PoisonError::into_inner);
        if doubted.len() < DOUBTED_MAX {
            doubted.insert((region.clone(), address.to_owned()));
        }
    }

    /// Those that are doubted, and no more once they are told; but for these.
    pub(crate) fn take_doubted(
        &self,
        but: &BTreeSet<(RegionId, String)>,
    ) -> BTreeSet<(RegionId, String)> {
        let mut doubted = self.doubted.lock().unwrap_or_else(PoisonError::into_inner);
        let all = mem::take(&mut *doubted).into_iter();
        let (left, taken) = all.partition(|at| but.contains(at));
        *doubted = left;
        taken
    }

    /// The address could not be reached, or fell silent.
    pub(crate) fn failed(&self, address: &str) {
        let memory = Duration::from_millis(self.settings.now().failure_memory_ms);
        let now = Instant::now();
        let mut failing = self.failing.lock().unwrap_or_else(PoisonError::into_inner);
        if failing.len() >= FAILING_MAX {
            failing.retain(|_, until| *until > now);
        }
        if failing.len() < FAILING_MAX {
            failing.insert(address.to_owned(), now + memory);
        }
    }

    /// Whether the address failed a moment ago.
    pub(crate) fn is_failing(&self, address: &str) -> bool {
        let mut failing = self.failing.lock().unwrap_or_else(PoisonError::into_inner);
        match failing.get(address) {
            Some(until) if *until > Instant::now() => true,
            Some(_) => {
                failing.remove(address);
                false
            }
            None => false,
        }
    }

    /// A number that differs from call to call, to spread load.
    pub(crate) fn turn(&self) -> usize {
        self.turn.fetch_add(1, Ordering::Relaxed)
    }

    /// The addresses in the order in which to try them: another first one at each call,
    /// those that failed a moment ago last.
    pub(crate) fn in_turn(&self, addresses: &[String]) -> Vec<String> {
        let mut order = addresses.to_vec();
        if !order.is_empty() {
            let by = self.turn() % order.len();
            order.rotate_left(by);
        }
        order.sort_by_key(|address| self.is_failing(address));
        order
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use kvmesh_client::channel::TcpConnect;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_failed_comes_last_for_a_while() {
        let peers = Peers::new(
            &Channels::new(Arc::new(TcpConnect)),
            &"e".parse().unwrap(),
            Settings::default().into(),
        );
        let all = ["a:1".to_owned(), "b:1".to_owned(), "c:1".to_owned()];
        peers.failed("a:1");
        for _ in 0..3 {
            assert_eq!(peers.in_turn(&all)[2], "a:1");
        }
        tokio::time::advance(Duration::from_millis(1_001)).await;
        let firsts: Vec<String> = (0..3).map(|_| peers.in_turn(&all).remove(0)).collect();
        assert!(firsts.contains(&"a:1".to_owned()), "{firsts:?}");
    }
}
