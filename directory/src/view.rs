//! What others see of a region's directory.
//!
//! Followers inside of the region replay its commands ([`RegionView`]); other regions
//! are told what commands meant ([`MeshStep`]) and keep tags ([`MeshView`]).

#[cfg(test)]
mod follow_test;
mod mesh;
mod projection;
mod region;
#[cfg(test)]
mod residency_test;
#[cfg(test)]
mod view_test;

pub use self::{
    mesh::{MeshView, RegionSet},
    projection::{MeshStep, mesh_blocks, mesh_namespaces, mesh_tombstones},
    region::{Followed, RegionView},
};
