//! Rounds two-byte numbers to one byte: E4M3, one scale for each group.
//!
//! A piece is cut into groups of [`GROUP`] numbers. Of each group, in this order:
//!
//! | bytes | what |
//! |---|---|
//! | 1 | the scale: 2^(this - [`SCALE_BIAS`]); [`AS_IT_IS`]: the numbers follow as they are |
//! | 1 each | numbers by the scale: sign 1, exponent 4, mantissa 3 bits (OCP's E4M3) |
//!
//! A scale is a power of two, so that only mantissas are rounded (to the nearest, ties to even):
//! a number is off by 1/16 of itself at most, or by 2^-17 of the group's greatest, and what was
//! rounded once comes back unchanged when it is rounded anew. Groups with an infinity, with what
//! is no number, or with a number that would be rounded to infinity travel as they are. A piece
//! of odd length ends with its last byte.

use super::EncodingError;

/// Numbers of one group.
pub(super) const GROUP: usize = 128;
/// In place of a scale.
pub(super) const AS_IT_IS: u8 = 255;
/// A scale of 1 is written as this, less the exponent of E4M3's greatest number.
const SCALE_BIAS: u32 = 110;
/// The exponent of E4M3's greatest number, 448.
const GREATEST: u32 = 8;
/// Bits of an f32's mantissa that E4M3 does not have.
const DROPPED: u32 = 20;
/// An f32's bias.
const BIAS: u32 = 127;
/// E4M3's exponent 0, as an f32's, and in place.
const ZERO: u32 = (BIAS - 7) << 3;
/// Below it E4M3 has fewer bits of mantissa.
const NORMAL: f32 = 1.0 / 64.0;
/// One unit of its last place is E4M3's least number, 2^-9.
const STEPS: f32 = 16_384.0;
/// E4M3's least number.
const STEP: f32 = 1.0 / 512.0;

/// A two-byte number without its sign.
pub(super) trait Half {
    /// Exponent of an f32 that it does not reach.
    const ENDLESS: u32;
    /// The least exponent of a group, as one of an f32: below it, steps of 2^-17 of a group's
    /// greatest number are finer than its own.
    const LEAST: u32;
    /// As an f32; what is infinite or no number has [`Self::ENDLESS`] or more.
    fn widen(magnitude: u16) -> f32;
    /// Of an f32 that is one.
    fn narrow(magnitude: f32) -> u16;
}

/// bfloat16.
pub(super) enum Bf16 {}

impl Half for Bf16 {
    const ENDLESS: u32 = 255;
    // So that all steps are normal numbers.
    const LEAST: u32 = BIAS - 109;

    fn widen(magnitude: u16) -> f32 {
        f32::from_bits(u32::from(magnitude) << 16)
    }

    fn narrow(magnitude: f32) -> u16 {
        (magnitude.to_bits() >> 16) as u16
    }
}

/// IEEE half precision.
pub(super) enum F16 {}

/// An f32's bias over that of half precision.
const OVER: u32 = BIAS - 15;

impl Half for F16 {
    const ENDLESS: u32 = 31 + OVER;
    const LEAST: u32 = BIAS - 7;

    fn widen(magnitude: u16) -> f32 {
        let bits = i32::from(magnitude);
        let small = bits as f32 * (1.0 / 16_777_216.0);
        let normal = f32::from_bits(((bits as u32) << 13) + (OVER << 23));
        if bits < 0x400 { small } else { normal }
    }

    fn narrow(magnitude: f32) -> u16 {
        let bits = magnitude.to_bits();
        // One unit of the last place of 1/2 is half precision's least number.
        let small = (magnitude + 0.5).to_bits().wrapping_sub(0.5_f32.to_bits());
        let normal = (bits >> 13).wrapping_sub(OVER << 10);
        let is_small = bits < (OVER + 1) << 23;
        (if is_small { small } else { normal }) as u16
    }
}

/// An f32's sign-less bits rounded to 3 bits of mantissa, without the bits that go.
fn rounded(bits: u32) -> u32 {
    (bits + (1 << (DROPPED - 1)) - 1 + (bits >> DROPPED & 1)) >> DROPPED
}

/// How a group's scale is written.
fn scale_of<H: Half>(numbers: &[[u8; 2]]) -> u8 {
    let magnitudes = numbers.iter().map(|it| u16::from_le_bytes(*it) & 0x7fff);
    let greatest = magnitudes.fold(0, u16::max);
    let greatest = rounded(H::widen(greatest).to_bits());
    if greatest >= H::ENDLESS << 3 {
        return AS_IT_IS;
    }
    // 1.875 of the highest exponent would be what is no number.
    let exponent = (greatest + 1) >> 3;
    (exponent.max(H::LEAST) + SCALE_BIAS - BIAS) as u8
}

/// By what numbers of a scale are multiplied before they are rounded, and after.
fn factors(scale: u8) -> (f32, f32) {
    let exponent = u32::from(scale) + BIAS - SCALE_BIAS - GREATEST;
    let power = |exponent: u32| f32::from_bits(exponent << 23);
    (power(2 * BIAS - exponent), power(exponent))
}

fn round<H: Half>(number: u16, by: f32) -> u8 {
    let scaled = H::widen(number & 0x7fff) * by;
    let normal = rounded(scaled.to_bits()).wrapping_sub(ZERO);
    let small = (scaled + STEPS).to_bits().wrapping_sub(STEPS.to_bits());
    let code = if scaled < NORMAL { small } else { normal };
    (number >> 8) as u8 & 0x80 | code as u8
}

fn number<H: Half>(code: u8, by: f32) -> u16 {
    let bits = i32::from(code & 0x7f);
    let small = bits as f32 * STEP;
    let normal = f32::from_bits((bits as u32 + ZERO) << DROPPED);
    let scaled = if bits < 8 { small } else { normal };
    u16::from(code & 0x80) << 8 | H::narrow(scaled * by)
}

/// Encodes a piece; none: it would take more than `most` bytes.
pub(super) fn encode<H: Half>(piece: &[u8], most: usize) -> Option<Vec<u8>> {
    let (numbers, odd) = piece.as_chunks::<2>();
    let mut encoded = Vec::with_capacity(most);
    for group in numbers.chunks(GROUP) {
        let scale = scale_of::<H>(group);
        let bytes = if scale == AS_IT_IS { 2 } else { 1 } * group.len();
        if encoded.len() + 1 + bytes > most {
            return None;
        }
        encoded.push(scale);
        if scale == AS_IT_IS {
            encoded.extend_from_slice(group.as_flattened());
            continue;
        }
        let (by, _) = factors(scale);
        let mut codes = [0; GROUP];
        for (code, number) in codes.iter_mut().zip(group) {
            *code = round::<H>(u16::from_le_bytes(*number), by);
        }
        encoded.extend_from_slice(&codes[..group.len()]);
    }
    encoded.extend_from_slice(odd);
    (encoded.len() <= most).then_some(encoded)
}

/// Makes a piece of `bytes` bytes.
pub(super) fn decode<H: Half>(encoded: &[u8], bytes: usize) -> Result<Vec<u8>, EncodingError> {
    let mut piece = vec![0; bytes];
    let (numbers, odd) = piece.as_chunks_mut::<2>();
    let groups = numbers.len().div_ceil(GROUP);
    let mut rest = encoded;
    for (group, numbers) in numbers.chunks_mut(GROUP).enumerate() {
        let truncated = EncodingError::Truncated { group };
        let scale = *rest.split_off_first().ok_or(truncated)?;
        if scale == AS_IT_IS {
            let plain = rest.split_off(..numbers.len() * 2).ok_or(truncated)?;
            numbers.as_flattened_mut().copy_from_slice(plain);
            continue;
        }
        let exponent = u32::from(scale) + BIAS - SCALE_BIAS;
        if !(H::LEAST..=H::ENDLESS).contains(&exponent) {
            return Err(EncodingError::Scale { group, scale });
        }
        let codes = rest.split_off(..numbers.len()).ok_or(truncated)?;
        let (_, by) = factors(scale);
        for (place, code) in numbers.iter_mut().zip(codes) {
            *place = number::<H>(*code, by).to_le_bytes();
        }
    }
    let truncated = EncodingError::Truncated { group: groups };
    odd.copy_from_slice(rest.split_off(..odd.len()).ok_or(truncated)?);
    match rest.len() {
        0 => Ok(piece),
        bytes => Err(EncodingError::TooLong { bytes }),
    }
}
