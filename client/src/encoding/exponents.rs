//! Packs the exponents of two-byte numbers, and leaves their other bits as they are.
//!
//! A piece is cut into groups of [`GROUP`] numbers. Of each group, in this order:
//!
//! | bytes | what |
//! |---|---|
//! | 1 | width of an exponent's code in bits: 0, 3 or 8 |
//! | 1 | the top: the greatest exponent that has a code |
//! | 2 | how many exceptions there are, little endian |
//! | width x numbers / 8, rounded up to 8 numbers | codes |
//! | numbers | the low bytes: of bf16 sign and mantissa, of f16 the mantissa's low 8 bits |
//! | 3 x numbers / 8, rounded up to 8 numbers; f16 only | sign, and the mantissa's high 2 bits |
//! | 1 each | exceptions: exponents that have no code, in order |
//!
//! With 3 bits, code 0 to 6 is the distance below the top, and 7 marks an exception (a frame of
//! reference with exceptions, as in Zukowski et al., "Super-scalar RAM-CPU cache compression",
//! 2006). With 0 bits all exponents are the top. With 8 they are written as they are. A piece of
//! odd length ends with its last byte.

use super::{
    EncodingError,
    pack::{self, PACKED},
};

/// Numbers of one group.
pub(super) const GROUP: usize = 4_096;
/// Width, top and count of exceptions.
const HEAD: usize = 4;
/// Code of an exception.
const EXCEPTION: u8 = 7;
/// Codes that are exponents.
const CODED: usize = EXCEPTION as usize;
/// Of the numbers of a group each so manieth is looked at to choose its top.
const SAMPLED: usize = 8;

/// After so many groups a piece must be short enough so far.
const TRIED: usize = 16;
/// Exceptions of so many are written down at once, whether there are as many or not.
const AT_ONCE: usize = 8;

/// Where exceptions are, and room beyond.
type Places = [u16; GROUP + AT_ONCE];

/// A two-byte number in an exponent, a low byte, and up to 3 bits more.
pub(super) trait Halves {
    /// Whether there are bits beyond the low byte.
    const HIGH: bool;
    /// Exponent, low byte and high bits.
    fn split(number: u16) -> (u8, u8, u8);
    /// The number again.
    fn join(exponent: u8, low: u8, high: u8) -> u16;
}

/// bfloat16.
pub(super) enum Bf16 {}

impl Halves for Bf16 {
    const HIGH: bool = false;

    fn split(number: u16) -> (u8, u8, u8) {
        let low = (number >> 8) as u8 & 0x80 | number as u8 & 0x7f;
        ((number >> 7) as u8, low, 0)
    }

    fn join(exponent: u8, low: u8, _: u8) -> u16 {
        let (exponent, low) = (u16::from(exponent), u16::from(low));
        (low & 0x80) << 8 | exponent << 7 | low & 0x7f
    }
}

/// IEEE half precision.
pub(super) enum F16 {}

impl Halves for F16 {
    const HIGH: bool = true;

    fn split(number: u16) -> (u8, u8, u8) {
        let head = (number >> 8) as u8;
        (head >> 2 & 0x1f, number as u8, head >> 5 & 4 | head & 3)
    }

    fn join(exponent: u8, low: u8, high: u8) -> u16 {
        let head = (high & 4) << 5 | (exponent & 0x1f) << 2 | high & 3;
        u16::from(head) << 8 | u16::from(low)
    }
}

/// One group taken apart.
struct Parts {
    exponents: [[u8; 8]; GROUP / 8],
    codes: [[u8; 8]; GROUP / 8],
    lows: [[u8; 8]; GROUP / 8],
    highs: [[u8; 8]; GROUP / 8],
    /// Of exceptions.
    places: Places,
}

impl Parts {
    fn new() -> Box<Self> {
        let zeros = [[0; 8]; GROUP / 8];
        Box::new(Self {
            exponents: zeros,
            codes: zeros,
            lows: zeros,
            highs: zeros,
            places: [0; GROUP + AT_ONCE],
        })
    }

    /// Takes numbers apart.
    fn split<H: Halves>(&mut self, numbers: &[[u8; 2]]) {
        let halves = numbers.iter().map(|it| H::split(u16::from_le_bytes(*it)));
        let exponents = self.exponents.as_flattened_mut().iter_mut();
        let lows = self.lows.as_flattened_mut().iter_mut();
        for ((half, exponent), low) in halves.clone().zip(exponents).zip(lows) {
            (*exponent, *low) = (half.0, half.1);
        }
        if H::HIGH {
            let highs = self.highs.as_flattened_mut().iter_mut();
            halves.zip(highs).for_each(|(half, high)| *high = half.2);
        }
    }

    /// Puts numbers together again.
    fn join<H: Halves>(&self, lows: &[u8], numbers: &mut [[u8; 2]]) {
        let exponents = self.exponents.as_flattened().iter();
        let each = numbers.iter_mut().zip(exponents).zip(lows);
        match H::HIGH {
            true => {
                let highs = self.highs.as_flattened();
                for (((number, exponent), low), high) in each.zip(highs) {
                    *number = H::join(*exponent, *low, *high).to_le_bytes();
                }
            }
            false => {
                for ((number, exponent), low) in each {
                    *number = H::join(*exponent, *low, 0).to_le_bytes();
                }
            }
        }
    }
}

/// How a group's exponents are written.
#[derive(Clone, Copy)]
enum Width {
    Same,
    Packed,
    Plain,
}

impl Width {
    fn bits(self) -> u8 {
        match self {
            Self::Same => 0,
            Self::Packed => 3,
            Self::Plain => 8,
        }
    }

    /// Bytes that the codes of so many numbers take.
    fn bytes(self, numbers: usize) -> usize {
        match self {
            Self::Same => 0,
            Self::Packed => packed_bytes(numbers),
            Self::Plain => numbers,
        }
    }
}

fn packed_bytes(numbers: usize) -> usize {
    numbers.div_ceil(8) * PACKED
}

/// Encodes a piece; none: it would take more than `most` bytes.
pub(super) fn encode<H: Halves>(piece: &[u8], most: usize) -> Option<Vec<u8>> {
    let (numbers, odd) = piece.as_chunks::<2>();
    let mut encoded = Vec::with_capacity(most);
    let mut parts = Parts::new();
    for (groups, group) in numbers.chunks(GROUP).enumerate() {
        // What gains nothing so far is not worth more time.
        if groups == TRIED && encoded.len() * numbers.len() > most * groups * GROUP {
            return None;
        }
        put_group::<H>(group, &mut parts, &mut encoded, most)?;
    }
    encoded.extend_from_slice(odd);
    (encoded.len() <= most).then_some(encoded)
}

fn put_group<H: Halves>(
    numbers: &[[u8; 2]],
    parts: &mut Parts,
    encoded: &mut Vec<u8>,
    most: usize,
) -> Option<()> {
    let (count, eights) = (numbers.len(), numbers.len().div_ceil(8));
    parts.split::<H>(numbers);
    let (mut width, top) = choose(&parts.exponents.as_flattened()[..count]);
    let mut exceptions = 0;
    if let Width::Packed = width {
        let exponents = &mut parts.exponents.as_flattened_mut()[..eights * 8];
        // Of an eight that is not whole the rest has a code.
        exponents[count..].fill(top);
        exceptions = code(top, exponents, parts.codes.as_flattened_mut());
        if Width::Packed.bytes(count) + exceptions >= count {
            (width, exceptions) = (Width::Plain, 0);
        }
    }
    let highs = if H::HIGH { packed_bytes(count) } else { 0 };
    if encoded.len() + HEAD + width.bytes(count) + count + highs + exceptions > most {
        return None;
    }
    encoded.extend_from_slice(&[width.bits(), top]);
    encoded.extend_from_slice(&(exceptions as u16).to_le_bytes());
    match width {
        Width::Same => {}
        Width::Packed => put_packed(&parts.codes[..eights], encoded),
        Width::Plain => encoded.extend_from_slice(&parts.exponents.as_flattened()[..count]),
    }
    encoded.extend_from_slice(&parts.lows.as_flattened()[..count]);
    if H::HIGH {
        put_packed(&parts.highs[..eights], encoded);
    }
    if exceptions > 0 {
        let found = find(&parts.codes[..eights], &mut parts.places);
        let exponents = parts.exponents.as_flattened();
        let places = parts.places[..found].iter();
        encoded.extend(places.map(|&place| exponents[usize::from(place)]));
    }
    Some(())
}

fn put_packed(numbers: &[[u8; 8]], encoded: &mut Vec<u8>) {
    let from = encoded.len();
    encoded.resize(from + numbers.len() * PACKED, 0);
    pack::pack(numbers, encoded[from..].as_chunks_mut().0);
}

/// Width and top for a group, by a sample of its exponents.
fn choose(exponents: &[u8]) -> (Width, u8) {
    let least = exponents.iter().fold(u8::MAX, |least, &it| least.min(it));
    let most = exponents.iter().fold(0, |most: u8, &it| most.max(it));
    if least == most {
        return (Width::Same, most);
    }
    let mut counts = [0_u16; 256];
    for sampled in exponents.iter().step_by(SAMPLED) {
        counts[usize::from(*sampled)] += 1;
    }
    let (least, most) = (usize::from(least), usize::from(most));
    let lowest = (least + CODED - 1).min(most).max(CODED - 1);
    let mut within: u16 = counts[..=lowest].iter().rev().take(CODED).sum();
    let (mut best, mut top) = (within, lowest);
    for next in lowest + 1..=most {
        within = within + counts[next] - counts[next - CODED];
        if within > best {
            (best, top) = (within, next);
        }
    }
    (Width::Packed, top as u8)
}

/// Makes codes of exponents; says how many are exceptions.
fn code(top: u8, exponents: &[u8], codes: &mut [u8]) -> usize {
    let mut marked = 0;
    // In parts that a byte counts without running over.
    for (exponents, codes) in exponents.chunks(128).zip(codes.chunks_mut(128)) {
        let mut some = 0_u8;
        for (exponent, code) in exponents.iter().zip(codes) {
            *code = top.wrapping_sub(*exponent).min(EXCEPTION);
            some += u8::from(*code == EXCEPTION);
        }
        marked += usize::from(some);
    }
    marked
}

/// Gives back a piece of `bytes` bytes.
pub(super) fn decode<H: Halves>(encoded: &[u8], bytes: usize) -> Result<Vec<u8>, EncodingError> {
    let mut piece = vec![0; bytes];
    let (numbers, odd) = piece.as_chunks_mut::<2>();
    let mut parts = Parts::new();
    let mut rest = encoded;
    let groups = numbers.len().div_ceil(GROUP);
    for (group, numbers) in numbers.chunks_mut(GROUP).enumerate() {
        take_group::<H>(group, &mut rest, &mut parts, numbers)?;
    }
    odd.copy_from_slice(take(&mut rest, odd.len(), groups)?);
    match rest.len() {
        0 => Ok(piece),
        bytes => Err(EncodingError::TooLong { bytes }),
    }
}

fn take<'a>(rest: &mut &'a [u8], bytes: usize, group: usize) -> Result<&'a [u8], EncodingError> {
    let truncated = EncodingError::Truncated { group };
    rest.split_off(..bytes).ok_or(truncated)
}

fn take_group<H: Halves>(
    group: usize,
    rest: &mut &[u8],
    parts: &mut Parts,
    numbers: &mut [[u8; 2]],
) -> Result<(), EncodingError> {
    let truncated = EncodingError::Truncated { group };
    let (&[width, top, low, high], after) = rest.split_first_chunk::<HEAD>().ok_or(truncated)?;
    *rest = after;
    let announced = usize::from(u16::from_le_bytes([low, high]));
    let width = match width {
        0 => Width::Same,
        3 => Width::Packed,
        8 => Width::Plain,
        width => return Err(EncodingError::Width { group, width }),
    };
    let eights = numbers.len().div_ceil(8);
    let codes = take(rest, width.bytes(numbers.len()), group)?;
    let lows = take(rest, numbers.len(), group)?;
    if H::HIGH {
        let highs = take(rest, packed_bytes(numbers.len()), group)?;
        pack::unpack(highs.as_chunks().0, &mut parts.highs[..eights]);
    }
    let exceptions = take(rest, announced, group)?;
    match width {
        Width::Same => parts.exponents[..eights].fill([top; 8]),
        Width::Plain => {
            let exponents = parts.exponents.as_flattened_mut();
            exponents[..numbers.len()].copy_from_slice(codes);
        }
        Width::Packed => {
            pack::unpack(codes.as_chunks().0, &mut parts.codes[..eights]);
            let from = parts.codes[..eights].as_flattened().iter();
            let to = parts.exponents[..eights].as_flattened_mut();
            from.zip(to)
                .for_each(|(code, to)| *to = top.wrapping_sub(*code));
        }
    }
    let marked = match width {
        Width::Packed => find(&parts.codes[..eights], &mut parts.places),
        Width::Same | Width::Plain => 0,
    };
    if marked != announced {
        let (got, want) = (marked, announced);
        return Err(EncodingError::Exceptions { group, got, want });
    }
    let exponents = parts.exponents.as_flattened_mut();
    for (&place, &exception) in parts.places.iter().zip(exceptions) {
        exponents[usize::from(place)] = exception;
    }
    parts.join::<H>(lows, numbers);
    Ok(())
}

/// Finds the exceptions; says how many there are.
fn find(codes: &[[u8; 8]], places: &mut Places) -> usize {
    let mut found = 0;
    for (at, codes) in codes.chunks(8).enumerate() {
        let marks = codes.iter().enumerate();
        let mut marked = marks.fold(0, |marked, (at, codes)| {
            marked | u64::from(pack::sevens(*codes)) << (8 * at)
        });
        let all = found + marked.count_ones() as usize;
        let first = at * 64;
        // Most often there are no more, and how many there are the processor cannot guess.
        for place in &mut places[found..found + AT_ONCE] {
            *place = (first as u32 + marked.trailing_zeros()) as u16;
            marked &= marked.wrapping_sub(1);
        }
        found += AT_ONCE;
        while found < all {
            places[found] = (first as u32 + marked.trailing_zeros()) as u16;
            marked &= marked.wrapping_sub(1);
            found += 1;
        }
        found = all;
    }
    found
}
