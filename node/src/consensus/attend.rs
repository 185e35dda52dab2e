//! A node's one stream to the leader: reports and block changes up, outcomes and leases down.
//!
//! Changes that are not answered are sent again to the next leader. That is safe: claims and
//! evictions name their copy, so that a second commitment changes nothing.

use std::{collections::VecDeque, pin::Pin, sync::Arc, time::Duration};

use futures::{Stream, future};
use kvmesh_directory::{NodeId, command::BlockChange};
use tokio::{
    sync::{mpsc, watch},
    time::{self, Instant, MissedTickBehavior},
};
use tokio_stream::{StreamExt, wrappers::ReceiverStream};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::debug;

use super::{
    admission::Admission,
    attend_words::{FLIGHTS_MAX, Notice, PLAIN_MAX, Report, STREAM_MAX},
    desk::Desk,
    ended::Ending,
    flights::{Flights, Submission},
    group::{Group, Leader, leader_of},
    incarnation::Begun,
    lease::Lease,
    network, standing,
};

/// How long a leader may take to accept the stream.
const OPEN_MAX: Duration = Duration::from_secs(1);
/// After so long without a notice a node asks the members that it last knew, one after the
/// other: whoever was forgotten meanwhile hears of no new leader by itself.
const ALONE_AFTER: Duration = Duration::from_secs(4);
/// Between two members that are asked.
const ASK_AFTER: Duration = Duration::from_millis(250);
/// Before a stream that ended is opened again, at most.
const REOPEN_AFTER_MAX: Duration = Duration::from_millis(100);
/// A stream whose leader is silent for so many report intervals is given up.
const SILENT_INTERVALS: u32 = 10;

/// See the module.
pub(super) struct Attend {
    pub(super) group: Group,
    pub(super) desk: Arc<Desk>,
    pub(super) lease: Arc<Lease>,
    pub(super) begun: Arc<Begun>,
    pub(super) ending: Arc<Ending>,
    pub(super) admission: Arc<Admission>,
    pub(super) applied: watch::Receiver<u64>,
    pub(super) submissions: mpsc::Receiver<Submission>,
    pub(super) report_interval: Duration,
    /// When the last notice came.
    pub(super) heard: Instant,
    pub(super) tasks: TaskTracker,
    pub(super) stop: CancellationToken,
}

/// Both directions of an open stream.
struct Line {
    reports: mpsc::Sender<Report>,
    notices: Pin<Box<dyn Stream<Item = Notice> + Send>>,
    /// When each plain report that is not answered yet was sent.
    plain: VecDeque<Instant>,
    heard: Instant,
}

impl Attend {
    /// Attends whoever leads, until `stop`.
    pub(super) async fn run(mut self) {
        let stop = self.stop.clone();
        let (mut flights, mut asked) = (Flights::default(), 0);
        while let Some(leader) = stop.run_until_cancelled(self.next(&mut asked)).await {
            if let Some(leader) = leader {
                // Whoever is asked in turn may not be the one that was last known to lead.
                let known = match asked {
                    0 => Some(leader.clone()),
                    _ => self.group.leader(),
                };
                let session = self.session(&leader, known, &mut flights);
                let ended = stop.run_until_cancelled(session).await;
                debug!(leader = %leader.node, ?ended, "the stream to the leader ended");
            }
            let pause = REOPEN_AFTER_MAX.mul_f64(kvmesh_client::random::in_range(0.1..1.0));
            stop.run_until_cancelled(time::sleep(pause)).await;
        }
    }

    /// Who leads, or after a time without a notice a member that may. None when Raft has
    /// ended, or leads where this node does not know.
    async fn next(&self, asked: &mut usize) -> Option<Leader> {
        let alone = self.heard + ALONE_AFTER;
        if Instant::now() < alone {
            *asked = 0;
            let mut metrics = self.group.raft.metrics();
            let known = metrics.wait_for(|metrics| metrics.current_leader.is_some());
            if let Ok(known) = time::timeout_at(alone, known).await {
                return leader_of(&*known.ok()?);
            }
        }
        time::sleep(ASK_AFTER).await;
        *asked += 1;
        // Whoever leads, as far as this node knows, has every other turn.
        let leader = self.group.leader().filter(|_| *asked % 2 == 1);
        leader.or_else(|| self.member(*asked / 2))
    }

    /// One of the other members of the group as this node last knew it, in turn. What the
    /// directory says is known later, once a leader has said how much is committed.
    fn member(&self, turn: usize) -> Option<Leader> {
        let metrics = self.group.raft.metrics();
        let metrics = metrics.borrow();
        let nodes = metrics.membership_config.nodes();
        let others: Vec<_> = nodes.filter(|(id, _)| **id != self.group.node.0).collect();
        let (node, peer) = others.get(turn.checked_rem(others.len())?)?;
        Some(Leader {
            node: NodeId(**node),
            address: peer.address.clone(),
        })
    }

    async fn open(&self, leader: &Leader) -> Option<Line> {
        let (reports, sent) = mpsc::channel(STREAM_MAX);
        let sent = ReceiverStream::new(sent);
        let notices: Pin<Box<dyn Stream<Item = Notice> + Send>> = if leader.node == self.group.node
        {
            let (notices, received) = mpsc::channel(STREAM_MAX);
            let desk = Arc::clone(&self.desk);
            let stop = self.stop.clone();
            self.tasks.spawn(desk.serve(sent, notices, stop));
            Box::pin(ReceiverStream::new(received))
        } else {
            let mut client = network::client(self.group.channels.to(&leader.address).ok()?);
            let opening = client.attend(sent.map(|report| report.to_wire()));
            let opened = time::timeout(OPEN_MAX, opening).await.ok()?.ok()?;
            let notices = opened.into_inner().map_while(|notice| {
                let notice = Notice::from_wire(notice.ok()?);
                notice.ok()
            });
            Box::pin(notices)
        };
        Some(Line {
            reports,
            notices,
            plain: VecDeque::new(),
            heard: Instant::now(),
        })
    }

    /// Returns when another one leads than is known, the leader is silent, or ends the stream.
    async fn session(
        &mut self,
        leader: &Leader,
        known: Option<Leader>,
        flights: &mut Flights,
    ) -> Option<()> {
        let mut line = self.open(leader).await?;
        for (sequence, changes) in flights.again(Instant::now()) {
            line.reports.try_send(self.report(sequence, changes)).ok()?;
        }
        let mut metrics = self.group.raft.metrics();
        let mut tick = time::interval(self.report_interval);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let open = flights.len() < FLIGHTS_MAX;
            let quiet = line.plain.len() < PLAIN_MAX;
            tokio::select! {
                biased;
                notice = line.notices.next() => self.notice(notice?, &mut line, flights)?,
                changed = metrics.changed() => {
                    changed.ok()?;
                    if leader_of(&metrics.borrow_and_update()) != known {
                        return Some(());
                    }
                }
                () = future::ready(()), if open && flights.holds() => {
                    self.fly(None, &line, flights)?;
                }
                submission = self.submissions.recv(), if open && !flights.holds() => {
                    self.fly(Some(submission?), &line, flights)?;
                }
                changed = self.applied.changed(), if quiet => {
                    changed.ok()?;
                    self.plain(&mut line)?;
                }
                _ = tick.tick() => {
                    if line.heard.elapsed() > self.report_interval * SILENT_INTERVALS {
                        return Some(());
                    }
                    if quiet {
                        self.plain(&mut line)?;
                    }
                }
            }
        }
    }

    fn report(&mut self, sequence: u64, changes: Vec<BlockChange>) -> Report {
        let incarnation = self.begun.incarnation();
        Report {
            node: self.group.node,
            incarnation: incarnation.unwrap_or_default(),
            applied: *self.applied.borrow_and_update(),
            sequence,
            changes,
        }
    }

    fn plain(&mut self, line: &mut Line) -> Option<()> {
        line.plain.push_back(Instant::now());
        let report = self.report(0, Vec::new());
        line.reports.try_send(report).ok()
    }

    fn fly(&mut self, first: Option<Submission>, line: &Line, flights: &mut Flights) -> Option<()> {
        let flight = flights.take_off(Instant::now(), first, &mut self.submissions);
        let Some((sequence, changes)) = flight else {
            return Some(());
        };
        let report = self.report(sequence, changes);
        line.reports.try_send(report).ok()
    }

    fn notice(&mut self, notice: Notice, line: &mut Line, flights: &mut Flights) -> Option<()> {
        line.heard = Instant::now();
        self.heard = line.heard;
        if notice.not_member {
            // One that never was a member may become one yet.
            if self.admission.is_admitted() {
                let directory = &self.desk.directory;
                self.ending.end(standing::gone(directory, self.group.node));
            }
            return None;
        }
        let lease = notice.lease;
        let sent = match notice.sequence {
            0 => line.plain.pop_front(),
            _ => flights.land(notice),
        };
        if lease {
            self.lease.granted(sent?);
        }
        Some(())
    }
}
