//! What another region said a moment ago that it does not have, though the view names it.
//!
//! Invariants: bounded in blocks and age; what a feed names after the region was asked is not
//! absent, whichever of the two came first here.
//!
//! Not here: what a region lacks for good, which its feed says, or comparing.

use std::{
    collections::{HashMap, VecDeque},
    sync::{PoisonError, RwLock, RwLockReadGuard},
};

use kvmesh_directory::{
    BlockName, MeshView, RegionId,
    view::{Moment, RegionSet},
};
use tokio::time::{Duration, Instant};

/// How long a region is not asked again for a block that it did not have.
const MEMORY: Duration = Duration::from_secs(2);
/// Misses that are remembered; the oldest give way.
const MISSES_MAX: usize = 65_536;

/// See the module.
#[derive(Default)]
pub(crate) struct Absent(RwLock<Misses>);

#[derive(Default)]
struct Misses {
    of: HashMap<BlockName, VecDeque<Miss>>,
    /// As they were told.
    order: VecDeque<(BlockName, Instant)>,
}

struct Miss {
    region: RegionId,
    told: Instant,
    /// What the view had heard when the region was asked.
    asked: Moment,
}

/// The misses, for as long as one walk takes.
pub(crate) struct Lacking<'a>(RwLockReadGuard<'a, Misses>);

impl Absent {
    /// A region that was asked at a moment of the mesh view does not have a block.
    pub(crate) fn told(&self, name: BlockName, region: &RegionId, asked: Moment) {
        let told = Instant::now();
        let mut misses = self.0.write().unwrap_or_else(PoisonError::into_inner);
        misses.forget(told, MISSES_MAX - 1);
        misses.order.push_back((name, told));
        let of = misses.of.entry(name).or_default();
        of.push_back(Miss {
            region: region.clone(),
            told,
            asked,
        });
    }

    pub(crate) fn read(&self) -> Lacking<'_> {
        Lacking(self.0.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Misses {
    /// Forgets what is too old, and the oldest until so many are left.
    fn forget(&mut self, now: Instant, left: usize) {
        let old = |told: Instant| now.saturating_duration_since(told) >= MEMORY;
        while let Some(&(name, told)) = self.order.front()
            && (old(told) || self.order.len() > left)
        {
            self.order.pop_front();
            if let Some(of) = self.of.get_mut(&name) {
                // The oldest of this name, too.
                of.pop_front();
                if of.is_empty() {
                    self.of.remove(&name);
                }
            }
        }
    }
}

impl Lacking<'_> {
    /// Those of the regions that a view names for a block which did not just say otherwise.
    pub(crate) fn less(&self, mesh: &MeshView, name: &BlockName, set: RegionSet) -> RegionSet {
        let misses = self.0.of.get(name).into_iter().flatten();
        let stand = misses.filter(|miss| {
            miss.told.elapsed() < MEMORY && !mesh.named_since(name.tag(), miss.asked)
        });
        stand.fold(set, |set, miss| mesh.without(set, &miss.region))
    }
}

#[cfg(test)]
mod tests {
    use kvmesh_directory::{BlockHash, FeedPosition, LogIncarnation, NamespaceId, Part};
    use tokio::time::advance;

    use super::*;

    fn name(number: u32) -> BlockName {
        let mut hash = [0; 32];
        hash[..4].copy_from_slice(&number.to_le_bytes());
        BlockName {
            namespace: NamespaceId([1; 16]),
            hash: BlockHash(hash),
            part: Part::default(),
        }
    }

    /// The region has the block, as one more step of its feed says.
    fn names(mesh: &mut MeshView, region: &RegionId, name: &BlockName) {
        let before = mesh.position(region).map_or(0, |at| at.index);
        let position = FeedPosition {
            region: region.clone(),
            log_incarnation: LogIncarnation(1),
            index: before + 1,
        };
        mesh.step(region, &[(name.tag(), 900)], &[], Some(position));
    }

    fn named(absent: &Absent, mesh: &MeshView, name: &BlockName) -> Vec<String> {
        let set = mesh.whereabouts(name.tag()).0;
        let left = absent.read().less(mesh, name, set);
        mesh.named(left).map(ToString::to_string).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn a_region_lacks_what_it_said_until_its_feed_or_time_says_otherwise() {
        let (absent, mut mesh) = (Absent::default(), MeshView::new());
        let (eu, ap): (RegionId, RegionId) = ("eu".parse().unwrap(), "ap".parse().unwrap());
        for region in [&eu, &ap] {
            names(&mut mesh, region, &name(1));
            names(&mut mesh, region, &name(2));
        }
        let asked = mesh.now();
        absent.told(name(1), &eu, asked);
        assert_eq!(named(&absent, &mesh, &name(1)), ["ap"]);
        assert_eq!(named(&absent, &mesh, &name(2)), ["eu", "ap"]);
        absent.told(name(1), &ap, mesh.now());
        assert!(named(&absent, &mesh, &name(1)).is_empty());
        names(&mut mesh, &eu, &name(2));
        assert!(named(&absent, &mesh, &name(1)).is_empty());
        // Its feed may be faster than its answer.
        names(&mut mesh, &eu, &name(1));
        absent.told(name(1), &eu, asked);
        assert!(named(&absent, &mesh, &name(1)).contains(&"eu".to_owned()));

        absent.told(name(2), &eu, mesh.now());
        advance(MEMORY - Duration::from_millis(1)).await;
        assert_eq!(named(&absent, &mesh, &name(2)), ["ap"]);
        advance(Duration::from_millis(1)).await;
        assert_eq!(named(&absent, &mesh, &name(2)), ["eu", "ap"]);
    }

    #[tokio::test(start_paused = true)]
    async fn the_oldest_misses_give_way_and_the_old_ones_go() {
        let (absent, mut mesh) = (Absent::default(), MeshView::new());
        let eu: RegionId = "eu".parse().unwrap();
        let last = MISSES_MAX as u32;
        for number in [0, 1, last] {
            names(&mut mesh, &eu, &name(number));
        }
        for number in 0..=last {
            absent.told(name(number), &eu, mesh.now());
        }
        assert_eq!(named(&absent, &mesh, &name(0)), ["eu"]);
        assert!(named(&absent, &mesh, &name(1)).is_empty());
        assert!(named(&absent, &mesh, &name(last)).is_empty());
        assert_eq!(absent.read().0.of.len(), MISSES_MAX);
        advance(MEMORY).await;
        absent.told(name(0), &eu, mesh.now());
        assert_eq!(
            (absent.read().0.of.len(), absent.read().0.order.len()),
            (1, 1)
        );
    }
}
