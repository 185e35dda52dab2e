//! The ring of the region whose gateway is asked: where blocks belong, without asking.
//!
//! It is a guess of where blocks are, never more: whoever goes by it turns to a gateway where it
//! is wrong. So it may be old for a while, and a gateway is asked whether it still holds after
//! [`AGE_MAX`], and sooner where it misled.
//!
//! Not here: whether nodes are reached (`path`).

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use kvmesh_directory::{BlockHash, BlockName, Member, Part, Ring, RingEpoch, Topology};
use tokio::time::Instant;

use super::{BlockOwners, Chain, Located, NodeEndpoint, locating::Of};

/// A gateway is asked whether the ring is still the same after so long,
const AGE_MAX: Duration = Duration::from_secs(10);
/// and where it misled, after so long.
const AGE_MIN: Duration = Duration::from_secs(1);
/// A gateway whose nodes are not for this client is asked again after so long: the address may
/// be another one's then.
const CLOSED_MAX: Duration = Duration::from_secs(60);

/// The ring, when a gateway has said it.
#[derive(Default)]
pub(super) struct KnownRing {
    known: Mutex<Option<Known>>,
    /// The gateway that last named no nodes, since they are not for clients of this one's region,
    /// and when.
    closed: Mutex<Option<(usize, Instant)>>,
}

#[derive(Clone)]
struct Known {
    /// Which gateway said so: another one may be of another region.
    gateway: usize,
    ring: Arc<Ring>,
    nodes: Arc<[NodeEndpoint]>,
    /// When it was said last. None: it may have changed since.
    said: Option<Instant>,
}

impl KnownRing {
    /// The epoch of the ring that a gateway is known to have said.
    pub(super) fn epoch(&self, gateway: usize) -> RingEpoch {
        let known = self.known();
        let known = known.as_ref().filter(|known| known.gateway == gateway);
        known.map_or(RingEpoch(0), |known| known.ring.epoch())
    }

    /// A gateway's ring has this epoch, and these members, where they were not known. No members:
    /// there is no ring to go by now.
    pub(super) fn heard(&self, gateway: usize, epoch: RingEpoch, members: Vec<Member>) {
        let mut known = self.known();
        let same = |known: &&mut Known| known.gateway == gateway && known.ring.epoch() == epoch;
        match known.as_mut().filter(same) {
            Some(known) => known.said = Some(Instant::now()),
            None => *known = Known::of(gateway, epoch, members),
        }
    }

    /// A gateway named no nodes: everything goes through it.
    pub(super) fn closed(&self, gateway: usize) {
        let mut closed = self.closed.lock().unwrap_or_else(PoisonError::into_inner);
        *closed = Some((gateway, Instant::now()));
    }

    /// Whether a gateway named no nodes a while ago.
    pub(super) fn is_closed(&self, gateway: usize) -> bool {
        let closed = self.closed.lock().unwrap_or_else(PoisonError::into_inner);
        closed.is_some_and(|(whose, said)| whose == gateway && said.elapsed() < CLOSED_MAX)
    }

    /// Nodes did not have what they should have, or a node has another ring.
    pub(super) fn misled(&self) {
        if let Some(known) = self.known().as_mut() {
            known.said.take_if(|said| said.elapsed() >= AGE_MIN);
        }
    }

    /// Where blocks belong, and so may be. None: a gateway is to be asked.
    pub(super) fn locate(
        &self,
        gateway: usize,
        of: Of,
        chain: &Chain,
        parts: &[Part],
    ) -> Option<Located> {
        let fresh = |known: &&Known| {
            let young = |said: Instant| said.elapsed() < AGE_MAX;
            known.gateway == gateway && known.said.is_some_and(young)
        };
        let known = self.known().as_ref().filter(fresh)?.clone();
        let mut blocks = Vec::with_capacity(chain.len() as usize * parts.len());
        for index in 0..chain.len() {
            for part in parts {
                let hash = BlockHash::from_engine(&chain.hash(index)).ok()?;
                let name = BlockName {
                    namespace: of.namespace,
                    hash,
                    part: *part,
                };
                let owners = known
                    .ring
                    .preference(&name)
                    .iter()
                    .take(of.replicas as usize);
                let place = |node| known.nodes.binary_search_by_key(node, |at| at.node).ok();
                let owners: Vec<usize> = owners.filter_map(place).collect();
                blocks.push(BlockOwners {
                    holders: owners.clone(),
                    owners,
                });
            }
        }
        Some(Located {
            ring_epoch: known.ring.epoch(),
            nodes: known.nodes,
            blocks,
        })
    }

    fn known(&self) -> MutexGuard<'_, Option<Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    fn of(gateway: usize, epoch: RingEpoch, mut members: Vec<Member>) -> Option<Self> {
        if members.is_empty() {
            return None;
        }
        members.sort_unstable_by_key(|member| member.node);
        let nodes = members.iter().map(|member| NodeEndpoint {
            node: member.node,
            address: member.address.clone(),
            zone: member.zone.clone(),
        });
        let nodes = nodes.collect();
        let topology = Topology {
            epoch,
            members,
            ..Topology::empty()
        };
        Some(Self {
            gateway,
            ring: Arc::new(Ring::build(&topology)),
            nodes,
            said: Some(Instant::now()),
        })
    }
}

#[cfg(test)]
#[path = "ring_test.rs"]
mod ring_test;
