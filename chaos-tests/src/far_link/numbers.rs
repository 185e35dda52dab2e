//! Blocks as a model's KV is: bf16 numbers of a normal distribution; and what may have become of
//! them on their way.

use anyhow::{Result, ensure};
use bytes::Bytes;
use kvmesh_client::{Encoding, client::FetchedBlock};
use rand::{Rng, RngCore, SeedableRng, rngs::SmallRng};

/// Numbers that fp8 gives one scale.
const GROUP: usize = 128;
/// By so much of itself fp8 leaves a number off, or by [`ROUNDED_AWAY`] of the greatest beside it:
/// see `docs/decisions/0031-fp8.md`.
const ROUNDED: f32 = 1.0 / 16.0;
const ROUNDED_AWAY: f32 = 1.0 / 131_072.0;

/// Numbers of which every block is made, each from another place on.
pub(super) struct Numbers {
    bytes: Vec<u8>,
}

impl Numbers {
    /// For blocks of so many bytes.
    pub(super) fn gaussian(bytes: usize) -> Self {
        let mut random = SmallRng::seed_from_u64(1);
        let number = |_| {
            // Box and Muller's.
            let radius = (-2.0 * (1.0 - random.random::<f64>()).ln()).sqrt();
            let turn = std::f64::consts::TAU * random.random::<f64>();
            let number = (radius * turn.cos()) as f32;
            ((number.to_bits() >> 16) as u16).to_le_bytes()
        };
        let bytes = (0..bytes / 2).flat_map(number).collect();
        Self { bytes }
    }

    /// The block that follows from its hash.
    pub(super) fn block(&self, hash: [u8; 32]) -> Bytes {
        let mut random = SmallRng::from_seed(hash);
        let at = 2 * random.random_range(0..self.bytes.len() / 2);
        let (head, tail) = self.bytes.split_at(at);
        let mut block = [tail, head].concat();
        // Two from the same place on differ, too.
        random.fill_bytes(&mut block[..2]);
        block[1] &= 0xbf;
        block.into()
    }
}

/// Whether a block came to the last bit, and says of itself that it did.
///
/// # Errors
/// When it did not.
pub(super) fn check_exact(put: &[u8], got: &FetchedBlock) -> Result<()> {
    let transcoded = got.block.meta.transcoded;
    ensure!(
        transcoded.is_none(),
        "it says that {transcoded:?} rounded it"
    );
    ensure!(got.block.pieces.concat() == put, "it has other bytes");
    Ok(())
}

/// Whether a block came rounded, says so, and is as near as fp8 leaves it. The client has held
/// it against its own checksums.
///
/// # Errors
/// When it is not.
pub(super) fn check_rounded(put: &[u8], got: &FetchedBlock) -> Result<()> {
    let transcoded = got.block.meta.transcoded;
    ensure!(
        transcoded == Some(Encoding::Bf16Fp8),
        "it says of itself {transcoded:?}"
    );
    let bytes = got.block.pieces.concat();
    ensure!(bytes.len() == put.len(), "it has {} bytes", bytes.len());
    ensure!(bytes != put, "it was not rounded at all");
    let (put, got) = (of_bf16(put), of_bf16(&bytes));
    for (put, got) in put.chunks(GROUP).zip(got.chunks(GROUP)) {
        let greatest = put.iter().fold(0.0_f32, |most, it| most.max(it.abs()));
        for (put, got) in put.iter().zip(got) {
            let may = (put.abs() * ROUNDED).max(greatest * ROUNDED_AWAY);
            ensure!((put - got).abs() <= may, "{got} instead of {put}");
        }
    }
    Ok(())
}

fn of_bf16(bytes: &[u8]) -> Vec<f32> {
    let (numbers, _) = bytes.as_chunks::<2>();
    let number = |it: &[u8; 2]| f32::from_bits(u32::from(u16::from_le_bytes(*it)) << 16);
    numbers.iter().map(number).collect()
}

#[cfg(test)]
mod tests {
    use kvmesh_client::{Block, client::Path};
    use kvmesh_directory::Part;

    use super::*;

    const BYTES: usize = 64 << 10;

    fn fetched(bytes: Vec<u8>, transcoded: Option<Encoding>) -> FetchedBlock {
        let mut block = Block::of(&bytes.into(), 0);
        block.meta.transcoded = transcoded;
        FetchedBlock {
            index: 0,
            part: Part::default(),
            block,
            region: "us-east".parse().unwrap(),
            path: Path::Gateway,
        }
    }

    #[test]
    fn blocks_differ_and_shrink_as_much_as_they_should() {
        let numbers = Numbers::gaussian(BYTES);
        let [one, other] = [[1; 32], [2; 32]].map(|hash| numbers.block(hash));
        assert_eq!(one, numbers.block([1; 32]));
        assert_ne!(one, other);
        let left = |with: Encoding| with.encode(&one).unwrap().len() as f64 / BYTES as f64;
        assert!((0.68..0.72).contains(&left(Encoding::Bf16Exponents)));
        assert!((0.50..0.51).contains(&left(Encoding::Bf16Fp8)));
    }

    #[test]
    fn a_wrong_byte_or_a_wrong_word_about_it_is_found() {
        let put = Numbers::gaussian(BYTES).block([3; 32]);
        let fp8 = Some(Encoding::Bf16Fp8);
        let encoded = Encoding::Bf16Fp8.encode(&put).unwrap();
        let rounded = Encoding::Bf16Fp8.decode(&encoded, BYTES).unwrap();
        check_exact(&put, &fetched(put.to_vec(), None)).unwrap();
        check_rounded(&put, &fetched(rounded.clone(), fp8)).unwrap();
        assert!(check_exact(&put, &fetched(rounded.clone(), None)).is_err());
        assert!(check_exact(&put, &fetched(put.to_vec(), fp8)).is_err());
        assert!(check_rounded(&put, &fetched(rounded.clone(), None)).is_err());
        assert!(check_rounded(&put, &fetched(put.to_vec(), fp8)).is_err());
        let mut wrong = rounded;
        wrong[BYTES - 1] ^= 1;
        assert!(check_rounded(&put, &fetched(wrong, fp8)).is_err());
    }
}
