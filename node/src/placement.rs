//! Where blocks belong: the ring of the current epoch, and how members are reached.

use std::sync::Arc;

use arc_swap::ArcSwap;
use kvmesh_directory::{BlockName, NodeId, Ring, RingEpoch, Topology};

use crate::directory::SharedDirectory;

/// The ring, worked out once per epoch.
pub(crate) struct Placement {
    directory: SharedDirectory,
    ring: ArcSwap<Ring>,
}

impl Placement {
    pub(crate) fn new(directory: SharedDirectory) -> Self {
        let ring = ArcSwap::from_pointee(Ring::build(&Topology::empty()));
        Self { directory, ring }
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

    /// The living nodes of a name's preference list, best first, but those of `except`.
    pub(crate) fn candidates(&self, name: &BlockName, except: &[NodeId]) -> Vec<(NodeId, String)> {
        let ring = self.ring();
        let others = ring
            .preference(name)
            .iter()
            .filter(|node| !except.contains(node));
        others
            .filter_map(|node| Some((*node, self.address(*node)?)))
            .collect()
    }
}
