//! What would be lost with this region: its blocks that no other region is known to have.
//!
//! The mesh view lags, so a block that was copied a moment ago may still count as alone; never
//! the other way round, but for a copy that the other region has just evicted.

use std::collections::BTreeMap;

use kvmesh_client::follow::SharedMeshView;
use kvmesh_directory::{DirectoryState, Hlc, NamespaceId, RegionId};

/// Entries that are looked up in the mesh view under one lock, before other tasks get their turn.
const COUNTED_AT_ONCE: usize = 4_096;

/// Of one namespace.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct AtRisk {
    pub(crate) blocks: u64,
    /// Of one copy of each.
    pub(crate) bytes: u64,
    /// No other region has them.
    pub(crate) alone_blocks: u64,
    pub(crate) alone_bytes: u64,
    /// The newest put of a block that another region has.
    pub(crate) newest_copied: Hlc,
    pub(crate) oldest_alone: Option<Hlc>,
}

impl AtRisk {
    fn add(&mut self, put_hlc: Hlc, bytes: u64, alone: bool) {
        self.blocks += 1;
        self.bytes += bytes;
        if !alone {
            self.newest_copied = self.newest_copied.max(put_hlc);
            return;
        }
        self.alone_blocks += 1;
        self.alone_bytes += bytes;
        let oldest = self.oldest_alone.get_or_insert(put_hlc);
        *oldest = put_hlc.min(*oldest);
    }
}

/// Counts the visible blocks of a region's state, namespaces without any included.
pub(crate) async fn count(
    own: &RegionId,
    state: &DirectoryState,
    mesh: &SharedMeshView,
) -> BTreeMap<NamespaceId, AtRisk> {
    let namespaces = state.namespaces();
    let mut counted: BTreeMap<NamespaceId, AtRisk> = namespaces
        .map(|namespace| (namespace.id, AtRisk::default()))
        .collect();
    let mut entries = state
        .entries()
        .filter(|(name, entry)| state.visible(name, entry.put_hlc))
        .peekable();
    while entries.peek().is_some() {
        mesh.with(|mesh| {
            for (name, entry) in entries.by_ref().take(COUNTED_AT_ONCE) {
                let (regions, _) = mesh.whereabouts(name.tag());
                let alone = !mesh.named(regions).any(|region| region != own);
                let of = counted.entry(name.namespace).or_default();
                of.add(entry.put_hlc, u64::from(entry.bytes), alone);
            }
        });
        tokio::task::yield_now().await;
    }
    counted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alone_is_what_no_other_region_has_and_the_times_are_of_the_newest_and_the_oldest() {
        let mut at_risk = AtRisk::default();
        for (hlc, bytes, alone) in [(5, 10, false), (7, 20, true), (3, 30, false), (6, 40, true)] {
            at_risk.add(Hlc(hlc), bytes, alone);
        }
        let want = AtRisk {
            blocks: 4,
            bytes: 100,
            alone_blocks: 2,
            alone_bytes: 60,
            newest_copied: Hlc(5),
            oldest_alone: Some(Hlc(6)),
        };
        assert_eq!(at_risk, want);
    }
}
