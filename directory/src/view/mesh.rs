//! Which other region has which block: the mesh view.
//!
//! It is a hint where to ask. A tag may stand for two names, and a region may have lost
//! what it announced: both cost one asking that finds nothing, never a wrong block.
//!
//! Tags are kept by range, in shards that clones share until one side writes: a clone is a
//! frozen view for a few pointers, and comparing reads that one.

mod shard;

use std::sync::Arc;

use crate::{
    limits::{DIGEST_RANGES, REGIONS_MAX},
    mutation::{self, Mutation},
    view::digest::{Digest, RangeDigest, range_of},
    words::{FeedPosition, RegionId, Tag},
};
use shard::Shard;

/// A set of regions of one [`MeshView`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RegionSet(pub u64);

impl RegionSet {
    /// Whether it names no region.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Their numbers, ascending.
    fn numbers(self) -> impl Iterator<Item = u8> {
        (0..REGIONS_MAX as u8).filter(move |number| self.0 & (1 << number) != 0)
    }
}

/// A place in the order of a [`MeshView`]'s changes. Two that lie 2^31 changes apart or more are
/// in no order.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Moment(pub(super) u32);

impl Moment {
    pub(super) fn next(self) -> Self {
        Self(self.0.wrapping_add(1))
    }

    pub(super) fn is_after(self, other: Self) -> bool {
        (1..1 << 31).contains(&self.0.wrapping_sub(other.0))
    }
}

/// Which other region has which block: tag → set of regions. Soft state.
#[derive(Debug, Clone)]
pub struct MeshView {
    /// A region's place is its bit in every [`RegionSet`], and never changes.
    regions: Vec<Heard>,
    /// One for each range of a digest.
    shards: Vec<Arc<Shard>>,
    /// Of the newest change.
    now: Moment,
}

impl Default for MeshView {
    fn default() -> Self {
        Self {
            regions: Vec::new(),
            shards: vec![Arc::default(); DIGEST_RANGES],
            now: Moment::default(),
        }
    }
}

/// What was heard of one region.
#[derive(Debug, Clone)]
struct Heard {
    region: RegionId,
    position: Option<FeedPosition>,
    blocks: u64,
}

impl MeshView {
    /// Nothing known.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Forgets a region's blocks and position; its number stays.
    pub fn reset(&mut self, region: &RegionId) {
        let Some(number) = self.number(region) else {
            return;
        };
        let heard = &mut self.regions[usize::from(number)];
        heard.position = None;
        if heard.blocks == 0 {
            return;
        }
        heard.blocks = 0;
        let having = self.shards.iter_mut().filter(|shard| shard.has_any(number));
        having.for_each(|shard| Arc::make_mut(shard).forget(number));
    }

    /// Takes one indivisible step of a region. A position that is covered already is ignored;
    /// none: part of a snapshot that goes on. A step of another log than before forgets
    /// what the region had. Regions beyond [`REGIONS_MAX`] are ignored.
    pub fn step(
        &mut self,
        region: &RegionId,
        appeared: &[(Tag, u32)],
        vanished: &[Tag],
        position: Option<FeedPosition>,
    ) {
        let Some(number) = self.number_or_new(region) else {
            return;
        };
        let heard = &self.regions[usize::from(number)];
        if let (Some(old), Some(new)) = (&heard.position, &position) {
            if old.covers(new) {
                return;
            }
            if old.log_incarnation != new.log_incarnation {
                self.reset(region);
            }
        }
        self.change(number, appeared, vanished);
        if position.is_some() {
            self.regions[usize::from(number)].position = position;
        }
    }

    /// Changes what a region is said to have at the position where the view of it stands:
    /// what was said before was wrong. Nothing happens to a region that was not heard of.
    pub fn mend(&mut self, region: &RegionId, appeared: &[(Tag, u32)], vanished: &[Tag]) {
        if let Some(number) = self.number(region) {
            self.change(number, appeared, vanished);
        }
    }

    fn change(&mut self, number: u8, appeared: &[(Tag, u32)], vanished: &[Tag]) {
        self.now = self.now.next();
        // Presence wins where two names share a tag.
        vanished.iter().for_each(|tag| self.remove(number, *tag));
        for &(tag, bytes) in appeared {
            self.insert(number, tag, bytes);
        }
    }

    /// Which regions may have a block, and its size as last heard.
    #[must_use]
    pub fn whereabouts(&self, tag: Tag) -> (RegionSet, u32) {
        self.shards[range_of(tag)].get(tag)
    }

    /// The moment of the newest change.
    #[must_use]
    pub fn now(&self) -> Moment {
        self.now
    }

    /// Whether any region was said to have a block after a moment of this view.
    #[must_use]
    pub fn named_since(&self, tag: Tag, moment: Moment) -> bool {
        let named = self.shards[range_of(tag)].named(tag);
        named.is_some_and(|named| named.is_after(moment))
    }

    /// A set, but for one region.
    #[must_use]
    pub fn without(&self, set: RegionSet, region: &RegionId) -> RegionSet {
        match self.number(region) {
            Some(number) => RegionSet(set.0 & !(1 << number)),
            None => set,
        }
    }

    /// Whether a set names a region.
    #[must_use]
    pub fn names(&self, set: RegionSet, region: &RegionId) -> bool {
        let number = self.number(region);
        number.is_some_and(|number| set.0 & (1 << number) != 0)
    }

    /// The regions that a set names, in the order in which they were first heard of.
    pub fn named(&self, set: RegionSet) -> impl Iterator<Item = &RegionId> {
        let regions = self.regions.iter().enumerate();
        regions
            .filter(move |(number, _)| set.0 & (1 << number) != 0)
            .map(|(_, heard)| &heard.region)
    }

    /// Every region heard of, with the position of its blocks and their number.
    pub fn regions(&self) -> impl Iterator<Item = (&RegionId, Option<&FeedPosition>, u64)> {
        let regions = self.regions.iter();
        regions.map(|heard| (&heard.region, heard.position.as_ref(), heard.blocks))
    }

    /// A region's blocks, in the order of their tags.
    #[must_use]
    pub fn tags_of(&self, region: &RegionId) -> Vec<(Tag, u32)> {
        let mut tags: Vec<(Tag, u32)> = (0..DIGEST_RANGES)
            .flat_map(|range| self.blocks_in(region, range))
            .collect();
        tags.sort_unstable();
        tags
    }

    /// A region's blocks of one range, in no promised order; sizes are those in that region.
    pub fn blocks_in(
        &self,
        region: &RegionId,
        range: usize,
    ) -> impl Iterator<Item = (Tag, u32)> + use<'_> {
        let shard = self.shards.get(range).zip(self.number(region));
        let blocks = shard.map(|(shard, number)| shard.blocks(number));
        blocks.into_iter().flatten()
    }

    /// The digest of a region's blocks of one range.
    #[must_use]
    pub fn digest_of(&self, region: &RegionId, range: usize) -> RangeDigest {
        self.blocks_in(region, range).collect()
    }

    /// The digest of a region's blocks. Where others wait, take range by range.
    #[must_use]
    pub fn digest(&self, region: &RegionId) -> Digest {
        let ranges = (0..DIGEST_RANGES).map(|range| self.digest_of(region, range));
        Digest::of_ranges(ranges.collect()).unwrap_or_default()
    }

    /// The position of a region's blocks.
    #[must_use]
    pub fn position(&self, region: &RegionId) -> Option<&FeedPosition> {
        let number = self.number(region)?;
        self.regions[usize::from(number)].position.as_ref()
    }

    fn number(&self, region: &RegionId) -> Option<u8> {
        let place = self
            .regions
            .iter()
            .position(|heard| heard.region == *region);
        place.map(|number| number as u8)
    }

    fn number_or_new(&mut self, region: &RegionId) -> Option<u8> {
        if let Some(number) = self.number(region) {
            return Some(number);
        }
        if self.regions.len() == REGIONS_MAX {
            return None;
        }
        self.regions.push(Heard {
            region: region.clone(),
            position: None,
            blocks: 0,
        });
        Some((self.regions.len() - 1) as u8)
    }

    fn insert(&mut self, number: u8, tag: Tag, bytes: u32) {
        if mutation::on(Mutation::MeshViewSkips) && tag.0.is_multiple_of(16) {
            return;
        }
        let shard = Arc::make_mut(&mut self.shards[range_of(tag)]);
        let is_new = shard.insert(number, tag, bytes, self.now);
        self.regions[usize::from(number)].blocks += u64::from(is_new);
    }

    fn remove(&mut self, number: u8, tag: Tag) {
        let shard = &mut self.shards[range_of(tag)];
        // What is not there copies nothing.
        if shard.get(tag).0.0 & (1 << number) == 0 {
            return;
        }
        let was_there = Arc::make_mut(shard).remove(number, tag);
        self.regions[usize::from(number)].blocks -= u64::from(was_there);
    }
}
