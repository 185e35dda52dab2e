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

use super::{BATCH_BLOCKS, BATCH_BYTES, Planned, RUNNING_HOT_MAX, TIME_MAX, cut, start, wanting};
use crate::{
    chain::Chain,
    coding,
    context::Gateway,
    read::{Slot, Source},
    request::Want,
    way::{self, Class},
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
        let bytes_max = bytes_max(gateway, region);
        let batches = cut(&Arc::new(want), slots, bytes_max);
        planned.batches.extend(batches);
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
        class: Class::Pushed,
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
            let want = Want {
                class: Class::Pushed,
                ..wanting(&want.namespace, chain, indexes, parts, until)
            };
            let first = slots.iter().filter_map(|slot| slot.sources.front());
            let regions: BTreeSet<&RegionId> = first
                .filter_map(|source| match source {
                    Source::Region(region) => Some(region),
                    Source::Node(_) => None,
                })
                .collect();
            let each = regions.iter().map(|region| bytes_max(gateway, region));
            let bytes_max = each.min().unwrap_or(BATCH_BYTES);
            cut(&Arc::new(want), slots, bytes_max).into()
        },
    };
    start(gateway, want.namespace.id, planned, until, RUNNING_HOT_MAX).map(drop)
}

/// Bytes of one call for blocks that a region has.
fn bytes_max(gateway: &Gateway, region: &RegionId) -> u64 {
    let link = gateway.views.mesh.link(region);
    let bandwidth = link.map_or(0.0, |link| gateway.links.bandwidth(region, &link));
    way::push_bytes_max(bandwidth, BATCH_BYTES)
}

/// Waits until gets and fills leave room, here and on the links that blocks come by. Whoever
/// calls says for how long.
pub(super) async fn give_way(gateway: &Gateway, want: &Want, slots: &[Slot]) {
    let mut bytes: BTreeMap<&RegionId, u64> = BTreeMap::new();
    for slot in slots {
        if let Some(Source::Region(region)) = slot.sources.front() {
            *bytes.entry(region).or_default() += slot.bytes;
        }
    }
    for (region, bytes) in bytes {
        while !may_begin(gateway, want, region, bytes) {
            sleep(LOOK).await;
        }
    }
}

fn may_begin(gateway: &Gateway, want: &Want, region: &RegionId, bytes: u64) -> bool {
    let Some(link) = gateway.views.mesh.link(region) else {
        return true;
    };
    let travel = coding::travel(gateway, &want.namespace, &link, bytes);
    gateway.is_quiet() && gateway.links.may_push(region, &link, travel)
}
