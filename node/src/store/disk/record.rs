//! A block on disk: a header, then its bytes. Pure.
//!
//! Invariants: header and body begin and end on [`ALIGN`]; a header is believed only where
//! it says that it is (store, segment, offset), and only whole: what a crash or a copied file
//! left elsewhere is not a record. The store's number is random and is never told to anybody,
//! so no block's bytes can be made to look like a header.
//!
//! Not here: whether the body is right; its pieces are verified by who reads it.

use kvmesh_client::{BlockMeta, Encoding, FromWire, ToWire};
use kvmesh_directory::{
    BlockHash, BlockName, Checksum, Hlc, LogIncarnation, NamespaceId, Part,
    limits::BLOCK_PIECES_MAX,
};

/// Bytes that reads and writes begin and end on.
pub(super) const ALIGN: u64 = 4_096;
/// Bytes of the longest header.
pub(super) const HEADER_BYTES_MAX: u64 = header_bytes(BLOCK_PIECES_MAX);

const MAGIC: [u8; 8] = *b"kvmblock";
const VERSION: u32 = 1;
/// Of blocks that went through a lossy encoding: programs that know only [`VERSION`] would take
/// them for exact ones.
const VERSION_LOSSY: u32 = 2;
/// Bytes before the piece checksums.
const FIXED_BYTES: usize = 152;
const CHECKSUM_BYTES: usize = 16;

/// Where a header is: it belongs nowhere else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Spot {
    /// Random number of the store.
    pub(super) store: [u8; 16],
    /// The segment's number.
    pub(super) segment: u64,
    /// From the segment's start.
    pub(super) offset: u64,
}

/// What is kept of a block besides its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) name: BlockName,
    pub(super) meta: BlockMeta,
    /// Log of the region's directory when it was written.
    pub(super) log: LogIncarnation,
}

/// Bytes that are not a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Malformed {
    /// Too few bytes for it.
    #[error("the bytes end within the header")]
    Short,
    /// Never one, or of a later format.
    #[error("no record begins here")]
    NoHeader,
    /// A bit of it is wrong.
    #[error("the header's checksum is wrong")]
    Checksum,
    /// It belongs to another store, segment or offset.
    #[error("the record belongs elsewhere")]
    Misplaced,
    /// Size and checksums do not fit one another.
    #[error("the header cannot be")]
    Impossible,
}

/// Up to the next multiple of [`ALIGN`].
pub(super) const fn aligned(bytes: u64) -> u64 {
    bytes.div_ceil(ALIGN) * ALIGN
}

const fn header_bytes(pieces: usize) -> u64 {
    aligned((FIXED_BYTES + (pieces + 1) * CHECKSUM_BYTES) as u64)
}

impl Header {
    /// Bytes that the header takes.
    pub(super) fn bytes(&self) -> u64 {
        header_bytes(self.meta.pieces.len())
    }

    /// Bytes that the record takes.
    pub(super) fn record_bytes(&self) -> u64 {
        record_bytes(&self.meta)
    }

    /// Writes the header to the start of `into`, which is as long as [`Self::bytes`] at least.
    pub(super) fn encode(&self, spot: &Spot, into: &mut [u8]) {
        let end = self.bytes() as usize;
        let into = &mut into[..end];
        into.fill(0);
        let mut writer = Writer(into, 0);
        let (name, meta) = (&self.name, &self.meta);
        writer.put(&MAGIC);
        let version = match meta.transcoded {
            None => VERSION,
            Some(_) => VERSION_LOSSY,
        };
        writer.put(&version.to_be_bytes());
        writer.put(&(end as u32).to_be_bytes());
        writer.put(&spot.store);
        writer.put(&spot.segment.to_be_bytes());
        writer.put(&spot.offset.to_be_bytes());
        writer.put(&name.namespace.0);
        writer.put(&name.hash.0);
        writer.put(&name.part.shard.to_be_bytes());
        writer.put(&name.part.group.to_be_bytes());
        writer.put(&meta.depth.to_be_bytes());
        writer.put(&meta.put_hlc.0.to_be_bytes());
        writer.put(&self.log.0.to_be_bytes());
        writer.put(&meta.bytes.to_be_bytes());
        writer.put(&meta.checksum.0);
        writer.put(&(meta.pieces.len() as u32).to_be_bytes());
        let transcoded = meta.transcoded.map_or(0, |encoding| encoding.to_wire());
        writer.put(&transcoded.to_be_bytes());
        debug_assert_eq!(writer.1, FIXED_BYTES);
        meta.pieces.iter().for_each(|piece| writer.put(&piece.0));
        let (covered, last) = into.split_at_mut(end - CHECKSUM_BYTES);
        last.copy_from_slice(&Checksum::of(covered).0);
    }

    /// Reads the header that should be at a spot. `raw` begins there, and may be longer.
    ///
    /// # Errors
    /// What is wrong; [`Malformed::Short`] also when the header goes on past `raw`.
    pub(super) fn decode(spot: &Spot, raw: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader(raw);
        let (magic, version) = (reader.take::<8>()?, u32::from_be_bytes(reader.take()?));
        if magic != MAGIC || !(VERSION..=VERSION_LOSSY).contains(&version) {
            return Err(Malformed::NoHeader);
        }
        let bytes = u64::from(u32::from_be_bytes(reader.take()?));
        if !bytes.is_multiple_of(ALIGN) || !(ALIGN..=HEADER_BYTES_MAX).contains(&bytes) {
            return Err(Malformed::NoHeader);
        }
        let raw = raw.get(..bytes as usize).ok_or(Malformed::Short)?;
        let (covered, last) = raw.split_at(raw.len() - CHECKSUM_BYTES);
        if Checksum::of(covered).0 != last {
            return Err(Malformed::Checksum);
        }
        let found = Spot {
            store: reader.take()?,
            segment: u64::from_be_bytes(reader.take()?),
            offset: u64::from_be_bytes(reader.take()?),
        };
        if found != *spot {
            return Err(Malformed::Misplaced);
        }
        let header = read(&mut reader)?;
        let lossy = header.meta.transcoded.is_some();
        let fits = header.bytes() == bytes && lossy == (version == VERSION_LOSSY);
        match fits && header.meta.check().is_ok() {
            true => Ok(header),
            false => Err(Malformed::Impossible),
        }
    }
}

/// Bytes that a block takes on disk.
pub(super) fn record_bytes(meta: &BlockMeta) -> u64 {
    header_bytes(meta.pieces.len()) + aligned(meta.bytes)
}

/// All that comes after the spot.
fn read(reader: &mut Reader<'_>) -> Result<Header, Malformed> {
    let name = BlockName {
        namespace: NamespaceId(reader.take()?),
        hash: BlockHash(reader.take()?),
        part: Part {
            shard: u16::from_be_bytes(reader.take()?),
            group: u16::from_be_bytes(reader.take()?),
        },
    };
    let depth = u32::from_be_bytes(reader.take()?);
    let put_hlc = Hlc(u64::from_be_bytes(reader.take()?));
    let log = LogIncarnation(u64::from_be_bytes(reader.take()?));
    let bytes = u64::from_be_bytes(reader.take()?);
    let checksum = Checksum(reader.take()?);
    let count = u32::from_be_bytes(reader.take()?) as usize;
    let transcoded = match i32::from_be_bytes(reader.take()?) {
        0 => None,
        raw => Some(Encoding::from_wire(raw).map_err(|_| Malformed::Impossible)?),
    };
    if count > BLOCK_PIECES_MAX {
        return Err(Malformed::Impossible);
    }
    let pieces = (0..count).map(|_| Ok(Checksum(reader.take()?)));
    let meta = BlockMeta {
        bytes,
        checksum,
        pieces: pieces.collect::<Result<_, Malformed>>()?,
        depth,
        put_hlc,
        transcoded,
    };
    Ok(Header { name, meta, log })
}

struct Writer<'a>(&'a mut [u8], usize);

impl Writer<'_> {
    fn put(&mut self, bytes: &[u8]) {
        self.0[self.1..self.1 + bytes.len()].copy_from_slice(bytes);
        self.1 += bytes.len();
    }
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (taken, rest) = self.0.split_first_chunk().ok_or(Malformed::Short)?;
        self.0 = rest;
        Ok(*taken)
    }
}

#[cfg(test)]
#[path = "record_test.rs"]
mod record_test;
