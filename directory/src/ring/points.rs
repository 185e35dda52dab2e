//! Points on the ring: where virtual nodes and blocks lie.
//!
//! All hashing is xxh3-64 over canonical bytes, done here and in [`crate::words`]; the
//! ring's own hasher passes the number through, because the bytes that `derive(Hash)`
//! feeds to a hasher may change with any version of Rust.

use std::hash::{BuildHasher, Hash, Hasher};

use twox_hash::XxHash3_64;

use crate::{
    limits::{VIRTUAL_NODES_PER_WEIGHT, WEIGHT_MAX},
    topology::Member,
    words::NodeId,
};

/// A place on the ring.
#[derive(Hash)]
pub(super) struct Point(pub(super) u64);

/// The arc that ends at a point, itself included, and begins after the point before it.
#[derive(Debug, Clone, Copy)]
pub(super) struct ArcEnd {
    /// Its last point.
    pub(super) end: u64,
    /// Its number, ascending with the end.
    pub(super) arc: u32,
}

impl Hash for ArcEnd {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        hasher.write_u64(self.end);
    }
}

/// Takes points as they are.
#[derive(Debug, Clone)]
pub(super) struct PassThrough;

/// Holds the one number that was written.
pub(super) struct Taken(u64);

impl BuildHasher for PassThrough {
    type Hasher = Taken;

    fn build_hasher(&self) -> Taken {
        Taken(0)
    }
}

impl Hasher for Taken {
    fn write(&mut self, bytes: &[u8]) {
        // Points write whole numbers; this keeps the hasher total.
        let fold = |point: u64, byte: &u8| point << 8 | u64::from(*byte);
        self.0 = bytes.iter().fold(self.0, fold);
    }

    fn write_u64(&mut self, point: u64) {
        self.0 = point;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// Every virtual node's point and the index of its member, ascending. Where two nodes
/// share a point, the one with the lower number has it.
pub(super) fn of(members: &[Member]) -> Vec<(u64, usize)> {
    let mut points: Vec<(u64, usize)> = members
        .iter()
        .enumerate()
        .flat_map(|(index, member)| {
            let count = member.weight.min(WEIGHT_MAX) * VIRTUAL_NODES_PER_WEIGHT;
            (0..count).map(move |number| (virtual_node(member.node, number), index))
        })
        .collect();
    points.sort_unstable_by_key(|&(point, index)| (point, members[index].node));
    points.dedup_by_key(|&mut (point, _)| point);
    points
}

/// xxh3-64 of the node's number (u64) and the virtual node's (u32), both big endian.
/// Never change it: every block's place follows from it.
fn virtual_node(node: NodeId, number: u32) -> u64 {
    let mut raw = [0; 12];
    raw[..8].copy_from_slice(&node.0.to_be_bytes());
    raw[8..].copy_from_slice(&number.to_be_bytes());
    XxHash3_64::oneshot(&raw)
}
