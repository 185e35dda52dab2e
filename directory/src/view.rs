//! What others see of a region's directory.
//!
//! Followers inside of the region replay its commands ([`RegionView`]); other regions
//! are told what commands meant ([`MeshStep`]) and keep tags ([`MeshView`]).

mod digest;
#[cfg(test)]
mod digest_test;
#[cfg(test)]
mod follow_test;
mod mesh;
mod projection;
mod region;
#[cfg(test)]
mod residency_test;
#[cfg(test)]
mod view_test;
mod walk;

pub use self::{
    digest::{Digest, ObjectsDigest, RangeDigest, range_of},
    mesh::{MeshView, Moment, RegionSet},
    projection::{MeshStep, mesh_blocks, mesh_namespaces, mesh_tombstones},
    region::{Followed, RegionView},
    walk::MeshWalk,
};
