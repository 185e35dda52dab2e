//! What a region has, in short: a number of blocks and a sum of hashes for each range of tags.
//!
//! Two sides that have the same blocks have the same digest, whatever order they heard of them
//! in; a range that differs is found without reading the others. Part of the protocol: both
//! sides compute it, so what is summed never changes.

use twox_hash::XxHash3_64;

use crate::{
    limits::DIGEST_RANGES,
    namespace::Namespace,
    state::Tombstone,
    words::{BlockName, Hlc, NamespaceId, Tag},
};

const RANGE_BITS: u32 = DIGEST_RANGES.trailing_zeros();

/// Which range a tag lies in: by its highest bits.
#[must_use]
pub fn range_of(tag: Tag) -> usize {
    (tag.0 >> (u64::BITS - RANGE_BITS)) as usize
}

/// The blocks of one range, or of several.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RangeDigest {
    /// How many there are.
    pub blocks: u64,
    /// Of xxh3-64 over tag and size, 8 and 4 bytes, little endian; wraps around.
    pub sum: u64,
}

impl RangeDigest {
    /// Counts a block.
    pub fn add(&mut self, tag: Tag, bytes: u32) {
        let mut raw = [0; 12];
        raw[..8].copy_from_slice(&tag.0.to_le_bytes());
        raw[8..].copy_from_slice(&bytes.to_le_bytes());
        self.blocks = self.blocks.wrapping_add(1);
        self.sum = self.sum.wrapping_add(XxHash3_64::oneshot(&raw));
    }
}

impl FromIterator<(Tag, u32)> for RangeDigest {
    fn from_iter<I: IntoIterator<Item = (Tag, u32)>>(blocks: I) -> Self {
        let mut digest = Self::default();
        for (tag, bytes) in blocks {
            digest.add(tag, bytes);
        }
        digest
    }
}

/// Namespaces and deleted names together. Only digests of one region are compared, each with an
/// earlier one: it tells whether anything changed, and not what.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ObjectsDigest(u64);

impl ObjectsDigest {
    /// Counts a namespace.
    pub fn add_namespace(&mut self, namespace: &Namespace) {
        let mut raw = of_namespace(namespace.id, namespace.generation);
        raw.extend(namespace.policy_hlc.0.to_le_bytes());
        raw.extend(namespace.policy_region.as_str().as_bytes());
        self.add(&raw);
    }

    /// Counts a deleted name.
    pub fn add_tombstone(&mut self, name: &BlockName, tombstone: Tombstone) {
        let mut raw = of_namespace(name.namespace, tombstone.hlc);
        raw.extend(name.tag().0.to_le_bytes());
        self.add(&raw);
    }

    fn add(&mut self, raw: &[u8]) {
        self.0 = self.0.wrapping_add(XxHash3_64::oneshot(raw));
    }

    /// As a number.
    #[must_use]
    pub fn value(self) -> u64 {
        self.0
    }
}

fn of_namespace(id: NamespaceId, hlc: Hlc) -> Vec<u8> {
    [&id.0[..], &hlc.0.to_le_bytes()].concat()
}

/// All ranges of one region.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Digest(Vec<RangeDigest>);

impl Default for Digest {
    fn default() -> Self {
        Self(vec![RangeDigest::default(); DIGEST_RANGES])
    }
}

impl Digest {
    /// From the digests of all ranges, in order; none: their number is another one.
    #[must_use]
    pub fn of_ranges(ranges: Vec<RangeDigest>) -> Option<Self> {
        (ranges.len() == DIGEST_RANGES).then_some(Self(ranges))
    }

    /// Counts a block.
    pub fn add(&mut self, tag: Tag, bytes: u32) {
        self.0[range_of(tag)].add(tag, bytes);
    }

    /// The ranges, in order.
    #[must_use]
    pub fn ranges(&self) -> &[RangeDigest] {
        &self.0
    }

    /// The ranges in which two differ, ascending.
    #[must_use]
    pub fn differing(&self, other: &Self) -> Vec<usize> {
        let pairs = self.0.iter().zip(&other.0).enumerate();
        pairs
            .filter(|(_, (ours, theirs))| ours != theirs)
            .map(|(range, _)| range)
            .collect()
    }

    /// All ranges together.
    #[must_use]
    pub fn total(&self) -> RangeDigest {
        let add = |total: RangeDigest, range: &RangeDigest| RangeDigest {
            blocks: total.blocks.wrapping_add(range.blocks),
            sum: total.sum.wrapping_add(range.sum),
        };
        self.0.iter().fold(RangeDigest::default(), add)
    }
}
