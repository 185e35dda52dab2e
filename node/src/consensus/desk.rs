//! Where nodes attend: the leader's end of each node's stream.

use std::{future::Future, pin::Pin, sync::Arc};

use futures::{Stream, StreamExt, stream::FuturesUnordered};
use kvmesh_directory::NodeId;
use tokio::{
    sync::mpsc,
    time::{self, Instant},
};
use tokio_util::sync::CancellationToken;

use super::{
    attend_words::{FLIGHTS_MAX, Notice, Report},
    attendance::Attendance,
    batcher::{Batcher, Committed},
    error::ProposeError,
    leadership::Leadership,
};
use crate::directory::SharedDirectory;

/// What the leader knows and does for the nodes that attend it.
pub(super) struct Desk {
    pub(super) directory: SharedDirectory,
    pub(super) leadership: Arc<Leadership>,
    pub(super) attendance: Attendance,
    pub(super) batcher: Batcher,
}

type Answer = Pin<Box<dyn Future<Output = (u64, Option<Committed>)> + Send>>;

impl Desk {
    /// Answers one node's reports until the stream ends, this node no longer leads, or `stop`.
    pub(super) async fn serve(
        self: Arc<Self>,
        mut reports: impl Stream<Item = Report> + Send + Unpin,
        notices: mpsc::Sender<Notice>,
        stop: CancellationToken,
    ) {
        let mut leads = self.leadership.leads();
        let mut answers: FuturesUnordered<Answer> = FuturesUnordered::new();
        loop {
            let notice = tokio::select! {
                () = stop.cancelled() => return,
                lost = leads.wait_for(|leads| !leads) => {
                    drop(lost);
                    return;
                }
                report = reports.next() => {
                    let Some(report) = report else { return };
                    if self.disowns(report.node) {
                        let _ = notices.try_send(Notice::not_member());
                        return;
                    }
                    if !self.is_member(report.node) || answers.len() > FLIGHTS_MAX {
                        return;
                    }
                    let lease = self.lease(&report);
                    match self.take(report, lease) {
                        Taken::Queued(answer) => {
                            answers.push(answer);
                            continue;
                        }
                        Taken::Answered(notice) => notice,
                        Taken::Ended => return,
                    }
                }
                Some((sequence, committed)) = answers.next() => {
                    let Some(Ok((index, outcomes))) = committed else {
                        return; // not known: the node asks again, here or elsewhere
                    };
                    Notice { sequence, outcomes, index, ..Notice::plain(false) }
                }
            };
            // The node reads as many notices as it has reports open; if not, it is gone.
            if notices.try_send(notice).is_err() {
                return;
            }
        }
    }

    fn take(&self, report: Report, lease: bool) -> Taken {
        if report.changes.is_empty() {
            return Taken::Answered(Notice::plain(lease));
        }
        let sequence = report.sequence;
        match self.batcher.submit(report.changes) {
            Ok(answer) => Taken::Queued(Box::pin(async move { (sequence, answer.await.ok()) })),
            Err(ProposeError::Overloaded) => Taken::Answered(Notice {
                sequence,
                ..Notice::plain(false)
            }),
            Err(_) => Taken::Ended,
        }
    }

    fn lease(&self, report: &Report) -> bool {
        let now = Instant::now();
        let Some(since) = self.leadership.since() else {
            return false;
        };
        let pardoned = self.attendance.hear(now, since, report);
        let alive = self.directory.with(|state| {
            let record = state.node(report.node);
            record.is_some_and(|record| record.alive && record.incarnation == report.incarnation)
        });
        pardoned && alive && self.leadership.may_serve(now, report.applied)
    }

    /// Whether this node leads with a quorum a region that does not list the node. Not so
    /// while it may not have applied yet what made the node a member.
    pub(super) fn disowns(&self, node: NodeId) -> bool {
        let (applied, listed) = self.directory.with(|state| {
            let listed = state.region().is_none() || state.topology().member(node).is_some();
            (state.applied_index(), listed)
        });
        !listed && self.leadership.may_serve(Instant::now(), applied)
    }

    fn is_member(&self, node: NodeId) -> bool {
        self.directory
            .with(|state| state.topology().member(node).is_some())
    }

    /// On the leader: see [`super::Consensus::applied_by_all`].
    pub(super) async fn applied_by_all(
        &self,
        index: u64,
        serve_lease: std::time::Duration,
        deadline: Instant,
    ) -> Result<(), ProposeError> {
        let leases_end = Instant::now() + serve_lease;
        let mut changed = self.attendance.changed();
        loop {
            if self.leadership.since().is_none() {
                return Err(ProposeError::NotLeader);
            }
            changed.mark_unchanged();
            let alive: Vec<NodeId> = self.directory.with(|state| {
                let alive = state.nodes().filter(|record| record.alive);
                alive.map(|record| record.node).collect()
            });
            if self.attendance.lacking(index, &alive) == 0 || Instant::now() >= leases_end {
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err(ProposeError::OutOfTime);
            }
            // Woken by the next report; the leader's own comes at least every interval.
            let wake = deadline.min(leases_end);
            let _ = time::timeout_at(wake, changed.changed()).await;
        }
    }
}

enum Taken {
    Answered(Notice),
    Queued(Answer),
    Ended,
}
