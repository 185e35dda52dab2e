//! Compares a view with what whoever feeds it has.
//!
//! Both freeze at the same position, which costs a few pointers, and count apart from what goes
//! on: one says "remember this" between two steps, and later what should be remembered.

use std::collections::BTreeMap;

use kvmesh_directory::{
    FeedPosition, MeshView, RegionId,
    limits::DIGEST_RANGES,
    view::{Digest, RangeDigest},
};
use tokio::task::yield_now;
use tracing::warn;

use super::FeedError;

/// Ranges that are counted before others may run.
const RANGES_AT_ONCE: usize = 16;

/// The digest of what a frozen view says of a region.
pub async fn digest(frozen: &MeshView, region: &RegionId) -> Digest {
    let mut ranges = Vec::with_capacity(DIGEST_RANGES);
    for range in 0..DIGEST_RANGES {
        if range % RANGES_AT_ONCE == 0 {
            yield_now().await;
        }
        ranges.push(frozen.digest_of(region, range));
    }
    Digest::of_ranges(ranges).unwrap_or_default()
}

/// What was to be remembered, by region.
#[derive(Default)]
pub(super) struct Marked(BTreeMap<RegionId, (MeshView, FeedPosition)>);

impl Marked {
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    /// Remembers a view that stands at `position`. One that is ahead has nothing to compare.
    pub(super) fn mark(
        &mut self,
        region: RegionId,
        position: FeedPosition,
        frozen: Option<(MeshView, FeedPosition)>,
    ) -> Result<(), FeedError> {
        let (view, at) = frozen.ok_or(FeedError::Gap)?;
        if !at.covers(&position) {
            return Err(FeedError::Gap);
        }
        self.0.remove(&region);
        if at == position {
            self.0.insert(region, (view, at));
        }
        Ok(())
    }

    /// Fails where what was remembered is something else.
    pub(super) async fn compare(
        &mut self,
        instance: &str,
        region: RegionId,
        position: &FeedPosition,
        theirs: RangeDigest,
    ) -> Result<(), FeedError> {
        let Some((view, at)) = self.0.remove(&region) else {
            return Ok(());
        };
        if at != *position {
            return Ok(());
        }
        let ours = digest(&view, &region).await.total();
        let end = if ours == theirs { "equal" } else { "differs" };
        metrics::counter!(
            "kvmesh_client_mesh_compares_total",
            "instance" => instance.to_owned(), "region" => region.to_string(), "end" => end
        )
        .increment(1);
        if ours == theirs {
            return Ok(());
        }
        warn!(%region, ours = ours.blocks, theirs = theirs.blocks, "the view of a region is wrong: all of it is asked for again");
        Err(FeedError::Differs(region))
    }
}
