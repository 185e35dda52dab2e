//! What can be asked of the directory. Nothing here changes it.

use crate::{
    limits::FEATURE_LOSSY,
    mutation::{self, Mutation},
    namespace::Namespace,
    state::{
        DirectoryState,
        model::{Entry, NodeRecord, Stats, Tombstone, TombstoneFloor},
        row::{Row, Slot},
    },
    topology::Topology,
    words::{
        BlockHash, BlockKey, BlockName, Copy, CopyNumber, FeedPosition, Hlc, NamespaceId, NodeId,
        Part, RegionId,
    },
};

impl DirectoryState {
    /// Last log index applied.
    #[must_use]
    pub fn applied_index(&self) -> u64 {
        self.applied_index
    }

    /// Where this state stands in its region's feed; none before the region is initialised.
    #[must_use]
    pub fn position(&self) -> Option<FeedPosition> {
        Some(FeedPosition {
            region: self.region()?.clone(),
            log_incarnation: self.log_incarnation,
            index: self.applied_index,
        })
    }

    /// Format of commands that all members understand; 0 before the region is initialised.
    #[must_use]
    pub fn feature_level(&self) -> u32 {
        self.feature_level
    }

    /// Whether blocks of a namespace may be kept and served that went through a lossy encoding.
    #[must_use]
    pub fn takes_lossy(&self, namespace: NamespaceId) -> bool {
        let policy = self.namespace(namespace).map(|known| &known.policy);
        self.feature_level >= FEATURE_LOSSY && policy.is_some_and(|policy| policy.lossy)
    }

    /// The region; none before it is initialised.
    #[must_use]
    pub fn region(&self) -> Option<&RegionId> {
        self.topology.region.as_ref()
    }

    /// Members at the current epoch.
    #[must_use]
    pub fn topology(&self) -> &Topology {
        &self.topology
    }

    /// A member's incarnation and whether it lives.
    #[must_use]
    pub fn node(&self, node: NodeId) -> Option<&NodeRecord> {
        self.nodes.get(node)
    }

    /// All members' records, ascending by node.
    pub fn nodes(&self) -> impl Iterator<Item = &NodeRecord> {
        self.nodes.iter()
    }

    /// A namespace by id.
    #[must_use]
    pub fn namespace(&self, id: NamespaceId) -> Option<&Namespace> {
        self.namespaces.get(id)
    }

    /// A namespace by alias.
    #[must_use]
    pub fn namespace_named(&self, name: &str) -> Option<&Namespace> {
        self.namespaces.named(name)
    }

    /// All namespaces, ascending by id.
    pub fn namespaces(&self) -> impl Iterator<Item = &Namespace> {
        self.namespaces.iter()
    }

    /// A block that is present and visible.
    #[must_use]
    pub fn entry(&self, name: &BlockName) -> Option<Entry> {
        self.blocks.get(name).map(|row| self.entry_of(row))
    }

    /// The one rule of liveness: `put_hlc > max(generation, tombstone)`, in a known namespace.
    #[must_use]
    pub fn visible(&self, name: &BlockName, put_hlc: Hlc) -> bool {
        let deleted = self.tombstones.get(name).map_or(Hlc(0), |t| t.hlc);
        self.namespace(name.namespace)
            .is_some_and(|namespace| put_hlc > namespace.generation.max(deleted))
    }

    /// Whether a block is present and visible.
    #[must_use]
    pub fn has(&self, name: &BlockName) -> bool {
        self.blocks.get(name).is_some()
    }

    /// Length of the run of `hashes` from its start that is present in all of `parts`, and the
    /// bytes of these. Much faster than one block after the other.
    #[must_use]
    pub fn run(
        &self,
        namespace: NamespaceId,
        hashes: &[BlockHash],
        parts: &[Part],
    ) -> (usize, u64) {
        let keys = hashes.iter().flat_map(|hash| {
            parts.iter().map(|part| BlockKey {
                hash: *hash,
                part: *part,
            })
        });
        let (mut seen, mut of_block, mut bytes) = (0_usize, 0, 0);
        let present = self.blocks.run(namespace, keys, |row| {
            seen += 1;
            of_block += u64::from(row.bytes);
            if seen.is_multiple_of(parts.len()) {
                bytes += std::mem::take(&mut of_block);
            }
        });
        // No parts: nothing is missing.
        let blocks = present.checked_div(parts.len()).unwrap_or(hashes.len());
        (blocks, bytes)
    }

    /// Names with fewer copies than wanted, in order, from `after` on (exclusive).
    pub fn under_replicated<'a>(
        &'a self,
        after: Option<&BlockName>,
    ) -> impl Iterator<Item = BlockName> + use<'a> {
        self.blocks.lacking(after.copied())
    }

    /// All blocks in key order.
    pub fn entries(&self) -> impl Iterator<Item = (BlockName, Entry)> {
        self.blocks
            .iter()
            .map(|(name, row)| (name, self.entry_of(row)))
    }

    /// Blocks in key order, from a name on (exclusive).
    pub fn entries_after(
        &self,
        after: Option<BlockName>,
    ) -> impl Iterator<Item = (BlockName, Entry)> {
        let rows = self.blocks.iter_after(after);
        rows.map(|(name, row)| (name, self.entry_of(row)))
    }

    /// Blocks with their sizes, in key order, from a name on (exclusive).
    pub fn sizes_after(&self, after: Option<BlockName>) -> impl Iterator<Item = (BlockName, u32)> {
        let rows = self.blocks.iter_after(after);
        rows.map(|(name, row)| (name, row.bytes))
    }

    /// Tombstones in key order, from a name on (exclusive).
    pub fn tombstones_after(
        &self,
        after: Option<BlockName>,
    ) -> impl Iterator<Item = (BlockName, Tombstone)> {
        self.tombstones.iter_after(after)
    }

    /// All tombstones in key order.
    pub fn tombstones(&self) -> impl Iterator<Item = (BlockName, Tombstone)> {
        self.tombstones.iter()
    }

    /// The tombstone of a name.
    #[must_use]
    pub fn tombstone(&self, name: &BlockName) -> Option<Tombstone> {
        self.tombstones.get(name)
    }

    /// See [`TombstoneFloor`].
    #[must_use]
    pub fn floor(&self) -> TombstoneFloor {
        self.tombstones.floor()
    }

    /// Where this region stands in another one's feed.
    #[must_use]
    pub fn remote_position(&self, region: &RegionId) -> Option<&FeedPosition> {
        self.remote_positions.get(region)
    }

    /// Newest clock that the log has shown.
    #[must_use]
    pub fn hlc_max(&self) -> Hlc {
        self.hlc_max
    }

    /// Counts, kept up to date by `apply`.
    #[must_use]
    pub fn stats(&self) -> Stats {
        Stats {
            blocks: self.blocks.len(),
            copies: self.blocks.copies(),
            bytes: self.blocks.bytes(),
            under_replicated: self.blocks.lacking_len(),
            tombstones: self.tombstones.len(),
            namespaces: self.namespaces.len() as u64,
        }
    }

    /// By which rows name a member.
    pub(super) fn slot(&self, node: NodeId) -> Option<Slot> {
        self.nodes.slot(node)
    }

    /// The holder of a copy, if the copy is of a living member's current incarnation.
    pub(super) fn current(&self, copy: &Copy) -> Option<Slot> {
        let slot = self.slot(copy.node)?;
        let record = self.nodes.at(slot)?;
        let current = record.incarnation == copy.incarnation
            || mutation::on(Mutation::ClaimWithoutIncarnation);
        (record.alive && current).then_some(slot)
    }

    /// None: the slot is free, and then no row names it.
    pub(super) fn copy_at(&self, slot: Slot, copy: CopyNumber) -> Option<Copy> {
        let record = self.nodes.at(slot)?;
        Some(Copy {
            node: record.node,
            incarnation: record.incarnation,
            copy,
        })
    }

    fn entry_of(&self, row: &Row) -> Entry {
        let held = row.holders.iter();
        let mut holders: Vec<Copy> = held
            .filter_map(|(slot, copy)| self.copy_at(slot, copy))
            .collect();
        // Slots are in the order in which nodes joined.
        holders.sort_unstable_by_key(|copy| copy.node);
        Entry {
            put_hlc: row.put_hlc,
            checksum: row.checksum,
            bytes: row.bytes,
            depth: row.depth,
            wanted: u32::from(row.holders.wanted()),
            holders,
        }
    }
}
