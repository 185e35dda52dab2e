//! What regions tell one another, and the packed tags of the mesh view.

use bytes::{BufMut, Bytes, BytesMut};
use kvmesh_directory::{
    BlockName, FeedPosition, Namespace, Tag,
    state::Tombstone,
    view::{Digest, MeshStep, RangeDigest},
};
use kvmesh_proto::v1 as wire;

use super::{FromWire, ToWire, WireError, all, each, required};

const TAG_BYTES: usize = 8;
const TAG_AND_SIZE_BYTES: usize = 12;
const RANGE_BYTES: usize = 16;

impl ToWire for (BlockName, u32) {
    type Wire = wire::MeshBlock;
    fn to_wire(&self) -> wire::MeshBlock {
        wire::MeshBlock {
            name: Some(self.0.to_wire()),
            bytes: self.1,
        }
    }
}

impl FromWire for (BlockName, u32) {
    type Wire = wire::MeshBlock;
    fn from_wire(wire: wire::MeshBlock) -> Result<Self, WireError> {
        Ok((required("name", wire.name)?, wire.bytes))
    }
}

impl ToWire for (FeedPosition, MeshStep) {
    type Wire = wire::MeshStep;
    fn to_wire(&self) -> wire::MeshStep {
        let (position, step) = self;
        wire::MeshStep {
            position: Some(position.to_wire()),
            appeared: each(&step.appeared),
            vanished: each(&step.vanished),
            namespaces: each(&step.namespaces),
            deletes: each(&step.deletes),
            raises: each(&step.raises),
        }
    }
}

impl FromWire for (FeedPosition, MeshStep) {
    type Wire = wire::MeshStep;
    fn from_wire(wire: wire::MeshStep) -> Result<Self, WireError> {
        let step = MeshStep {
            appeared: all(wire.appeared)?,
            vanished: all(wire.vanished)?,
            namespaces: all(wire.namespaces)?,
            deletes: all(wire.deletes)?,
            raises: all(wire.raises)?,
        };
        Ok((required("position", wire.position)?, step))
    }
}

/// One part of a `MESH` snapshot.
#[derive(Debug, Clone, PartialEq)]
pub struct MeshPart {
    /// Where the follower stands after the last part.
    pub position: FeedPosition,
    /// Blocks of the region, with their size.
    pub blocks: Vec<(BlockName, u32)>,
    /// Its namespaces.
    pub namespaces: Vec<Namespace>,
    /// Its deleted names.
    pub tombstones: Vec<(BlockName, Tombstone)>,
    /// No part follows.
    pub last: bool,
}

impl ToWire for MeshPart {
    type Wire = wire::MeshSnapshot;
    fn to_wire(&self) -> wire::MeshSnapshot {
        wire::MeshSnapshot {
            position: Some(self.position.to_wire()),
            blocks: each(&self.blocks),
            namespaces: each(&self.namespaces),
            tombstones: each(&self.tombstones),
            last: self.last,
        }
    }
}

impl FromWire for MeshPart {
    type Wire = wire::MeshSnapshot;
    fn from_wire(wire: wire::MeshSnapshot) -> Result<Self, WireError> {
        Ok(Self {
            position: required("position", wire.position)?,
            blocks: all(wire.blocks)?,
            namespaces: all(wire.namespaces)?,
            tombstones: all(wire.tombstones)?,
            last: wire.last,
        })
    }
}

/// Packs tags with the sizes of their blocks: 8 and 4 bytes, little endian.
#[must_use]
pub fn pack_appeared(tags: &[(Tag, u32)]) -> Bytes {
    let mut packed = BytesMut::with_capacity(tags.len() * TAG_AND_SIZE_BYTES);
    for (tag, bytes) in tags {
        packed.put_u64_le(tag.0);
        packed.put_u32_le(*bytes);
    }
    packed.freeze()
}

/// Reads what [`pack_appeared`] wrote.
///
/// # Errors
/// When the last pair is cut.
pub fn unpack_appeared(packed: &[u8]) -> Result<Vec<(Tag, u32)>, WireError> {
    let (whole, rest) = packed.as_chunks::<TAG_AND_SIZE_BYTES>();
    if !rest.is_empty() {
        return Err(cut("appeared", packed.len(), TAG_AND_SIZE_BYTES));
    }
    let read = |raw: &[u8; TAG_AND_SIZE_BYTES]| {
        let [a, b, c, d, e, f, g, h, i, j, k, l] = *raw;
        let tag = u64::from_le_bytes([a, b, c, d, e, f, g, h]);
        (Tag(tag), u32::from_le_bytes([i, j, k, l]))
    };
    Ok(whole.iter().map(read).collect())
}

/// Packs tags: 8 bytes each, little endian.
#[must_use]
pub fn pack_vanished(tags: &[Tag]) -> Bytes {
    let mut packed = BytesMut::with_capacity(tags.len() * TAG_BYTES);
    for tag in tags {
        packed.put_u64_le(tag.0);
    }
    packed.freeze()
}

/// Reads what [`pack_vanished`] wrote.
///
/// # Errors
/// When the last tag is cut.
pub fn unpack_vanished(packed: &[u8]) -> Result<Vec<Tag>, WireError> {
    let (whole, rest) = packed.as_chunks::<TAG_BYTES>();
    if !rest.is_empty() {
        return Err(cut("vanished", packed.len(), TAG_BYTES));
    }
    Ok(whole
        .iter()
        .map(|raw| Tag(u64::from_le_bytes(*raw)))
        .collect())
}

/// Packs the ranges of a digest: number of blocks and sum, 8 bytes each, little endian.
#[must_use]
pub fn pack_digest(digest: &Digest) -> Bytes {
    let ranges = digest.ranges();
    let mut packed = BytesMut::with_capacity(ranges.len() * RANGE_BYTES);
    for range in ranges {
        packed.put_u64_le(range.blocks);
        packed.put_u64_le(range.sum);
    }
    packed.freeze()
}

/// Reads what [`pack_digest`] wrote.
///
/// # Errors
/// When there are not as many ranges as in a digest.
pub fn unpack_digest(packed: &[u8]) -> Result<Digest, WireError> {
    let (whole, rest) = packed.as_chunks::<RANGE_BYTES>();
    if !rest.is_empty() {
        return Err(cut("ranges", packed.len(), RANGE_BYTES));
    }
    let read = |raw: &[u8; RANGE_BYTES]| {
        let [a, b, c, d, e, f, g, h, rest @ ..] = *raw;
        RangeDigest {
            blocks: u64::from_le_bytes([a, b, c, d, e, f, g, h]),
            sum: u64::from_le_bytes(rest),
        }
    };
    let ranges: Vec<RangeDigest> = whole.iter().map(read).collect();
    let got = ranges.len();
    Digest::of_ranges(ranges)
        .ok_or_else(|| WireError::field("ranges", format!("{got} are not the ranges of a digest")))
}

fn cut(field: &'static str, bytes: usize, record: usize) -> WireError {
    let why = format!("{bytes} bytes are not whole records of {record} bytes");
    WireError::field(field, why)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_comes_as_it_went_and_no_other_number_of_ranges() {
        let mut digest = Digest::default();
        for number in 0..100_u64 {
            digest.add(Tag(number.wrapping_mul(0x9e37_79b9_7f4a_7c15)), 7);
        }
        let packed = pack_digest(&digest);
        assert_eq!(unpack_digest(&packed), Ok(digest));
        assert!(unpack_digest(&packed[..packed.len() - 1]).is_err());
        assert!(unpack_digest(&packed[..packed.len() - RANGE_BYTES]).is_err());
    }
}
