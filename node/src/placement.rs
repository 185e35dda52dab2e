//! Where blocks belong: the ring of the current epoch, and how members are reached.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use arc_swap::ArcSwap;
use kvmesh_directory::{BlockName, NodeId, Ring, RingEpoch, Topology};

use tokio::time::{Duration, Instant};

use crate::directory::SharedDirectory;

/// How long a member that did not answer is asked last.
const ASK_LAST_FOR: Duration = Duration::from_secs(2);

/// The ring, worked out once per epoch.
pub(crate) struct Placement {
    directory: SharedDirectory,
    ring: ArcSwap<Ring>,
    /// Members that did not answer lately, and until when they are asked last.
    slow: Mutex<BTreeMap<NodeId, Instant>>,
}

impl Placement {
    pub(crate) fn new(directory: SharedDirectory) -> Self {
        let ring = ArcSwap::from_pointee(Ring::build(&Topology::empty()));
        Self {
            directory,
            ring,
            slow: Mutex::default(),
        }
    }

    /// The epoch that the directory shows.
    pub(crate) fn epoch(&self) -> RingEpoch {
        self.directory.with(|state| state.topology().epoch)
    }

    /// The ring of the epoch that the directory shows.
    pub(crate) fn ring(&self) -> Arc<Ring> {
        let ring = self.ring.load_full();
        if ring.epoch() == self.epoch() {
            return ring;
        }
        let topology = self.directory.with(|state| state.topology().clone());
        let ring = Arc::new(Ring::build(&topology));
        self.ring.store(Arc::clone(&ring));
        ring
    }

    /// The address of a member that is alive.
    pub(crate) fn address(&self, node: NodeId) -> Option<String> {
        self.directory.with(|state| {
            let record = state.node(node)?;
            let member = state.topology().member(node)?;
            (record.alive && record.incarnation.0 > 0).then(|| member.address.clone())
        })
    }

    /// The living nodes of a name's preference list but those of `except`: best first, those
    /// that did not answer lately at the end.
    pub(crate) fn candidates(&self, name: &BlockName, except: &[NodeId]) -> Vec<(NodeId, String)> {
        let ring = self.ring();
        let now = Instant::now();
        let slow = self.slow().clone();
        let is_slow = |node: &NodeId| slow.get(node).is_some_and(|until| *until > now);
        let others = ring
            .preference(name)
            .iter()
            .filter(|node| !except.contains(node));
        let mut living: Vec<_> = others
            .filter_map(|node| Some((*node, self.address(*node)?)))
            .collect();
        living.sort_by_key(|(node, _)| is_slow(node));
        living
    }

    fn slow(&self) -> MutexGuard<'_, BTreeMap<NodeId, Instant>> {
        self.slow.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes whether a member answered: one that did not is asked last for a while, so that
    /// not every block waits for it until the leader gives it up.
    pub(crate) fn answered(&self, node: NodeId, answered: bool) {
        let mut slow = self.slow();
        if answered {
            slow.remove(&node);
        } else {
            slow.insert(node, Instant::now() + ASK_LAST_FOR);
        }
    }
}
