//! Which faults a run has: a pure function of its seed.

use std::fmt;

use rand::{Rng, SeedableRng, rngs::SmallRng};

use crate::shape::Shape;

/// What goes wrong. Times of [`Fault`] say when.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FaultKind {
    /// A node is cut off from everybody.
    Cut,
    /// What a node sends is dropped.
    Mute,
    /// What is sent to a node is dropped.
    Deaf,
    /// A node stands still for everybody: what it sends and is sent arrives later.
    Pause,
    /// A node loses power, and its blocks with it. It comes back with its Raft store.
    Crash,
    /// A gateway loses power, and comes back.
    GatewayCrash,
    /// A region-sync loses power, and comes back.
    SyncCrash,
    /// A node is told to stop, and starts again: its blocks are lost.
    Restart,
    /// A gateway is told to stop, and starts again.
    GatewayRestart,
    /// A region-sync is told to stop, and starts again.
    SyncRestart,
    /// What goes between a node and another server of its region takes longer.
    SlowLink,
    /// A region is cut off from the others.
    RegionCut,
}

/// All kinds, in the order of tables.
pub const KINDS: [FaultKind; 12] = [
    FaultKind::Cut,
    FaultKind::Mute,
    FaultKind::Deaf,
    FaultKind::Pause,
    FaultKind::Crash,
    FaultKind::GatewayCrash,
    FaultKind::SyncCrash,
    FaultKind::Restart,
    FaultKind::GatewayRestart,
    FaultKind::SyncRestart,
    FaultKind::SlowLink,
    FaultKind::RegionCut,
];

impl fmt::Display for FaultKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Cut => "cut",
            Self::Mute => "mute",
            Self::Deaf => "deaf",
            Self::Pause => "pause",
            Self::Crash => "crash",
            Self::GatewayCrash => "gateway-crash",
            Self::SyncCrash => "sync-crash",
            Self::Restart => "restart",
            Self::GatewayRestart => "gateway-restart",
            Self::SyncRestart => "sync-restart",
            Self::SlowLink => "slow-link",
            Self::RegionCut => "region-cut",
        })
    }
}

/// One fault. Times are milliseconds since clients began to work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// What.
    pub kind: FaultKind,
    /// In which region.
    pub region: usize,
    /// The host; of a cut region all of them.
    pub host: String,
    /// Of a crashed node: which one, from 0.
    pub node: usize,
    /// Of a slow link: its other end, and how much longer everything takes.
    pub slow: Option<(String, u64)>,
    /// The links fail, or the process is told to stop.
    pub from_ms: u64,
    /// Of a crash or a restart: the process ends.
    pub crash_ms: u64,
    /// The links are repaired, and the process starts again.
    pub until_ms: u64,
}

impl Fault {
    /// Whether its host is a node.
    pub(crate) fn of_a_node(&self) -> bool {
        !matches!(
            self.kind,
            FaultKind::GatewayCrash
                | FaultKind::GatewayRestart
                | FaultKind::SyncCrash
                | FaultKind::SyncRestart
                | FaultKind::RegionCut
        )
    }
}

impl FaultKind {
    fn is_crash(self) -> bool {
        matches!(self, Self::Crash | Self::GatewayCrash | Self::SyncCrash)
    }

    /// Whether a process is told to stop.
    pub(crate) fn is_restart(self) -> bool {
        matches!(
            self,
            Self::Restart | Self::GatewayRestart | Self::SyncRestart
        )
    }

    /// Whether a node loses its blocks.
    pub(crate) fn loses_blocks(self) -> bool {
        matches!(self, Self::Crash | Self::Restart)
    }

    fn lasts_ms(self) -> std::ops::Range<u64> {
        match self {
            Self::Pause => 300..2_500,
            Self::RegionCut => 2_500..8_000,
            Self::Cut | Self::Mute | Self::Deaf => 1_000..7_000,
            Self::SlowLink => 2_000..8_000,
            Self::Restart | Self::GatewayRestart | Self::SyncRestart => STOP_MS + 200..7_000,
            Self::Crash | Self::GatewayCrash | Self::SyncCrash => 800..7_000,
        }
    }
}

/// Faults of one run, at least.
const FAULTS_MIN: usize = 3;
/// Faults of one run, at most.
const FAULTS_MAX: usize = 7;
/// Before the first fault.
const CALM_MS: u64 = 500;
/// A process that lost power was cut off at most so long before.
const LEAD_MS: u64 = 600;
/// A process that was told to stop has ended by then.
const STOP_MS: u64 = 2_000;
/// How much longer everything takes on a slow link.
const SLOW_MS: std::ops::Range<u64> = 20..300;
/// Draws for one fault, whose host may have another one at the time.
const DRAWS: usize = 20;

/// The faults of a seed, in the order in which they begin; all are over at `load_ms`.
#[must_use]
pub(crate) fn plan(seed: u64, shape: Shape, load_ms: u64) -> Vec<Fault> {
    let mut rng = SmallRng::seed_from_u64(seed ^ 0xfa17);
    let wanted = rng.random_range(FAULTS_MIN..=FAULTS_MAX);
    let mut faults: Vec<Fault> = Vec::new();
    for _ in 0..wanted {
        let free = |fault: &Fault| {
            let mut others = faults.iter().filter(|other| other.host == fault.host);
            !others.any(|other| other.from_ms <= fault.until_ms && fault.from_ms <= other.until_ms)
        };
        let drawn = (0..DRAWS).map(|_| draw(&mut rng, shape, load_ms));
        if let Some(fault) = drawn.into_iter().find(free) {
            faults.push(fault);
        }
    }
    faults.sort_by_key(|fault| fault.from_ms);
    faults
}

fn draw(rng: &mut SmallRng, shape: Shape, load_ms: u64) -> Fault {
    let kind = match rng.random_range(0..100) {
        0..13 => FaultKind::Cut,
        13..21 => FaultKind::Mute,
        21..31 => FaultKind::Deaf,
        31..39 => FaultKind::Pause,
        39..60 => FaultKind::Crash,
        60..65 => FaultKind::GatewayCrash,
        65..70 => FaultKind::SyncCrash,
        70..76 => FaultKind::Restart,
        76..79 => FaultKind::GatewayRestart,
        79..82 => FaultKind::SyncRestart,
        82..90 => FaultKind::SlowLink,
        _ if shape.regions == 1 => FaultKind::Crash,
        _ => FaultKind::RegionCut,
    };
    let region = rng.random_range(0..shape.regions);
    let node = rng.random_range(0..shape.nodes);
    let host = match kind {
        FaultKind::GatewayCrash | FaultKind::GatewayRestart => {
            shape.gateway(region, node % shape.gateways)
        }
        FaultKind::SyncCrash | FaultKind::SyncRestart => shape.region_sync(region),
        FaultKind::RegionCut => shape.region(region).to_owned(),
        _ => shape.node(region, node),
    };
    let lasts = rng.random_range(kind.lasts_ms());
    let latest = load_ms.saturating_sub(lasts + 100).max(CALM_MS + 1);
    let from_ms = rng.random_range(CALM_MS..latest);
    let until_ms = from_ms + lasts;
    let crash_ms = match kind {
        _ if kind.is_restart() => from_ms + STOP_MS,
        _ if kind.is_crash() => from_ms + rng.random_range(0..LEAD_MS.min(lasts)),
        _ => until_ms,
    };
    let slow = (kind == FaultKind::SlowLink).then(|| {
        let other = (node + rng.random_range(1..shape.nodes)) % shape.nodes;
        (shape.node(region, other), rng.random_range(SLOW_MS))
    });
    Fault {
        kind,
        region,
        host,
        node,
        slow,
        from_ms,
        crash_ms,
        until_ms,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: Shape = Shape {
        regions: 3,
        nodes: 3,
        gateways: 1,
        clients: 1,
        joins: [false; 3],
    };

    #[test]
    fn plans_follow_from_seeds_and_have_every_kind() {
        let plans: Vec<_> = (0..100).map(|seed| plan(seed, SHAPE, 15_000)).collect();
        assert_eq!(plans[7], plan(7, SHAPE, 15_000));
        for kind in KINDS {
            let with = |plan: &&Vec<Fault>| plan.iter().any(|fault| fault.kind == kind);
            assert!(plans.iter().filter(with).count() > 3, "{kind}");
        }
        for plan in &plans {
            assert!(plan.len() >= FAULTS_MIN);
            assert!(plan.iter().all(|fault| fault.until_ms < 15_000));
            for (at, one) in plan.iter().enumerate() {
                let others = plan[at + 1..].iter().filter(|other| other.host == one.host);
                for other in others {
                    assert!(one.until_ms < other.from_ms, "{one:?} {other:?}");
                }
            }
        }
    }
}
