//! What becomes of blocks on their way to another region.
//!
//! Each piece is encoded and decoded by itself, as gateways do it; one that would hardly get
//! shorter travels as it is.

use kvmesh_client::Encoding;
use kvmesh_directory::limits::PIECE_BYTES;

use super::four_bits;

/// How blocks travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    Plain,
    Lossless,
    Fp8,
    /// Not in the product: measured here.
    FourBits,
}

/// Blocks that came.
pub(super) struct Came {
    pub(super) blocks: Vec<Vec<u8>>,
    /// Bytes that travelled.
    pub(super) bytes: f64,
}

impl Way {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Lossless => Encoding::Bf16Exponents.name(),
            Self::Fp8 => Encoding::Bf16Fp8.name(),
            Self::FourBits => "four bits",
        }
    }

    /// Whether what comes is what went.
    pub(super) fn is_exact(self) -> bool {
        matches!(self, Self::Plain | Self::Lossless)
    }

    /// Sends blocks, whose rows have `row` numbers.
    pub(super) fn send(self, blocks: &[Vec<u8>], row: usize) -> Came {
        let encoding = match self {
            Self::Plain => None,
            Self::Lossless => Some(Encoding::Bf16Exponents),
            Self::Fp8 => Some(Encoding::Bf16Fp8),
            Self::FourBits => return four_bits::send(blocks, row),
        };
        let mut bytes = 0;
        let came = blocks.iter().map(|block| {
            let pieces = block.chunks(PIECE_BYTES).flat_map(|piece| {
                let encoded = encoding.and_then(|it| Some((it, it.encode(piece)?)));
                let Some((encoding, encoded)) = encoded else {
                    bytes += piece.len();
                    return piece.to_vec();
                };
                bytes += encoded.len();
                let decoded = encoding.decode(&encoded, piece.len());
                decoded.unwrap_or_else(|error| panic!("what was encoded cannot be: {error}"))
            });
            pieces.collect()
        });
        Came {
            blocks: came.collect(),
            bytes: bytes as f64,
        }
    }
}
