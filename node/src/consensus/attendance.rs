//! The leader's table of the nodes that attend it. Bounded by the members of the region.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use kvmesh_directory::{Incarnation, NodeId};
use tokio::{sync::watch, time::Instant};

use super::attend_words::Report;

#[derive(Debug)]
struct Attendee {
    applied: u64,
    /// The latest that is known of; silence counts from when it was first seen.
    incarnation: Incarnation,
    heard: Instant,
    /// The leading (named by its start) that is declaring it dead: no lease meanwhile.
    condemned: Option<Instant>,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Attendance {
    attendees: Mutex<BTreeMap<NodeId, Attendee>>,
    changed: watch::Sender<()>,
}

impl Attendance {
    fn attendees(&self) -> MutexGuard<'_, BTreeMap<NodeId, Attendee>> {
        self.attendees
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a member's report; says whether the leader since `since` may grant it a lease.
    pub(super) fn hear(&self, now: Instant, since: Instant, report: &Report) -> bool {
        let mut attendees = self.attendees();
        let known = attendees.get(&report.node);
        let condemned = known.and_then(|attendee| attendee.condemned);
        let seen = known.map_or(Incarnation(0), |attendee| attendee.incarnation);
        let attendee = Attendee {
            applied: report.applied,
            incarnation: report.incarnation.max(seen),
            heard: now,
            condemned,
        };
        attendees.insert(report.node, attendee);
        drop(attendees);
        self.changed.send_replace(());
        condemned != Some(since)
    }

    /// Of these nodes, those whose last report shows that they have not applied an index.
    pub(super) fn lacking(&self, index: u64, nodes: &[NodeId]) -> usize {
        let attendees = self.attendees();
        let has = |node| {
            attendees
                .get(node)
                .is_some_and(|attendee| attendee.applied >= index)
        };
        nodes.iter().filter(|node| !has(*node)).count()
    }

    /// Whenever a node reports.
    pub(super) fn changed(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// How long a node has been silent, counted from `since` at the earliest.
    pub(super) fn silence(&self, now: Instant, node: NodeId, since: Instant) -> Duration {
        let heard = self.attendees().get(&node).map(|attendee| attendee.heard);
        now.saturating_duration_since(heard.map_or(since, |heard| heard.max(since)))
    }

    /// Condemns a node that has been silent for so long: it gets no lease from this leading
    /// any more, so that its death can be committed whatever it reports now. Says whether it is.
    /// A node that has just begun has not been silent yet.
    pub(super) fn condemn(
        &self,
        now: Instant,
        (node, incarnation): (NodeId, Incarnation),
        since: Instant,
        dead_after: Duration,
    ) -> bool {
        let mut attendees = self.attendees();
        let attendee = attendees.entry(node).or_insert(Attendee {
            applied: 0,
            incarnation,
            heard: now,
            condemned: None,
        });
        if attendee.incarnation < incarnation {
            (attendee.incarnation, attendee.heard) = (incarnation, now);
        }
        let silence = now.saturating_duration_since(attendee.heard.max(since));
        if silence > dead_after {
            attendee.condemned = Some(since);
        }
        attendee.condemned == Some(since)
    }

    /// Its death is committed: a later incarnation may get a lease.
    pub(super) fn pardon(&self, node: NodeId) {
        if let Some(attendee) = self.attendees().get_mut(&node) {
            attendee.condemned = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(node: u64, applied: u64) -> Report {
        Report {
            node: NodeId(node),
            incarnation: Incarnation(1),
            applied,
            sequence: 0,
            changes: Vec::new(),
        }
    }

    #[tokio::test]
    async fn a_condemned_node_gets_no_lease_until_its_death_is_committed() {
        let (table, id) = (Attendance::default(), NodeId(2));
        let node = (id, Incarnation(1));
        let (start, after) = (Instant::now(), Duration::from_secs(10));
        assert!(table.hear(start, start, &report(2, 5)));
        assert!(!table.condemn(start + after, node, start, after));
        let late = start + after + Duration::from_millis(1);
        assert!(
            !table.condemn(late, node, late, after),
            "counted from when it leads"
        );
        assert!(table.condemn(late, node, start, after));
        assert!(!table.hear(late, start, &report(2, 5)));
        assert!(
            table.condemn(late, node, start, after),
            "there is no way back"
        );
        assert!(
            table.hear(late, late, &report(2, 5)),
            "but for another leading"
        );
        table.pardon(id);
        assert!(table.hear(late, start, &report(2, 5)));
    }

    #[tokio::test]
    async fn a_node_that_has_just_begun_is_not_given_up() {
        let (table, node) = (Attendance::default(), NodeId(2));
        let (start, after) = (Instant::now(), Duration::from_secs(10));
        let (first, second) = ((node, Incarnation(1)), (node, Incarnation(2)));
        // It joins long after the leader came to lead, and has not reported yet.
        let joins = start + after * 3;
        assert!(!table.condemn(joins, first, start, after));
        assert!(!table.condemn(joins + after, first, start, after));
        assert!(table.condemn(joins + after * 2, first, start, after));
        table.pardon(node);
        // It comes back long after its last report.
        assert!(!table.condemn(joins + after * 4, second, start, after));
        assert!(table.condemn(joins + after * 6, second, start, after));
    }

    #[tokio::test]
    async fn a_node_lacks_an_index_until_it_reports_it() {
        let (table, nodes) = (Attendance::default(), [NodeId(1), NodeId(2)]);
        let now = Instant::now();
        assert_eq!(table.lacking(5, &nodes), 2);
        table.hear(now, now, &report(1, 5));
        table.hear(now, now, &report(2, 4));
        assert_eq!(table.lacking(5, &nodes), 1);
    }
}
