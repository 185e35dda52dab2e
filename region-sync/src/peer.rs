//! One other region: follows its feed, carries its effects home, shows its blocks to gateways.

use std::{future::Future, pin::Pin, sync::Arc, time::Duration};

use kvmesh_client::follow::{MeshEvent, MeshScopeFollower, Source};
use kvmesh_directory::{LogIncarnation, RegionId};
use tokio::{sync::mpsc, time::interval};
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::{
    backlog::{Backlog, Batch},
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

impl Peer {
    /// Follows until `stop`. When the own region has another log than before, what was
    /// committed may be gone: the peer is then followed from a snapshot again.
    pub(crate) async fn run(self, stop: CancellationToken) {
        while !stop.is_cancelled() {
            let (events, taken) = mpsc::channel(EVENTS_MAX);
            let (region, own) = (self.region.clone(), self.own.clone());
            let follower = MeshScopeFollower::new(self.source.clone(), region, own, None, events);
            let mut carrying = Carrying::new(&self);
            tokio::select! {
                () = stop.cancelled() => return,
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
}

impl<'a> Carrying<'a> {
    fn new(peer: &'a Peer) -> Self {
        Self {
            peer,
            backlog: Backlog::default(),
            commit: None,
            home_log: peer.home.log(),
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
                        self.peer.mesh.show(&self.peer.region, change);
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
            self.peer.mesh.show(&self.peer.region, change);
        }
        if let Some(batch) = self.backlog.next_batch() {
            let (home, meters) = (self.peer.home.clone(), self.peer.meters.clone());
            self.commit = Some(Box::pin(async move {
                let log = home.commit(&batch, &meters).await;
                (batch, log)
            }));
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
