//! One other region: follows its feed, carries its effects home, shows its blocks to gateways.

use std::{future::Future, pin::Pin, sync::Arc, time::Duration};

use kvmesh_client::follow::{MeshEvent, MeshScopeFollower, Source};
use kvmesh_directory::{FeedPosition, LogIncarnation, RegionId};
use tokio::{
    sync::{mpsc, watch},
    time::interval,
};
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::{
    backlog::{Backlog, Batch, Change},
    home::Home,
    mesh::Mesh,
    meters::Meters,
    push::Push,
};

/// Events between the feed and the backlog; one is a step or a part of a snapshot.
const EVENTS_MAX: usize = 64;
/// How often metrics are renewed and the own region is looked at.
const TICK: Duration = Duration::from_millis(500);

type Commit = Pin<Box<dyn Future<Output = (Batch, LogIncarnation)> + Send>>;

/// See the module.
pub(crate) struct Peer {
    pub(crate) own: RegionId,
    pub(crate) region: RegionId,
    pub(crate) source: Source,
    pub(crate) home: Home,
    pub(crate) mesh: Arc<Mesh>,
    pub(crate) meters: Meters,
    pub(crate) push: Arc<Push>,
}

/// Has the peer followed anew, though nothing was missed.
pub(crate) struct Restart {
    /// From the step after this one; none: from a snapshot.
    pub(crate) after: Option<FeedPosition>,
    /// How far it is. Closes when it is not done for another reason.
    pub(crate) progress: watch::Sender<Progress>,
}

/// How far a restart is.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Progress {
    /// Blocks of the snapshot, or of steps.
    pub(crate) blocks_read: u64,
    /// All of it is shown.
    pub(crate) done: bool,
}

impl Peer {
    /// Follows until `stop`. When the own region has another log than before, what was
    /// committed may be gone: the peer is then followed from a snapshot again. So it is when an
    /// operator orders it, or from a position.
    pub(crate) async fn run(self, mut restarts: mpsc::Receiver<Restart>, stop: CancellationToken) {
        let mut again: Option<Restart> = None;
        while !stop.is_cancelled() {
            let (events, taken) = mpsc::channel(EVENTS_MAX);
            let (region, own) = (self.region.clone(), self.own.clone());
            let after = again.as_ref().and_then(|again| again.after.clone());
            let follower = MeshScopeFollower::new(self.source.clone(), region, own, after, events);
            let mut carrying = Carrying::new(&self, again.take());
            tokio::select! {
                () = stop.cancelled() => return,
                Some(restart) = restarts.recv() => again = Some(restart),
                () = follower.run(stop.child_token()) => {}
                () = carrying.run(taken) => {
                    info!(peer = %self.region, "the own region has another log: following anew");
                }
            }
        }
    }
}

/// From one snapshot of a peer on.
struct Carrying<'a> {
    peer: &'a Peer,
    backlog: Backlog,
    /// At most one.
    commit: Option<Commit>,
    home_log: Option<LogIncarnation>,
    /// While what is known is read again.
    again: Option<Restart>,
    /// Where the feed is followed again: what was shown when that began.
    until: Option<FeedPosition>,
}

impl<'a> Carrying<'a> {
    fn new(peer: &'a Peer, again: Option<Restart>) -> Self {
        // Nobody else shows steps of the peer: none comes between this and the first one.
        let since = again.as_ref().is_some_and(|again| again.after.is_some());
        let shown = || peer.mesh.standing(&peer.region).0;
        Self {
            until: since.then(shown).flatten(),
            peer,
            backlog: Backlog::default(),
            commit: None,
            home_log: peer.home.log(),
            again,
        }
    }

    /// Ends when the own region has another log than before.
    async fn run(&mut self, mut events: mpsc::Receiver<MeshEvent>) {
        let mut tick = interval(TICK);
        loop {
            self.show();
            let committing = self.commit.is_some();
            tokio::select! {
                event = events.recv(), if !self.backlog.is_full() => match event {
                    Some(event) => self.take(event),
                    // The follower is over, and so is the process.
                    None => return,
                },
                (batch, log) = committed(&mut self.commit), if committing => {
                    self.commit = None;
                    self.home_log.get_or_insert(log);
                    for change in self.backlog.committed(&batch) {
                        self.show_one(change);
                    }
                }
                _ = tick.tick() => {
                    self.peer.meters.standing(&self.peer.mesh);
                }
            }
            if self.home_changed() {
                return;
            }
        }
    }

    /// Shows what may be shown, and begins to commit what comes next.
    fn show(&mut self) {
        if self.commit.is_some() {
            return;
        }
        while let Some(change) = self.backlog.next_free() {
            self.show_one(change);
        }
        if let Some(batch) = self.backlog.next_batch() {
            let (home, meters) = (self.peer.home.clone(), self.peer.meters.clone());
            let again = self.again.is_some();
            self.commit = Some(Box::pin(async move {
                let log = home.commit(&batch, again, &meters).await;
                (batch, log)
            }));
        }
    }

    fn show_one(&mut self, change: Change) {
        let (mesh, region) = (&self.peer.mesh, &self.peer.region);
        let Some(again) = &self.again else {
            mesh.show(region, change);
            return;
        };
        if mesh.show_again(region, change, self.until.as_ref()) {
            again.progress.send_modify(|progress| progress.done = true);
            self.again = None;
        }
    }

    fn take(&mut self, event: MeshEvent) {
        let at = match &event {
            MeshEvent::SnapshotBegin => {
                self.peer.meters.snapshot();
                None
            }
            MeshEvent::Snapshot { .. } => None,
            MeshEvent::SnapshotEnd(position)
            | MeshEvent::Step(position, _)
            | MeshEvent::Heartbeat(position) => Some(position),
        };
        self.peer.mesh.hear(&self.peer.region, at);
        if let Some(again) = &self.again {
            let blocks = match &event {
                MeshEvent::Snapshot { blocks, .. } => blocks.len(),
                MeshEvent::Step(_, step) => step.appeared.len() + step.vanished.len(),
                _ => 0,
            };
            let more = |progress: &mut Progress| progress.blocks_read += blocks as u64;
            again.progress.send_modify(more);
        }
        self.peer.push.take(&event);
        self.backlog.take(event);
    }

    fn home_changed(&mut self) -> bool {
        let now = self.peer.home.log();
        let changed = matches!((self.home_log, now), (Some(before), Some(now)) if before != now);
        self.home_log = now.or(self.home_log);
        changed
    }
}

/// Waits for the commit under way. Dropping this does not drop the commit.
async fn committed(commit: &mut Option<Commit>) -> (Batch, LogIncarnation) {
    match commit {
        Some(commit) => commit.await,
        None => std::future::pending().await,
    }
}
