//! Small numbers without their leading zeros: eight of 3 bits in three bytes.
//!
//! The eight lie in one word, a byte each, and move together; the compiler makes vector
//! instructions of the loops.

/// Bytes that eight numbers take.
pub(super) const PACKED: usize = 3;

/// Of each byte of a word the lowest bit.
const ONES: u64 = 0x0101_0101_0101_0101;

/// Multiplied by it, a bit in each byte becomes one byte of eight bits, in their order.
const GATHER: u64 = 0x0102_0408_1020_4080;

/// Packs numbers under 8; `packed` has three bytes for each eight of them.
pub(super) fn pack(numbers: &[[u8; 8]], packed: &mut [[u8; PACKED]]) {
    for (from, to) in numbers.iter().zip(packed) {
        let pairs = u64::from_le_bytes(*from);
        let pairs = (pairs | pairs >> 5) & 0x003f_003f_003f_003f;
        let fours = (pairs | pairs >> 10) & 0x0000_0fff_0000_0fff;
        let [a, b, c, ..] = (fours | fours >> 20).to_le_bytes();
        *to = [a, b, c];
    }
}

/// The numbers again.
pub(super) fn unpack(packed: &[[u8; PACKED]], numbers: &mut [[u8; 8]]) {
    for (&[a, b, c], to) in packed.iter().zip(numbers) {
        let all = u64::from(u32::from_le_bytes([a, b, c, 0]));
        let fours = (all | all << 20) & 0x0000_0fff_0000_0fff;
        let pairs = (fours | fours << 10) & 0x003f_003f_003f_003f;
        *to = ((pairs | pairs << 5) & (ONES * 7)).to_le_bytes();
    }
}

/// Which of eight numbers under 8 are 7, a bit each.
pub(super) fn sevens(numbers: [u8; 8]) -> u8 {
    let all = u64::from_le_bytes(numbers);
    let sevens = all & all >> 1 & all >> 2 & ONES;
    // Brings the eight bits together in the highest byte.
    (sevens.wrapping_mul(GATHER) >> 56) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_at_every_place_comes_back() {
        for word in 0..8_u32.pow(4) {
            let digit = |place: u32| (word >> (3 * (place % 4)) & 7) as u8;
            let mut numbers = [0; 8];
            (0..8).for_each(|place| numbers[place as usize] = digit(place));
            let (mut packed, mut again) = ([[0; PACKED]], [[0; 8]]);
            pack(&[numbers], &mut packed);
            unpack(&packed, &mut again);
            assert_eq!(again, [numbers]);
            let marks = (0..8).filter(|&place| numbers[place] == 7);
            assert_eq!(sevens(numbers), marks.map(|place| 1 << place).sum());
        }
    }
}
