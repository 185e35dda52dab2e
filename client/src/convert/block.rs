//! What travels with a block.

use bytes::{Bytes, BytesMut};
use kvmesh_directory::{Checksum, Hlc, limits::BLOCK_PIECES_MAX};
use kvmesh_proto::v1 as wire;

use super::{FromWire, ToWire, WireError};
use crate::{block::BlockMeta, encoding::Encoding};

const CHECKSUM_BYTES: usize = 16;

impl ToWire for BlockMeta {
    type Wire = wire::BlockMeta;
    fn to_wire(&self) -> wire::BlockMeta {
        wire::BlockMeta {
            bytes: self.bytes,
            checksum: self.checksum.to_wire(),
            piece_checksums: pack(&self.pieces),
            depth: self.depth,
            put_hlc: self.put_hlc.0,
            transcoded: self.transcoded.map_or(0, |encoding| encoding.to_wire()),
        }
    }
}

impl FromWire for BlockMeta {
    type Wire = wire::BlockMeta;
    /// Reads the form; whether size and checksums fit one another says [`BlockMeta::check`].
    fn from_wire(wire: wire::BlockMeta) -> Result<Self, WireError> {
        Ok(Self {
            bytes: wire.bytes,
            checksum: Checksum::from_wire(wire.checksum)?,
            pieces: unpack(&wire.piece_checksums)?,
            depth: wire.depth,
            put_hlc: Hlc(wire.put_hlc),
            transcoded: transcoded(wire.transcoded)?,
        })
    }
}

fn transcoded(raw: i32) -> Result<Option<Encoding>, WireError> {
    let known = match raw {
        0 => None,
        raw => Some(Encoding::from_wire(raw)?),
    };
    match known.filter(|it| !it.is_lossy()) {
        Some(it) => Err(WireError::field(
            "transcoded",
            format!("{} loses nothing", it.name()),
        )),
        None => Ok(known),
    }
}

fn pack(pieces: &[Checksum]) -> Bytes {
    let mut packed = BytesMut::with_capacity(pieces.len() * CHECKSUM_BYTES);
    for piece in pieces {
        packed.extend_from_slice(&piece.0);
    }
    packed.freeze()
}

fn unpack(packed: &[u8]) -> Result<Vec<Checksum>, WireError> {
    let (whole, rest) = packed.as_chunks::<CHECKSUM_BYTES>();
    if !rest.is_empty() || whole.len() > BLOCK_PIECES_MAX {
        let why = format!(
            "{} bytes are not up to {BLOCK_PIECES_MAX} checksums of {CHECKSUM_BYTES} bytes",
            packed.len()
        );
        return Err(WireError::field("piece_checksums", why));
    }
    Ok(whole.iter().copied().map(Checksum).collect())
}
