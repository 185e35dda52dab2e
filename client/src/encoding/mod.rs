//! How pieces may travel between regions: fewer bytes, and at the end exactly the same ones, or
//! where a namespace asks for it, near ones.
//!
//! Pure. Each piece is encoded by itself, so it stays verifiable by itself: who receives it
//! decodes it and then holds it against its checksum, as one that came as it is.
//!
//! Floating-point numbers of a model's KV have exponents that hardly differ, and mantissas that
//! nothing predicts. So the exponents are packed and all other bits are sent as they are:
//! `exponents` says how, and `docs/decisions/0024-encodings.md` why so. With loss, mantissas are
//! rounded: `fp8`, and `docs/decisions/0031-fp8.md`. What a lossy encoding leaves is another
//! block with other checksums: whoever encodes so announces what decoding gives.
//!
//! Not here: whether encoding pays on a link, and who asks for it.

mod exponents;
mod fp8;
mod pack;

use kvmesh_directory::limits::PIECE_BYTES;

/// Of sixteen parts of a piece so many at most may be left: else it travels as it is.
const WORTH_SIXTEENTHS: usize = 15;

/// How a piece is encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Encoding {
    /// Of bf16 numbers: sign 1, exponent 8, mantissa 7 bits; little endian.
    Bf16Exponents,
    /// Of IEEE half-precision numbers: sign 1, exponent 5, mantissa 10 bits; little endian.
    F16Exponents,
    /// Of bf16 numbers, with loss: E4M3, a scale for each 128 of them.
    Bf16Fp8,
    /// Of IEEE half-precision numbers, with loss: E4M3, a scale for each 128 of them.
    F16Fp8,
}

/// An encoded piece that cannot be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EncodingError {
    /// The block's announcement says so, or it is past the block's end.
    #[error("a piece of {bytes} bytes cannot be: it has 1 to {PIECE_BYTES}")]
    Length {
        /// Of the piece as it was before.
        bytes: usize,
    },
    /// It ends early.
    #[error("the encoded piece ends in its group {group}")]
    Truncated {
        /// From 0.
        group: usize,
    },
    /// It goes on after its last group.
    #[error("{bytes} bytes are left behind the encoded piece")]
    TooLong {
        /// How many.
        bytes: usize,
    },
    /// A group is written in a way that nobody writes.
    #[error(
        "group {group} of the encoded piece has exponents of {width} bits: 0, 3 and 8 are known"
    )]
    Width {
        /// From 0.
        group: usize,
        /// As written.
        width: u8,
    },
    /// More or fewer exponents are marked as exceptions than are written.
    #[error("group {group} of the encoded piece has {got} exceptions, {want} are announced")]
    Exceptions {
        /// From 0.
        group: usize,
        /// Marked.
        got: usize,
        /// Announced.
        want: usize,
    },
    /// A group has a scale that nobody writes.
    #[error("group {group} of the encoded piece has the scale {scale}, which no number has")]
    Scale {
        /// From 0.
        group: usize,
        /// As written.
        scale: u8,
    },
}

impl Encoding {
    /// All there are.
    pub const ALL: [Self; 4] = [
        Self::Bf16Exponents,
        Self::F16Exponents,
        Self::Bf16Fp8,
        Self::F16Fp8,
    ];

    /// Whether what decoding gives is only near what went in. Encoding that once more gives it
    /// back exactly.
    #[must_use]
    pub fn is_lossy(self) -> bool {
        matches!(self, Self::Bf16Fp8 | Self::F16Fp8)
    }

    /// As [`Self::of_dtype`], of those with loss.
    #[must_use]
    pub fn lossy_of_dtype(dtype: &str) -> Option<Self> {
        Some(match Self::of_dtype(dtype)? {
            Self::F16Exponents => Self::F16Fp8,
            _ => Self::Bf16Fp8,
        })
    }

    /// The one without loss for blocks of a namespace, by the `dtype` of its description; none:
    /// they travel as they are.
    #[must_use]
    pub fn of_dtype(dtype: &str) -> Option<Self> {
        let is = |names: &[&str]| names.iter().any(|name| dtype.eq_ignore_ascii_case(name));
        if is(&["bf16", "bfloat16", "torch.bfloat16"]) {
            Some(Self::Bf16Exponents)
        } else if is(&["f16", "fp16", "float16", "half", "torch.float16"]) {
            Some(Self::F16Exponents)
        } else {
            None
        }
    }

    /// In metrics and messages.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Bf16Exponents => "bf16_exponents",
            Self::F16Exponents => "f16_exponents",
            Self::Bf16Fp8 => "bf16_fp8",
            Self::F16Fp8 => "f16_fp8",
        }
    }

    /// The share of a model's KV that is left; measured by `benches/encoding`.
    #[must_use]
    pub fn usual_ratio(self) -> f64 {
        match self {
            Self::Bf16Exponents => 0.71,
            Self::F16Exponents => 0.90,
            Self::Bf16Fp8 | Self::F16Fp8 => 0.504,
        }
    }

    /// Encodes a piece. None: it would hardly be shorter, and travels as it is.
    #[must_use]
    pub fn encode(self, piece: &[u8]) -> Option<Vec<u8>> {
        let most = piece.len() * WORTH_SIXTEENTHS / 16;
        let encoded = match self {
            Self::Bf16Exponents => exponents::encode::<exponents::Bf16>(piece, most),
            Self::F16Exponents => exponents::encode::<exponents::F16>(piece, most),
            Self::Bf16Fp8 => fp8::encode::<fp8::Bf16>(piece, most),
            Self::F16Fp8 => fp8::encode::<fp8::F16>(piece, most),
        };
        encoded.filter(|_| !piece.is_empty())
    }

    /// Gives back a piece of `bytes` bytes (of a lossy encoding, a near one), as the block's announcement has it. Takes so much
    /// memory and no more, whatever `encoded` says.
    ///
    /// # Errors
    /// When `encoded` is not what [`Encoding::encode`] makes of any piece of that length, as
    /// far as that shows: damaged bits may as well decode to wrong bytes, which only the
    /// piece's checksum tells.
    pub fn decode(self, encoded: &[u8], bytes: usize) -> Result<Vec<u8>, EncodingError> {
        if bytes == 0 || bytes > PIECE_BYTES {
            return Err(EncodingError::Length { bytes });
        }
        match self {
            Self::Bf16Exponents => exponents::decode::<exponents::Bf16>(encoded, bytes),
            Self::F16Exponents => exponents::decode::<exponents::F16>(encoded, bytes),
            Self::Bf16Fp8 => fp8::decode::<fp8::Bf16>(encoded, bytes),
            Self::F16Fp8 => fp8::decode::<fp8::F16>(encoded, bytes),
        }
    }
}

#[cfg(test)]
#[path = "encoding_test.rs"]
mod encoding_test;

#[cfg(test)]
#[path = "fp8_test.rs"]
mod fp8_test;
