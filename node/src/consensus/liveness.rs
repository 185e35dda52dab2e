//! The leader gives up nodes that are silent, and forgets members for whose begin blocks have
//! waited too long.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use kvmesh_directory::{Command, Incarnation, NodeId};
use kvmesh_process::Environment;
use metrics::{counter, gauge};
use tokio::time::{self, Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::{desk::Desk, group::Group};

/// How long one declaration may take.
const DECLARE_MAX: Duration = Duration::from_secs(2);

/// See the module.
pub(super) struct Liveness {
    pub(super) group: Group,
    pub(super) desk: Arc<Desk>,
    pub(super) environment: Environment,
    pub(super) interval: Duration,
    pub(super) suspect_after: Duration,
    pub(super) dead_after: Duration,
    pub(super) begin_within: Duration,
}

/// Members that have never begun, and since when this leading has blocks wait for them.
type Unborn = BTreeMap<NodeId, Instant>;

impl Liveness {
    /// Looks after the members while this node leads, until `stop`.
    pub(super) async fn run(self, stop: CancellationToken) {
        let look = async {
            let mut tick = time::interval(self.interval);
            tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
            let mut unborn = Unborn::new();
            loop {
                tick.tick().await;
                let since = self.desk.leadership.since();
                self.report(since);
                match since {
                    Some(since) => {
                        self.declare_dead(since).await;
                        self.forget_unborn(&mut unborn).await;
                    }
                    None => unborn.clear(),
                }
            }
        };
        stop.run_until_cancelled(look).await;
    }

    fn alive(&self) -> Vec<(NodeId, Incarnation)> {
        self.desk.directory.with(|state| {
            let alive = state.nodes().filter(|record| record.alive);
            alive
                .map(|record| (record.node, record.incarnation))
                .collect()
        })
    }

    fn report(&self, since: Option<Instant>) {
        let now = Instant::now();
        let suspect = since.map_or(0, |since| {
            let silent = |(node, _): &(NodeId, Incarnation)| {
                self.desk.attendance.silence(now, *node, since) > self.suspect_after
            };
            self.alive().iter().filter(|node| silent(node)).count()
        });
        let instance = self.environment.instance.to_string();
        let leads = if since.is_some() { 1.0 } else { 0.0 };
        gauge!("kvmesh_node_raft_leads", "instance" => instance.clone()).set(leads);
        gauge!("kvmesh_node_members_suspect", "instance" => instance).set(suspect as f64);
    }

    async fn declare_dead(&self, since: Instant) {
        let attendance = &self.desk.attendance;
        for (node, incarnation) in self.alive() {
            let now = Instant::now();
            if !attendance.condemn(now, (node, incarnation), since, self.dead_after) {
                continue;
            }
            warn!(%node, "giving up a silent node");
            let command = Command::MarkDead { node, incarnation };
            let declared = self.group.propose_here(command, now + DECLARE_MAX).await;
            // After a failure it may still be committed: the node stays condemned, and the
            // next look declares again.
            match declared {
                Ok(_) => {
                    attendance.pardon(node);
                    let instance = self.environment.instance.to_string();
                    counter!("kvmesh_node_members_died_total", "instance" => instance).increment(1);
                }
                Err(error) => warn!(%node, %error, "could not give up a silent node"),
            }
        }
    }

    /// A move does not end before every member has begun, and no other change of the ring
    /// begins meanwhile: whoever does not come is taken back.
    async fn forget_unborn(&self, unborn: &mut Unborn) {
        let now = Instant::now();
        let waited_for: Vec<NodeId> = self.desk.directory.with(|state| {
            let new = state.nodes().filter(|record| record.incarnation.0 == 0);
            let moving = state.topology().is_moving();
            new.filter(|_| moving).map(|record| record.node).collect()
        });
        unborn.retain(|node, _| waited_for.contains(node));
        for node in waited_for {
            let since = *unborn.entry(node).or_insert(now);
            if now.saturating_duration_since(since) < self.begin_within {
                continue;
            }
            warn!(%node, "forgetting a member that has never begun: let it join again");
            let command = Command::LeaveNode { node, forget: true };
            if let Err(error) = self.group.propose_here(command, now + DECLARE_MAX).await {
                warn!(%node, %error, "could not forget a member that has never begun");
            }
        }
    }
}
