//! The tags of one range: which regions have them, and how large their blocks are there.

use std::{
    collections::{BTreeMap, HashMap, hash_map::Entry},
    hash::{BuildHasherDefault, Hasher},
};

use super::{Moment, RegionSet};
use crate::words::Tag;

/// See the module.
#[derive(Debug, Clone, Default)]
pub(super) struct Shard {
    places: HashMap<Tag, Whereabouts, BuildHasherDefault<TagHasher>>,
    /// Sizes that are not those in `places`, by tag and region: regions may hold different
    /// contents of one name, which is rare.
    sizes: BTreeMap<(Tag, u8), u32>,
}

#[derive(Debug, Clone, Copy)]
struct Whereabouts {
    regions: RegionSet,
    /// As last heard, from any region.
    bytes: u32,
    /// When any region was last said to have it.
    named: Moment,
}

impl Shard {
    pub(super) fn get(&self, tag: Tag) -> (RegionSet, u32) {
        let place = self.places.get(&tag);
        place.map_or_else(Default::default, |place| (place.regions, place.bytes))
    }

    /// When any region was last said to have a tag; none: no region is.
    pub(super) fn named(&self, tag: Tag) -> Option<Moment> {
        self.places.get(&tag).map(|place| place.named)
    }

    /// False: it was there already.
    pub(super) fn insert(&mut self, number: u8, tag: Tag, bytes: u32, now: Moment) -> bool {
        let bit = 1 << number;
        let place = match self.places.entry(tag) {
            Entry::Occupied(place) => place.into_mut(),
            Entry::Vacant(free) => {
                let regions = RegionSet(bit);
                free.insert(Whereabouts {
                    regions,
                    bytes,
                    named: now,
                });
                return true;
            }
        };
        place.named = now;
        if place.bytes != bytes {
            let others = RegionSet(place.regions.0 & !bit);
            for other in others.numbers() {
                self.sizes.entry((tag, other)).or_insert(place.bytes);
            }
            place.bytes = bytes;
        }
        self.sizes.remove(&(tag, number));
        let is_new = place.regions.0 & bit == 0;
        place.regions.0 |= bit;
        is_new
    }

    /// False: it was not there.
    pub(super) fn remove(&mut self, number: u8, tag: Tag) -> bool {
        let Entry::Occupied(mut place) = self.places.entry(tag) else {
            return false;
        };
        if place.get().regions.0 & (1 << number) == 0 {
            return false;
        }
        self.sizes.remove(&(tag, number));
        place.get_mut().regions.0 &= !(1 << number);
        if place.get().regions.is_empty() {
            place.remove();
        }
        true
    }

    /// Whether a region has any of them.
    pub(super) fn has_any(&self, number: u8) -> bool {
        self.blocks(number).next().is_some()
    }

    /// A region has none of them.
    pub(super) fn forget(&mut self, number: u8) {
        self.sizes.retain(|(_, region), _| *region != number);
        self.places.retain(|_, place| {
            place.regions.0 &= !(1 << number);
            !place.regions.is_empty()
        });
    }

    /// What a region has, in no promised order.
    pub(super) fn blocks(&self, number: u8) -> impl Iterator<Item = (Tag, u32)> {
        let has = move |place: &Whereabouts| place.regions.0 & (1 << number) != 0;
        let places = self.places.iter().filter(move |(_, place)| has(place));
        places.map(move |(tag, place)| {
            let own = self.sizes.get(&(*tag, number));
            (*tag, own.copied().unwrap_or(place.bytes))
        })
    }
}

/// A tag is a hash already. All tags of a shard begin alike, and tables look at the first bits
/// of a hash: they get others there.
#[derive(Default)]
struct TagHasher(u64);

impl Hasher for TagHasher {
    fn write(&mut self, bytes: &[u8]) {
        // Tags write whole numbers; this keeps the hasher total.
        let fold = |hash: u64, byte: &u8| hash.rotate_left(8) ^ u64::from(*byte);
        self.0 = bytes.iter().fold(self.0, fold);
    }

    fn write_u64(&mut self, tag: u64) {
        self.0 = tag.rotate_left(32);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}
