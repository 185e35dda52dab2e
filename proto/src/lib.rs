//! The wire of kvmesh: messages and services of `kvmesh.v1`, generated from `proto/kvmesh/v1/`.
//!
//! Generated types stop at the edges: conversions to words live in `kvmesh-client`.
//! What each message and field means stands in the `.proto` files and in `docs/protocol.md`.

pub mod raft_entry;

/// Version 1 of the protocol.
#[allow(missing_docs, unreachable_pub, clippy::all)]
pub mod v1 {
    tonic::include_proto!("kvmesh.v1");
}

/// The encoded `FileDescriptorSet` of [`v1`], for gRPC reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/kvmesh.v1.bin"));
