//! Leases of a made-up node.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Mutex,
        atomic::{AtomicU32, AtomicUsize, Ordering},
    },
};

use kvmesh_client::{FromWire, Problem};
use kvmesh_directory::{BlockKey, BlockName, NamespaceId};
use kvmesh_proto::v1 as wire;

use super::{Holder, Mood};

/// A lease's name at a node.
type Id = (NamespaceId, Vec<u8>);

/// What a node has leased.
pub(crate) struct Leases {
    pub(crate) open: Mutex<BTreeMap<Id, BTreeSet<BlockName>>>,
    pub(crate) calls: AtomicUsize,
    /// Copies that may be leased.
    pub(crate) max: AtomicUsize,
    pub(crate) hold_ms: AtomicU32,
}

impl Default for Leases {
    fn default() -> Self {
        Self {
            open: Mutex::default(),
            calls: AtomicUsize::new(0),
            max: AtomicUsize::new(usize::MAX),
            hold_ms: AtomicU32::new(300_000),
        }
    }
}

impl Leases {
    /// Every copy that some lease covers.
    pub(crate) fn names(&self) -> BTreeSet<BlockName> {
        let open = self.open.lock().unwrap();
        open.values().flatten().copied().collect()
    }
}

pub(crate) async fn lease(
    holder: &Holder,
    request: wire::LeaseRequest,
) -> Result<wire::LeaseResponse, Problem> {
    let leases = &holder.leases;
    leases.calls.fetch_add(1, Ordering::SeqCst);
    if holder.mood() == Mood::Silent {
        std::future::pending::<()>().await;
    }
    let namespace = NamespaceId::from_wire(request.namespace_id)?;
    let hold_ms = match request.hold_ms {
        0 => 30_000,
        wanted => wanted,
    };
    let hold_ms = hold_ms.min(leases.hold_ms.load(Ordering::SeqCst));
    let mut open = leases.open.lock().unwrap();
    if !request.release.is_empty() {
        let gone = open.remove(&(namespace, request.release.to_vec()));
        return Ok(wire::LeaseResponse {
            blocks: gone.map_or(0, |gone| gone.len() as u32),
            ..Default::default()
        });
    }
    if !request.renew.is_empty() {
        let known = open.get(&(namespace, request.renew.to_vec()));
        return Ok(wire::LeaseResponse {
            blocks: known.ok_or(Problem::UnknownLease)?.len() as u32,
            hold_ms,
            ..Default::default()
        });
    }
    let mut taken = open.values().map(BTreeSet::len).sum::<usize>();
    let (mut missing, mut full) = (Vec::new(), false);
    let id = (namespace, request.id.to_vec());
    let lease = open.entry(id.clone()).or_default();
    for (at, key) in request.keys.into_iter().enumerate() {
        let key = BlockKey::from_wire(key)?;
        let name = BlockName {
            namespace,
            hash: key.hash,
            part: key.part,
        };
        let is_here = holder.blocks.lock().unwrap().contains_key(&name);
        let has_room = taken < leases.max.load(Ordering::SeqCst);
        full |= is_here && !has_room;
        if is_here && has_room && holder.mood() != Mood::Forgetful {
            lease.insert(name);
            taken += 1;
        } else {
            missing.push(at as u32);
        }
    }
    let blocks = lease.len() as u32;
    if blocks == 0 {
        open.remove(&id);
    }
    if blocks == 0 && full {
        return Err(Problem::Exhausted {
            limit: "the copies that are leased here".to_owned(),
            retry_after: std::time::Duration::from_secs(1),
        });
    }
    Ok(wire::LeaseResponse {
        lease: request.id,
        blocks,
        hold_ms,
        missing,
        ..Default::default()
    })
}
