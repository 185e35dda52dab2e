//! Four bits a number, a scale for each channel of a block, and a code of variable length: how
//! few bytes would be left at best, and what comes back. Not in the product: it says whether
//! such an encoding would earn a place there.

use super::{cache::BLOCK_TOKENS, link::Came};

/// Greatest whole number.
const GREATEST: f32 = 7.0;
/// Bytes of a scale.
const SCALE: f64 = 2.0;

/// Rounds blocks whose rows (one token's K, or V, of a layer) have `row` numbers. The bytes are
/// those that no code of single numbers, one for each K and V of a layer, undercuts.
pub(super) fn send(blocks: &[Vec<u8>], row: usize) -> Came {
    let mut bytes = 0.0;
    let came = blocks.iter().map(|block| {
        let mut came = block.clone();
        for half in came.chunks_mut(BLOCK_TOKENS * row * 2) {
            bytes += round(half, row);
        }
        came
    });
    Came {
        blocks: came.collect(),
        bytes,
    }
}

/// Rounds K or V of a layer; says how many bytes that takes.
fn round(half: &mut [u8], row: usize) -> f64 {
    let (numbers, _) = half.as_chunks_mut::<2>();
    let number = |bytes: &[u8; 2]| f32::from_bits(u32::from(u16::from_le_bytes(*bytes)) << 16);
    let mut counts = [0_u32; 16];
    for channel in 0..row {
        let column = numbers.iter().skip(channel).step_by(row);
        let most = column.fold(0.0, |most: f32, it| most.max(number(it).abs()));
        let scale = if most > 0.0 { most / GREATEST } else { 1.0 };
        for place in numbers.iter_mut().skip(channel).step_by(row) {
            let code = (number(place) / scale).round();
            counts[(code + GREATEST) as usize] += 1;
            let near = (code * scale).to_bits();
            *place = ((near >> 16) as u16).to_le_bytes();
        }
    }
    let all = numbers.len() as f64;
    let share = counts.iter().map(|it| f64::from(*it) / all);
    let bits: f64 = share.filter(|it| *it > 0.0).map(|it| -it * it.log2()).sum();
    bits * all / 8.0 + SCALE * row as f64
}
