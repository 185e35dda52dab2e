//! Which other region has which block: the mesh view.
//!
//! It is a hint where to ask. A tag may stand for two names, and a region may have lost
//! what it announced: both cost one asking that finds nothing, never a wrong block.

use std::{
    collections::{HashMap, hash_map},
    hash::{BuildHasherDefault, Hasher},
};

use crate::{
    limits::REGIONS_MAX,
    mutation::{self, Mutation},
    words::{FeedPosition, RegionId, Tag},
};

/// A set of regions of one [`MeshView`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RegionSet(pub u64);

impl RegionSet {
    /// Whether it names no region.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }
}

/// Which other region has which block: tag → set of regions. Soft state.
#[derive(Debug, Clone, Default)]
pub struct MeshView {
    /// A region's place is its bit in every [`RegionSet`], and never changes.
    regions: Vec<Heard>,
    tags: HashMap<Tag, Whereabouts, BuildHasherDefault<TagHasher>>,
}

/// What was heard of one region.
#[derive(Debug, Clone)]
struct Heard {
    region: RegionId,
    position: Option<FeedPosition>,
    blocks: u64,
}

#[derive(Debug, Clone, Copy)]
struct Whereabouts {
    regions: RegionSet,
    /// As last heard, from any region.
    bytes: u32,
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
        let heard = &mut self.regions[number];
        heard.position = None;
        if heard.blocks == 0 {
            return;
        }
        heard.blocks = 0;
        self.tags.retain(|_, place| {
            place.regions.0 &= !(1 << number);
            !place.regions.is_empty()
        });
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
        if let (Some(old), Some(new)) = (&self.regions[number].position, &position) {
            if old.covers(new) {
                return;
            }
            if old.log_incarnation != new.log_incarnation {
                self.reset(region);
            }
        }
        // Presence wins where two names share a tag.
        vanished.iter().for_each(|tag| self.remove(number, *tag));
        for &(tag, bytes) in appeared {
            self.insert(number, tag, bytes);
        }
        if position.is_some() {
            self.regions[number].position = position;
        }
    }

    /// Which regions may have a block, and its size as last heard.
    #[must_use]
    pub fn whereabouts(&self, tag: Tag) -> (RegionSet, u32) {
        let place = self.tags.get(&tag);
        place.map_or_else(Default::default, |place| (place.regions, place.bytes))
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
        let Some(number) = self.number(region) else {
            return Vec::new();
        };
        let has = |place: &Whereabouts| place.regions.0 & (1 << number) != 0;
        let mut tags: Vec<(Tag, u32)> = self
            .tags
            .iter()
            .filter(|(_, place)| has(place))
            .map(|(tag, place)| (*tag, place.bytes))
            .collect();
        tags.sort_unstable();
        tags
    }

    /// The position of a region's blocks.
    #[must_use]
    pub fn position(&self, region: &RegionId) -> Option<&FeedPosition> {
        let number = self.number(region)?;
        self.regions[number].position.as_ref()
    }

    fn number(&self, region: &RegionId) -> Option<usize> {
        self.regions
            .iter()
            .position(|heard| heard.region == *region)
    }

    fn number_or_new(&mut self, region: &RegionId) -> Option<usize> {
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
        Some(self.regions.len() - 1)
    }

    fn insert(&mut self, number: usize, tag: Tag, bytes: u32) {
        if mutation::on(Mutation::MeshViewSkips) && tag.0.is_multiple_of(16) {
            return;
        }
        let place = self.tags.entry(tag).or_insert(Whereabouts {
            regions: RegionSet::default(),
            bytes,
        });
        place.bytes = bytes;
        if place.regions.0 & (1 << number) == 0 {
            place.regions.0 |= 1 << number;
            self.regions[number].blocks += 1;
        }
    }

    fn remove(&mut self, number: usize, tag: Tag) {
        let hash_map::Entry::Occupied(mut place) = self.tags.entry(tag) else {
            return;
        };
        if place.get().regions.0 & (1 << number) == 0 {
            return;
        }
        self.regions[number].blocks -= 1;
        place.get_mut().regions.0 &= !(1 << number);
        if place.get().regions.is_empty() {
            place.remove();
        }
    }
}

/// A tag is a hash already.
#[derive(Default)]
struct TagHasher(u64);

impl Hasher for TagHasher {
    fn write(&mut self, bytes: &[u8]) {
        // Tags write whole numbers; this keeps the hasher total.
        let fold = |hash: u64, byte: &u8| hash.rotate_left(8) ^ u64::from(*byte);
        self.0 = bytes.iter().fold(self.0, fold);
    }

    fn write_u64(&mut self, tag: u64) {
        self.0 = tag;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}
