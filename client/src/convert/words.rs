//! Names, positions, copies, members, chains and parts.

use bytes::{Bytes, BytesMut};
use kvmesh_directory::{
    BlockHash, BlockKey, BlockName, Checksum, Copy, CopyNumber, Description, FeedPosition,
    Incarnation, LogIncarnation, Member, NamespaceId, NodeId, Part, RegionId,
    limits::CHAIN_BLOCKS_MAX,
};
use kvmesh_proto::v1 as wire;

use super::{FromWire, ToWire, WireError, required};

/// Reads a region's name from the field that carries it.
///
/// # Errors
/// When it is empty or not a region's name.
pub fn region(field: &'static str, raw: &str) -> Result<RegionId, WireError> {
    if raw.is_empty() {
        return Err(WireError::Missing(field));
    }
    raw.parse().map_err(|why| WireError::field(field, why))
}

impl ToWire for RegionId {
    type Wire = String;
    fn to_wire(&self) -> String {
        self.as_str().to_owned()
    }
}

impl FromWire for RegionId {
    type Wire = String;
    fn from_wire(wire: String) -> Result<Self, WireError> {
        region("region", &wire)
    }
}

macro_rules! fixed_bytes {
    ($word:ident, $field:literal) => {
        impl ToWire for $word {
            type Wire = Bytes;
            fn to_wire(&self) -> Bytes {
                Bytes::copy_from_slice(&self.0)
            }
        }

        impl FromWire for $word {
            type Wire = Bytes;
            fn from_wire(wire: Bytes) -> Result<Self, WireError> {
                if wire.is_empty() {
                    return Err(WireError::Missing($field));
                }
                $word::try_from(&wire[..]).map_err(|why| WireError::field($field, why))
            }
        }
    };
}

fixed_bytes!(NamespaceId, "namespace_id");
fixed_bytes!(BlockHash, "hash");
fixed_bytes!(Checksum, "checksum");

impl ToWire for FeedPosition {
    type Wire = wire::FeedPosition;
    fn to_wire(&self) -> wire::FeedPosition {
        wire::FeedPosition {
            region: self.region.to_wire(),
            log_incarnation: self.log_incarnation.0,
            index: self.index,
        }
    }
}

impl FromWire for FeedPosition {
    type Wire = wire::FeedPosition;
    fn from_wire(wire: wire::FeedPosition) -> Result<Self, WireError> {
        Ok(Self {
            region: region("position.region", &wire.region)?,
            log_incarnation: LogIncarnation(wire.log_incarnation),
            index: wire.index,
        })
    }
}

impl ToWire for Part {
    type Wire = wire::Part;
    fn to_wire(&self) -> wire::Part {
        wire::Part {
            shard: self.shard.into(),
            group: self.group.into(),
        }
    }
}

impl FromWire for Part {
    type Wire = wire::Part;
    fn from_wire(wire: wire::Part) -> Result<Self, WireError> {
        Part::try_from((wire.shard, wire.group)).map_err(|why| WireError::field("part", why))
    }
}

impl ToWire for BlockKey {
    type Wire = wire::BlockKey;
    fn to_wire(&self) -> wire::BlockKey {
        wire::BlockKey {
            hash: self.hash.to_wire(),
            part: Some(self.part.to_wire()),
        }
    }
}

impl FromWire for BlockKey {
    type Wire = wire::BlockKey;
    fn from_wire(wire: wire::BlockKey) -> Result<Self, WireError> {
        Ok(Self {
            hash: BlockHash::from_wire(wire.hash)?,
            part: required("part", wire.part)?,
        })
    }
}

impl ToWire for BlockName {
    type Wire = wire::BlockName;
    fn to_wire(&self) -> wire::BlockName {
        wire::BlockName {
            namespace_id: self.namespace.to_wire(),
            hash: self.hash.to_wire(),
            part: Some(self.part.to_wire()),
        }
    }
}

impl FromWire for BlockName {
    type Wire = wire::BlockName;
    fn from_wire(wire: wire::BlockName) -> Result<Self, WireError> {
        Ok(Self {
            namespace: NamespaceId::from_wire(wire.namespace_id)?,
            hash: BlockHash::from_wire(wire.hash)?,
            part: required("part", wire.part)?,
        })
    }
}

impl ToWire for Copy {
    type Wire = wire::Copy;
    fn to_wire(&self) -> wire::Copy {
        wire::Copy {
            node: self.node.0,
            incarnation: self.incarnation.0,
            copy: self.copy.0,
        }
    }
}

impl FromWire for Copy {
    type Wire = wire::Copy;
    fn from_wire(wire: wire::Copy) -> Result<Self, WireError> {
        Ok(Self {
            node: NodeId(wire.node),
            incarnation: Incarnation(wire.incarnation),
            copy: CopyNumber(wire.copy),
        })
    }
}

impl ToWire for Member {
    type Wire = wire::Member;
    fn to_wire(&self) -> wire::Member {
        wire::Member {
            node: self.node.0,
            address: self.address.clone(),
            zone: self.zone.clone(),
            weight: self.weight,
            voter: self.voter,
        }
    }
}

impl FromWire for Member {
    type Wire = wire::Member;
    fn from_wire(wire: wire::Member) -> Result<Self, WireError> {
        Ok(Self {
            node: NodeId(wire.node),
            address: wire.address,
            zone: wire.zone,
            weight: wire.weight,
            voter: wire.voter,
        })
    }
}

/// Reads a chain into canonical hashes; its width must be the namespace's.
///
/// # Errors
/// When the chain is empty, too long, of another width, or ends inside a hash.
pub fn chain(wire: &wire::Chain, expected_width: u32) -> Result<Vec<BlockHash>, WireError> {
    if wire.width != expected_width || expected_width == 0 {
        let why = format!(
            "it is {}, the namespace's hash_width is {expected_width}",
            wire.width
        );
        return Err(WireError::field("chain.width", why));
    }
    let wrong = |why: String| Err(WireError::field("chain.hashes", why));
    let (bytes, width) = (wire.hashes.len(), expected_width as usize);
    if bytes == 0 {
        return wrong("the chain is empty: name at least one block".to_owned());
    }
    if bytes % width != 0 {
        return wrong(format!(
            "{bytes} bytes are not whole hashes of {width} bytes: the last one is cut"
        ));
    }
    if bytes / width > CHAIN_BLOCKS_MAX {
        return wrong(format!(
            "{} hashes, the limit is {CHAIN_BLOCKS_MAX}: split the chain",
            bytes / width
        ));
    }
    let mut hashes = Vec::with_capacity(bytes / width);
    for raw in wire.hashes.chunks_exact(width) {
        let hash = BlockHash::from_engine(raw);
        hashes.push(hash.map_err(|why| WireError::field("chain.width", why))?);
    }
    Ok(hashes)
}

/// Packs engine hashes, all of one width, into a chain.
pub fn chain_of<'a>(width: u32, hashes: impl IntoIterator<Item = &'a [u8]>) -> wire::Chain {
    let hashes = hashes.into_iter();
    let mut packed = BytesMut::with_capacity(hashes.size_hint().0 * width as usize);
    for hash in hashes {
        debug_assert_eq!(hash.len(), width as usize);
        packed.extend_from_slice(hash);
    }
    wire::Chain {
        hashes: packed.freeze(),
        width,
    }
}

/// Reads the parts that a call names: none named means (0, 0). Ascending, without repeats.
///
/// # Errors
/// When the description does not have one of them.
pub fn parts(wire: &[wire::Part], description: &Description) -> Result<Vec<Part>, WireError> {
    if wire.is_empty() {
        return Ok(vec![Part::default()]);
    }
    let read = |raw: &wire::Part| {
        let part = Part::from_wire(*raw)?;
        if description.has_part(part) {
            return Ok(part);
        }
        let (shards, groups) = (description.shard_count, description.group_count);
        let why = format!(
            "({}, {}) is not a part of the namespace: it has {shards} shards and {groups} groups",
            part.shard, part.group
        );
        Err(WireError::field("parts", why))
    };
    let mut parts: Vec<Part> = wire.iter().map(read).collect::<Result<_, _>>()?;
    parts.sort_unstable();
    parts.dedup();
    Ok(parts)
}

/// Writes the parts that a call names.
#[must_use]
pub fn parts_of(parts: &[Part]) -> Vec<wire::Part> {
    super::each(parts)
}
