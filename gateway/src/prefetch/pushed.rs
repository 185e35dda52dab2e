//! Blocks that nobody waits for: what region-sync brings here for a policy of `push`, and what was
//! wanted often where it is `hot`. They give way to gets and to fills.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use bytes::BytesMut;
use kvmesh_client::Problem;
use kvmesh_directory::{
    BlockHash, BlockKey, BlockName, Namespace, RegionId, namespace::CANONICAL_BYTES,
};
use tokio::time::{Instant, sleep};

use super::{BATCH_BLOCKS, Planned, RUNNING_HOT_MAX, TIME_MAX, cut, start, wanting};
use crate::{
    chain::Chain,
    context::Gateway,
    read::{Slot, Source},
    request::Want,
};

/// How often it is looked whether there is room.
const LOOK: Duration = Duration::from_millis(20);

/// What this region lacks of the blocks, each to be asked of `region`.
pub(super) fn plan(
    gateway: &Gateway,
    keys: &[BlockKey],
    namespace: &Arc<Namespace>,
    region: &RegionId,
    until: Instant,
) -> Planned {
    let lacking = gateway.views.local.with(|state| {
        let keys: BTreeSet<BlockKey> = keys.iter().copied().collect();
        let here = |key: &BlockKey| state.entry(&BlockName::new(namespace.id, *key)).is_some();
        keys.into_iter()
            .filter(|key| !here(key))
            .collect::<Vec<_>>()
    });
    let mut planned = Planned {
        batches: VecDeque::new(),
        total: lacking.len() as u32,
        total_bytes: 0,
    };
    for keys in lacking.chunks(BATCH_BLOCKS) {
        let (want, slots) = slots(gateway, keys, namespace, region, until);
        planned.total_bytes += slots.iter().map(|slot| slot.bytes).sum::<u64>();
        planned.batches.extend(cut(&Arc::new(want), slots, true));
    }
    planned
}

/// Blocks that need not be of one chain, as the places of one.
fn slots(
    gateway: &Gateway,
    keys: &[BlockKey],
    namespace: &Arc<Namespace>,
    region: &RegionId,
    until: Instant,
) -> (Want, Vec<Slot>) {
    let mut places: BTreeMap<BlockHash, u32> = BTreeMap::new();
    for key in keys {
        let next = places.len() as u32;
        places.entry(key.hash).or_insert(next);
    }
    let mut hashes = vec![BlockHash([0; 32]); places.len()];
    places
        .iter()
        .for_each(|(hash, place)| hashes[*place as usize] = *hash);
    let slot = |key: &BlockKey| {
        let name = BlockName::new(namespace.id, *key);
        let (_, bytes) = gateway.views.mesh.with(|mesh| mesh.whereabouts(name.tag()));
        Slot {
            index: places[&key.hash],
            part: key.part,
            name,
            bytes: bytes.into(),
            asked: bytes.into(),
            sources: VecDeque::from([Source::Region(region.clone())]),
            failover: false,
        }
    };
    let mut slots: Vec<Slot> = keys.iter().map(slot).collect();
    slots.sort_by_key(|slot| (slot.index, slot.part));
    let indexes = (0..hashes.len() as u32).collect();
    let chain = chain_of(namespace, hashes);
    let parts = slots.iter().map(|slot| slot.part).collect();
    let want = Want {
        aside: true,
        ..wanting(namespace, chain, indexes, parts, until)
    };
    (want, slots)
}

/// Engines' hashes where they can be had back, else the canonical forms.
fn chain_of(namespace: &Namespace, hashes: Vec<BlockHash>) -> Chain {
    let width = namespace.description.hash_width.min(CANONICAL_BYTES);
    let mut raw = BytesMut::with_capacity(hashes.len() * width as usize);
    for hash in &hashes {
        raw.extend_from_slice(&hash.0[..width as usize]);
    }
    Chain::new(raw.freeze(), width, hashes)
}

/// Brings blocks that a get wants here, whatever comes of the get.
pub(crate) fn bring_hot(
    gateway: &Arc<Gateway>,
    want: &Want,
    slots: Vec<Slot>,
) -> Result<(), Problem> {
    let until = Instant::now() + TIME_MAX;
    let (indexes, parts) = (want.indexes.clone(), want.parts.clone());
    let far = |source: &Source| matches!(source, Source::Region(_));
    let mut slots = slots;
    for slot in &mut slots {
        slot.sources.retain(far);
    }
    let planned = Planned {
        total: slots.len() as u32,
        total_bytes: slots.iter().map(|slot| slot.bytes).sum(),
        batches: {
            let chain = want.chain.clone();
            let want = wanting(&want.namespace, chain, indexes, parts, until);
            cut(&Arc::new(want), slots, true).into()
        },
    };
    start(gateway, want.namespace.id, planned, until, RUNNING_HOT_MAX).map(drop)
}

/// Waits until gets and fills leave room. Whoever calls says for how long.
pub(super) async fn give_way(gateway: &Gateway) {
    while !gateway.is_quiet() {
        sleep(LOOK).await;
    }
}
