//! Nodes that join and leave while clients work: which ones, from a seed, and the operator who
//! sees to it.

use std::{rc::Rc, time::Duration};

use kvmesh_client::channel::Channels;
use rand::{Rng, SeedableRng, rngs::SmallRng};
use tokio::time::{Instant, sleep, sleep_until};

use crate::{
    net::environment,
    rpc,
    shape::{Shape, address},
    shared::{Phase, Shared},
    trace,
};

/// How a region's nodes change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ChangeKind {
    /// A node joins that was no member before.
    Join,
    /// A node leaves when its blocks have moved.
    Leave,
}

/// All kinds, in the order of tables.
pub const CHANGES: [ChangeKind; 2] = [ChangeKind::Join, ChangeKind::Leave];

impl std::fmt::Display for ChangeKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Join => "join",
            Self::Leave => "leave",
        })
    }
}

/// One change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// What.
    pub kind: ChangeKind,
    /// In which region.
    pub region: usize,
    /// Which node, from 0.
    pub node: usize,
    /// When it is asked for, milliseconds since clients began to work.
    pub at_ms: u64,
}

/// Between two tries of a change that is refused, and two looks at one that is under way.
const PAUSE: Duration = Duration::from_millis(150);
/// Clients meet the ring of before, and the one after the change.
const MARGIN_MS: u64 = 400;

/// The changes of a seed, region by region. A region's joins come before its leaves.
#[must_use]
pub(crate) fn plan(seed: u64, shape: Shape, load_ms: u64) -> Vec<Change> {
    let mut rng = SmallRng::seed_from_u64(seed ^ 0xc4a2);
    let half = (load_ms / 2).max(MARGIN_MS + 1);
    let mut changes = Vec::new();
    for region in 0..shape.regions {
        let (joins, leaves) = match rng.random_range(0..100) {
            0..50 => (false, false),
            50..65 => (true, false),
            65..88 => (true, true),
            _ => (false, true),
        };
        let mut change = |kind, node, times| {
            let at_ms = rng.random_range(times);
            changes.push(Change {
                kind,
                region,
                node,
                at_ms,
            });
        };
        if joins {
            change(ChangeKind::Join, shape.nodes, MARGIN_MS..half);
        }
        if leaves {
            let node = (seed as usize + region) % (shape.nodes + usize::from(joins));
            change(ChangeKind::Leave, node, half..load_ms.max(half + 1));
        }
    }
    changes
}

/// Sees to a region's changes, one after the other, until all of them are made.
pub(crate) async fn make(shared: Rc<Shared>, region: usize, changes: Vec<Change>) {
    let channels = environment("operator").channels;
    shared.wait_for(Phase::Load).await;
    let began = Instant::now();
    for change in changes {
        sleep_until(began + Duration::from_millis(change.at_ms)).await;
        let host = shared.shape.node(region, change.node);
        trace::event(format_args!("operator: {host} is to {}", change.kind));
        match change.kind {
            ChangeKind::Join => shared.nodes.borrow_mut().joining(region, change.node),
            ChangeKind::Leave => leave(&shared, &channels, region, change.node).await,
        }
        while !shared.nodes.borrow().is_made(&change) {
            sleep(PAUSE).await;
        }
        trace::event(format_args!(
            "operator: {host} has made its {}",
            change.kind
        ));
        shared.changes_left.set(shared.changes_left.get() - 1);
    }
}

/// Asks for it until it is accepted: a move may be under way, or the node be down.
async fn leave(shared: &Shared, channels: &Channels, region: usize, node: usize) {
    shared.nodes.borrow_mut().leaving(region, node);
    let number = node as u64 + 1;
    loop {
        for through in (0..shared.shape.nodes).filter(|through| *through != node) {
            let at = address(&shared.shape.node(region, through));
            match rpc::leave(channels, &at, number).await {
                Ok(()) => return,
                Err(why) => trace::event(format_args!("operator: {at}: no leave yet: {why}")),
            };
        }
        sleep(PAUSE).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nodes::Nodes;

    const SHAPE: Shape = Shape {
        regions: 3,
        nodes: 3,
        gateways: 1,
        clients: 1,
        joins: [false; 3],
    };

    #[test]
    fn plans_follow_from_seeds_and_have_every_kind() {
        let plans: Vec<_> = (0..20).map(|seed| plan(seed, SHAPE, 15_000)).collect();
        assert_eq!(plans[7], plan(7, SHAPE, 15_000));
        for kind in CHANGES {
            let with = |plan: &&Vec<Change>| plan.iter().any(|change| change.kind == kind);
            assert!(plans.iter().filter(with).count() > 5, "{kind}");
        }
        let mut newcomers = plans.iter().flatten();
        assert!(newcomers.any(|it| it.kind == ChangeKind::Leave && it.node == SHAPE.nodes));
        for change in plans.iter().flatten() {
            assert!(
                change.at_ms < 15_000 && change.node <= SHAPE.nodes,
                "{change:?}"
            );
        }
    }

    #[test]
    fn a_node_may_end_only_once_it_was_asked_to_leave() {
        let changes = [Change {
            kind: ChangeKind::Join,
            region: 1,
            node: 3,
            at_ms: 0,
        }];
        let mut nodes = Nodes::new(SHAPE.joined(&changes));
        assert!(nodes.runs(1, 0) && !nodes.runs(1, 3) && !nodes.is_made(&changes[0]));
        nodes.joining(1, 3);
        assert!(nodes.runs(1, 3) && !nodes.is_made(&changes[0]));
        assert!(!nodes.ended(1, 0));
        nodes.leaving(1, 0);
        assert!(!nodes.has_left(1, 0) && nodes.ended(1, 0) && nodes.has_left(1, 0));
        assert!(!nodes.runs(1, 0) && nodes.runs(0, 0));
    }
}
