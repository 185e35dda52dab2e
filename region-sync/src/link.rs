//! Whether another region answers, and how fast. One task per peer probes its gateways.

use std::{sync::Arc, time::Duration};

use kvmesh_directory::RegionId;
use kvmesh_process::settings::Live;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{Settings, mesh::Mesh, meters::Meters, rpc::probe::Prober};

/// An unreachable region is probed at least this often.
const PROBE_INTERVAL_MAX: Duration = Duration::from_secs(5);
/// A round trip of so many times the last one is taken again: it may have included the
/// making of a connection.
const SUSPICIOUS: u32 = 2;

/// When a region counts as unreachable.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience {
    /// Silence, and
    pub(crate) offline_after: Duration,
    /// failed probes, one after the other.
    pub(crate) failures: u32,
}

impl Patience {
    fn of(settings: &Settings) -> Self {
        Self {
            offline_after: settings.offline_after(),
            failures: settings.offline_failures,
        }
    }
}

/// Decides whether a region is reachable. Pure.
#[derive(Debug)]
pub(crate) struct Reachability {
    patience: Patience,
    answered: Option<Instant>,
    failures: u32,
    reachable: bool,
}

impl Reachability {
    /// Unreachable until it answers.
    pub(crate) fn new(patience: Patience) -> Self {
        Self {
            patience,
            answered: None,
            failures: 0,
            reachable: false,
        }
    }

    /// A probe was answered.
    pub(crate) fn answered(&mut self, now: Instant) {
        (self.answered, self.failures, self.reachable) = (Some(now), 0, true);
    }

    /// A probe was not answered.
    pub(crate) fn failed(&mut self, now: Instant) {
        self.failures = self.failures.saturating_add(1);
        let silent = self
            .answered
            .is_none_or(|answered| now - answered >= self.patience.offline_after);
        if silent && self.failures >= self.patience.failures {
            self.reachable = false;
        }
    }

    pub(crate) fn reachable(&self) -> bool {
        self.reachable
    }

    /// From the start of one probe to the start of the next.
    fn pause(&self, interval: Duration) -> Duration {
        if self.reachable || self.failures < self.patience.failures {
            return interval;
        }
        let doublings = (self.failures - self.patience.failures).min(16);
        let longest = PROBE_INTERVAL_MAX.max(interval);
        interval.saturating_mul(1 << doublings).min(longest)
    }
}

/// Probes one peer.
pub(crate) struct Probing {
    pub(crate) region: RegionId,
    pub(crate) gateways: Vec<String>,
    pub(crate) prober: Prober,
    pub(crate) settings: Live<Settings>,
    pub(crate) mesh: Arc<Mesh>,
    pub(crate) meters: Meters,
}

impl Probing {
    /// Probes until `stop`.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let mut state = Reachability::new(Patience::of(&self.settings.now()));
        // A connection is made by the first probe of a gateway, which is therefore not counted.
        let mut warm = false;
        loop {
            let begun = Instant::now();
            let settings = self.settings.now();
            state.patience = Patience::of(&settings);
            self.prober.timeout = settings.probe_timeout();
            let before = state.reachable();
            let rtt = tokio::select! {
                () = stop.cancelled() => return,
                rtt = self.probe(&mut warm) => rtt,
            };
            match rtt {
                Some(_) => state.answered(Instant::now()),
                None => state.failed(Instant::now()),
            }
            self.note(before, state.reachable(), rtt);
            let jitter = kvmesh_client::random::in_range(0.9..1.1);
            let next = begun + state.pause(settings.probe_interval()).mul_f64(jitter);
            tokio::select! {
                () = stop.cancelled() => return,
                () = sleep_until(next) => {}
            }
        }
    }

    /// One round trip to the first gateway; after a failure the next gateway is the first.
    async fn probe(&mut self, warm: &mut bool) -> Option<Duration> {
        let gateway = self.gateways.first()?.clone();
        let last = self.mesh.link(&self.region).and_then(|link| link.rtt);
        let measured = async {
            if !*warm {
                self.prober.round_trip(&gateway).await?;
            }
            let rtt = self.prober.round_trip(&gateway).await?;
            if last.is_some_and(|last| rtt > last * SUSPICIOUS) {
                return Some(rtt.min(self.prober.round_trip(&gateway).await?));
            }
            Some(rtt)
        };
        let rtt = measured.await;
        *warm = rtt.is_some();
        if rtt.is_none() {
            self.gateways.rotate_left(1);
        }
        rtt
    }

    fn note(&self, before: bool, reachable: bool, rtt: Option<Duration>) {
        self.mesh.change_link(&self.region, |link| {
            link.reachable = reachable;
            link.gateways.clone_from(&self.gateways);
            link.rtt = rtt.or(link.rtt);
        });
        if let Some(link) = self.mesh.link(&self.region) {
            self.meters.probed(&link, rtt.is_none());
        }
        match (before, reachable) {
            (false, true) => info!(peer = %self.region, ?rtt, "region is reachable"),
            (true, false) => {
                warn!(peer = %self.region, "region is unreachable: it is not asked until it answers")
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Patience = Patience {
        offline_after: Duration::from_secs(5),
        failures: 3,
    };

    #[test]
    fn a_region_is_given_up_after_its_silence_and_its_failures() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut state = Reachability::new(PATIENCE);
        assert!(!state.reachable(), "unreachable until it answers");
        state.answered(at(0));
        for second in [1, 2, 3, 4] {
            state.failed(at(second));
            assert!(state.reachable(), "five seconds are not over");
        }
        state.failed(at(5));
        assert!(!state.reachable());
        state.answered(at(60));
        assert!(state.reachable());
        state.failed(at(70));
        state.failed(at(71));
        assert!(state.reachable(), "two failures are not enough");
        state.failed(at(72));
        assert!(!state.reachable());
    }

    #[test]
    fn an_unreachable_region_is_probed_less_often_and_never_forgotten() {
        let second = Duration::from_secs(1);
        let mut state = Reachability::new(PATIENCE);
        let mut pauses = Vec::new();
        for _ in 0..7 {
            state.failed(Instant::now());
            pauses.push(state.pause(second).as_secs());
        }
        assert_eq!(pauses, [1, 1, 1, 2, 4, 5, 5]);
        state.answered(Instant::now());
        assert_eq!(state.pause(second), second);
    }
}
