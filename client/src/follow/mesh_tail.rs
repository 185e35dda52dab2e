//! What a frame of a `FollowMesh` feed means to a gateway.
//!
//! A region's snapshot is collected apart and takes effect as one step, so that a gateway
//! that changes its region-sync does not forget what other regions have meanwhile.

use std::collections::BTreeMap;

use kvmesh_directory::{FeedPosition, RegionId, Tag, limits::REGIONS_MAX, view::RangeDigest};
use kvmesh_proto::v1::{self as wire, mesh_frame::Kind};

use super::FeedError;
use crate::convert::{self, WireError, mesh, required};

/// What to do about a frame.
#[derive(Debug, PartialEq)]
pub(super) enum Action {
    /// Nothing yet.
    Heard,
    /// All blocks of a region, as of a position.
    Replace(RegionId, Vec<(Tag, u32)>, FeedPosition),
    /// One step of a region.
    Step {
        region: RegionId,
        appeared: Vec<(Tag, u32)>,
        vanished: Vec<Tag>,
        position: FeedPosition,
    },
    /// What a region is said to have at a position was wrong.
    Mend {
        region: RegionId,
        appeared: Vec<(Tag, u32)>,
        vanished: Vec<Tag>,
        position: FeedPosition,
    },
    /// Remember what a region is said to have now.
    Mark(RegionId, FeedPosition),
    /// What was to be remembered at a position.
    Compare(RegionId, FeedPosition, RangeDigest),
    /// The state of the link to a region.
    Link(RegionId, wire::LinkState),
}

/// Decides; holds the snapshots that are on their way.
#[derive(Debug, Default)]
pub(super) struct MeshTail {
    snapshots: BTreeMap<RegionId, Vec<(Tag, u32)>>,
}

impl MeshTail {
    /// A new stream begins: what was half received does not go on.
    pub(super) fn restart(&mut self) {
        self.snapshots.clear();
    }

    pub(super) fn on_frame(&mut self, frame: wire::MeshFrame) -> Result<Action, FeedError> {
        let region = convert::region("region", &frame.region)?;
        match frame.kind.ok_or(FeedError::Unexpected("empty"))? {
            Kind::Reset(_) => {
                if self.snapshots.len() == REGIONS_MAX && !self.snapshots.contains_key(&region) {
                    let why = format!("over {REGIONS_MAX} regions send snapshots at once");
                    return Err(WireError::field("region", why).into());
                }
                self.snapshots.insert(region, Vec::new());
                Ok(Action::Heard)
            }
            Kind::Tags(tags) => self.on_tags(region, tags),
            Kind::Link(link) => Ok(Action::Link(region, link)),
            Kind::Mark(mark) => {
                let position = position_of(&region, mark.position)?;
                Ok(Action::Mark(region, position))
            }
            Kind::Digest(digest) => {
                let position = position_of(&region, digest.position)?;
                let total = RangeDigest {
                    blocks: digest.blocks,
                    sum: digest.sum,
                };
                Ok(Action::Compare(region, position, total))
            }
        }
    }

    fn on_tags(&mut self, region: RegionId, tags: wire::MeshTags) -> Result<Action, FeedError> {
        let appeared = mesh::unpack_appeared(&tags.appeared)?;
        let vanished = mesh::unpack_vanished(&tags.vanished)?;
        let Some(snapshot) = self.snapshots.get_mut(&region) else {
            if tags.snapshot_more {
                return Err(FeedError::Unexpected("snapshot without a reset"));
            }
            let position = position_of(&region, tags.position)?;
            return Ok(match tags.mends {
                false => Action::Step {
                    region,
                    appeared,
                    vanished,
                    position,
                },
                true => Action::Mend {
                    region,
                    appeared,
                    vanished,
                    position,
                },
            });
        };
        if tags.mends {
            return Err(FeedError::Unexpected("mending within a snapshot"));
        }
        if !vanished.is_empty() {
            return Err(FeedError::Unexpected("vanished tags within a snapshot"));
        }
        snapshot.extend(appeared);
        if tags.snapshot_more {
            return Ok(Action::Heard);
        }
        let position = position_of(&region, tags.position)?;
        let whole = self.snapshots.remove(&region).unwrap_or_default();
        Ok(Action::Replace(region, whole, position))
    }
}

fn position_of(
    region: &RegionId,
    raw: Option<wire::FeedPosition>,
) -> Result<FeedPosition, FeedError> {
    let position: FeedPosition = required("position", raw)?;
    if position.region == *region {
        return Ok(position);
    }
    Err(FeedError::Region {
        got: position.region,
        want: region.clone(),
    })
}
