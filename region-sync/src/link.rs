//! Whether another region answers, and how fast. One task per peer probes its gateways, and
//! judges it by a timer of its own, whether probes end or not.

use std::{sync::Arc, time::Duration};

use kvmesh_directory::{
    PeerState, RegionId,
    cost::{Estimate, Window},
    peer::PeerHealth,
};
use kvmesh_process::settings::Live;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{Settings, mesh::Mesh, meters::Meters, rpc::probe::Prober};

/// An unreachable region is probed at least this often.
const PROBE_INTERVAL_MAX: Duration = Duration::from_secs(5);
/// A round trip of so many times the last one is taken again: it may have included the
/// making of a connection.
const SUSPICIOUS: u32 = 2;
/// How often a region is judged; less often than it is asked would be late.
const TICK_MAX: Duration = Duration::from_millis(100);

/// Round trips spread by a twentieth before any was seen.
const TRIPS_SIGMA: f64 = 0.05;

/// From the start of one probe to the start of the next.
fn pause(health: &PeerHealth, failures: u32, interval: Duration) -> Duration {
    if health.state().is_asked() || health.failures() < failures {
        return interval;
    }
    let doublings = (health.failures() - failures).min(16);
    let longest = PROBE_INTERVAL_MAX.max(interval);
    interval.saturating_mul(1 << doublings).min(longest)
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

/// Judges one peer.
struct Judge {
    region: RegionId,
    health: PeerHealth,
    begun: Instant,
    settings: Live<Settings>,
    mesh: Arc<Mesh>,
    meters: Meters,
}

impl Probing {
    /// Probes until `stop`.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let mut judge = Judge {
            region: self.region.clone(),
            health: PeerHealth::new(self.settings.now().patience(), Duration::ZERO),
            begun: Instant::now(),
            settings: self.settings.clone(),
            mesh: Arc::clone(&self.mesh),
            meters: self.meters.clone(),
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = self.probe_on(&mut judge) => {}
        }
    }

    async fn probe_on(&mut self, judge: &mut Judge) {
        let (since, mut trips) = (Instant::now(), Window::default());
        // A connection is made by the first probe of a gateway, which is therefore not counted.
        let mut warm = false;
        loop {
            let begun = Instant::now();
            let settings = self.settings.now();
            self.prober.timeout = settings.probe_timeout();
            let mut tick = judge.ticks();
            let rtt = {
                let probing = self.probe(&mut warm);
                tokio::pin!(probing);
                loop {
                    tokio::select! {
                        rtt = &mut probing => break rtt,
                        _ = tick.tick() => judge.tick(),
                    }
                }
            };
            let trips = rtt.map(|rtt| {
                let (at, rtt) = (since.elapsed().as_secs_f64(), rtt.as_secs_f64());
                trips.take(at, rtt);
                let usual = Estimate {
                    median: rtt,
                    sigma: TRIPS_SIGMA,
                };
                trips.estimate(at, usual)
            });
            self.note(rtt, trips);
            judge.probed(rtt.is_some());
            let jitter = kvmesh_client::random::in_range(0.9..1.1);
            let failures = settings.offline_failures;
            let pause = pause(&judge.health, failures, settings.probe_interval());
            let next = begun + pause.mul_f64(jitter);
            loop {
                tokio::select! {
                    () = sleep_until(next) => break,
                    _ = tick.tick() => judge.tick(),
                }
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

    fn note(&self, rtt: Option<Duration>, trips: Option<Estimate>) {
        self.mesh.change_link(&self.region, |link| {
            link.gateways.clone_from(&self.gateways);
            link.rtt = rtt.or(link.rtt);
            link.trips = trips.or(link.trips);
        });
        if let Some(link) = self.mesh.link(&self.region) {
            self.meters.probed(&link, rtt.is_none());
        }
        if let Some(cost) = self.mesh.cost(&self.region) {
            self.meters.link(&cost);
        }
    }
}

impl Judge {
    fn ticks(&self) -> Interval {
        let often = self.settings.now().probe_interval().min(TICK_MAX);
        let mut ticks = interval(often);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ticks
    }

    fn probed(&mut self, answered: bool) {
        let (before, now) = (self.health.state(), self.begun.elapsed());
        match answered {
            true => self.health.answered(now),
            false => self.health.failed(now),
        }
        self.tell(before);
        self.tick();
        self.meters.judged(self.health.state());
    }

    fn tick(&mut self) {
        let before = self.health.state();
        self.health.set_patience(self.settings.now().patience());
        let caught_up = self.mesh.caught_up(&self.region);
        self.health.tick(self.begun.elapsed(), caught_up);
        self.tell(before);
    }

    fn tell(&self, before: PeerState) {
        let state = self.health.state();
        if state == before {
            return;
        }
        self.mesh
            .change_link(&self.region, |link| link.state = state);
        self.meters.judged(state);
        let (was, is) = (before.name(), state.name());
        match state {
            PeerState::Offline => {
                warn!(peer = %self.region, was, "region is offline: it is not asked until it is back");
            }
            _ => info!(peer = %self.region, was, is, "region has another state"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unreachable_region_is_probed_less_often_and_never_forgotten() {
        let second = Duration::from_secs(1);
        let patience = Settings::default().patience();
        let mut health = PeerHealth::new(patience, Duration::ZERO);
        let mut pauses = Vec::new();
        for number in 0..7 {
            health.failed(second * number);
            pauses.push(pause(&health, patience.failures, second).as_secs());
        }
        assert_eq!(pauses, [1, 1, 1, 2, 4, 5, 5]);
        health.answered(second * 8);
        assert_eq!(pause(&health, patience.failures, second), second);
    }
}
