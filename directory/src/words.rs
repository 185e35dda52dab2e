//! The words of the field as types, parsed at the door.

use std::{fmt, str::FromStr};

use twox_hash::{XxHash3_64, XxHash3_128};

use crate::limits::{HASH_WIDTH_MAX, HASH_WIDTH_MIN, PIECE_BYTES, REGION_NAME_BYTES_MAX};

/// Why a word could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WordError {
    /// A region's name is empty, too long, or has other characters than `a-z`, `0-9` and `-`.
    #[error(
        "region name {0:?} is not 1 to {REGION_NAME_BYTES_MAX} characters of a-z, 0-9 and '-': rename it"
    )]
    RegionName(String),
    /// A fixed-size word has another length.
    #[error("{what} has {got} bytes, expected {want}")]
    Length {
        /// Which word.
        what: &'static str,
        /// Bytes received.
        got: usize,
        /// Bytes expected.
        want: usize,
    },
    /// An engine's hash is too short or too long.
    #[error("a block hash has {got} bytes, expected {HASH_WIDTH_MIN} to {HASH_WIDTH_MAX}")]
    HashWidth {
        /// Bytes received.
        got: usize,
    },
    /// A part does not fit its type.
    #[error("part ({shard}, {group}) is out of range: both are at most 65535")]
    Part {
        /// Tensor-parallel rank.
        shard: u32,
        /// Attention group.
        group: u32,
    },
}

/// A region's name, such as `us-east`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RegionId(Box<str>);

impl RegionId {
    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for RegionId {
    type Err = WordError;

    fn from_str(raw: &str) -> Result<Self, WordError> {
        let fits = (1..=REGION_NAME_BYTES_MAX).contains(&raw.len());
        let plain = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-';
        if fits && raw.bytes().all(plain) {
            Ok(Self(raw.into()))
        } else {
            Err(WordError::RegionName(raw.into()))
        }
    }
}

impl fmt::Debug for RegionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for RegionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

macro_rules! number {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(pub u64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number! {
    /// A node's stable number, unique in its region and never used again.
    NodeId
}
number! {
    /// Which start (or return from death) of a node; grows by one. 0: none yet.
    Incarnation
}
number! {
    /// Which copy at one incarnation of a node; a node never uses one twice.
    CopyNumber
}
number! {
    /// Version of a region's topology. 0: not initialised.
    RingEpoch
}
number! {
    /// Random number of a region's log, committed when the region is initialised.
    LogIncarnation
}
number! {
    /// Hybrid logical clock: milliseconds since 1970 in the upper 48 bits, a counter in the lower 16.
    Hlc
}
number! {
    /// The 64-bit stand-in for a block name in the mesh view. Two names may share one:
    /// it is a hint where to ask, never proof of presence.
    Tag
}

/// 128 bits of BLAKE3 over a namespace's canonical description.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NamespaceId(pub [u8; 16]);

/// Names one KV block by model, layout and token prefix, in its canonical 32 bytes.
/// It does not cover the bytes; [`Checksum`] does.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BlockHash(pub [u8; 32]);

/// xxh3-128, big endian: of one piece, or over the checksums of a block's pieces.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Checksum(pub [u8; 16]);

macro_rules! fixed_bytes {
    ($name:ident, $len:literal, $what:literal) => {
        impl TryFrom<&[u8]> for $name {
            type Error = WordError;

            fn try_from(raw: &[u8]) -> Result<Self, WordError> {
                raw.try_into().map(Self).map_err(|_| WordError::Length {
                    what: $what,
                    got: raw.len(),
                    want: $len,
                })
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
    };
}

fixed_bytes!(NamespaceId, 16, "a namespace id");
fixed_bytes!(BlockHash, 32, "a canonical block hash");
fixed_bytes!(Checksum, 16, "a checksum");

impl BlockHash {
    /// The canonical form of an engine's hash of 8 to 64 bytes: longer than 32 bytes is
    /// compressed with BLAKE3, shorter is padded with zeros.
    ///
    /// # Errors
    /// [`WordError::HashWidth`] when the width is out of range.
    pub fn from_engine(raw: &[u8]) -> Result<Self, WordError> {
        if !(HASH_WIDTH_MIN..=HASH_WIDTH_MAX).contains(&raw.len()) {
            return Err(WordError::HashWidth { got: raw.len() });
        }
        if raw.len() > 32 {
            return Ok(Self(*blake3::hash(raw).as_bytes()));
        }
        let mut hash = [0; 32];
        hash[..raw.len()].copy_from_slice(raw);
        Ok(Self(hash))
    }
}

impl Checksum {
    /// Of one piece.
    #[must_use]
    pub fn of(piece: &[u8]) -> Self {
        Self(XxHash3_128::oneshot(piece).to_be_bytes())
    }

    /// Of a whole block, from the checksums of its pieces in order.
    #[must_use]
    pub fn over(pieces: &[Checksum]) -> Self {
        let mut running = Self::running();
        pieces.iter().for_each(|piece| running.update(&piece.0));
        running.checksum()
    }

    /// Of a long text that arrives in parts, as [`Self::of`] of the whole.
    #[must_use]
    pub fn running() -> RunningChecksum {
        RunningChecksum(XxHash3_128::new())
    }

    /// Checksums of a whole block's pieces, in order; an empty block has none.
    #[must_use]
    pub fn pieces_of(block: &[u8]) -> Vec<Checksum> {
        block.chunks(PIECE_BYTES).map(Self::of).collect()
    }
}

/// See [`Checksum::running`].
#[derive(Clone)]
pub struct RunningChecksum(XxHash3_128);

impl RunningChecksum {
    /// Takes the next part.
    pub fn update(&mut self, part: &[u8]) {
        self.0.write(part);
    }

    /// Of all parts so far.
    #[must_use]
    pub fn checksum(&self) -> Checksum {
        Checksum(self.0.finish_128().to_be_bytes())
    }
}

/// Which slice of a block: tensor-parallel rank and attention group.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Part {
    /// Tensor-parallel rank.
    pub shard: u16,
    /// Attention group.
    pub group: u16,
}

impl TryFrom<(u32, u32)> for Part {
    type Error = WordError;

    fn try_from((shard, group): (u32, u32)) -> Result<Self, WordError> {
        match (u16::try_from(shard), u16::try_from(group)) {
            (Ok(shard), Ok(group)) => Ok(Self { shard, group }),
            _ => Err(WordError::Part { shard, group }),
        }
    }
}

/// A block's name inside of one namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BlockKey {
    /// Hash of the prefix.
    pub hash: BlockHash,
    /// Slice of the block.
    pub part: Part,
}

/// A block's full name. Its order is the order of [`BlockName::canonical`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BlockName {
    /// Namespace.
    pub namespace: NamespaceId,
    /// Hash of the prefix.
    pub hash: BlockHash,
    /// Slice of the block.
    pub part: Part,
}

impl BlockName {
    /// The name from its namespace and its key there.
    #[must_use]
    pub fn new(namespace: NamespaceId, key: BlockKey) -> Self {
        Self {
            namespace,
            hash: key.hash,
            part: key.part,
        }
    }

    /// The key inside of the namespace.
    #[must_use]
    pub fn key(&self) -> BlockKey {
        BlockKey {
            hash: self.hash,
            part: self.part,
        }
    }

    /// 52 bytes: namespace, hash, shard, group (big endian). Placement and tags hash these.
    #[must_use]
    pub fn canonical(&self) -> [u8; 52] {
        let mut raw = [0; 52];
        raw[..16].copy_from_slice(&self.namespace.0);
        raw[16..48].copy_from_slice(&self.hash.0);
        raw[48..50].copy_from_slice(&self.part.shard.to_be_bytes());
        raw[50..].copy_from_slice(&self.part.group.to_be_bytes());
        raw
    }

    /// Its point on the ring: xxh3-64 of the canonical bytes, so that it does not
    /// depend on how any version of Rust hashes a struct.
    #[must_use]
    pub fn point(&self) -> u64 {
        XxHash3_64::oneshot(&self.canonical())
    }

    /// Its stand-in in the mesh view: another seed than [`Self::point`], so that
    /// blocks that are neighbours on the ring are not neighbours there.
    #[must_use]
    pub fn tag(&self) -> Tag {
        Tag(XxHash3_64::oneshot_with_seed(1, &self.canonical()))
    }
}

/// One copy of a block: at which start of which node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Copy {
    /// Holder.
    pub node: NodeId,
    /// The holder's start.
    pub incarnation: Incarnation,
    /// Number of the copy in that start.
    pub copy: CopyNumber,
}

/// Where a follower stands in a region's feed.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct FeedPosition {
    /// Whose feed.
    pub region: RegionId,
    /// Which log of that region.
    pub log_incarnation: LogIncarnation,
    /// Last log index covered.
    pub index: u64,
}

impl FeedPosition {
    /// Whether a view at `self` shows everything that a view at `other` shows.
    /// Positions of different regions or logs cover nothing of each other.
    #[must_use]
    pub fn covers(&self, other: &FeedPosition) -> bool {
        self.region == other.region
            && self.log_incarnation == other.log_incarnation
            && self.index >= other.index
    }
}
