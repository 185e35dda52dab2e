use proptest::prelude::*;

use super::{
    encoding_test::{numbers, pieces},
    fp8::{AS_IT_IS, GROUP},
    *,
};

const BOTH: [Encoding; 2] = [Encoding::Bf16Fp8, Encoding::F16Fp8];

/// A number of the encoding, by its bits.
fn value(encoding: Encoding, bits: u16) -> f64 {
    let sign = if bits >> 15 == 1 { -1.0 } else { 1.0 };
    if encoding == Encoding::Bf16Fp8 {
        return f32::from_bits(u32::from(bits) << 16).into();
    }
    let (exponent, mantissa) = (bits >> 10 & 0x1f, f64::from(bits & 0x3ff));
    sign * match exponent {
        0 => mantissa * 2_f64.powi(-24),
        31 if mantissa == 0.0 => f64::INFINITY,
        31 => f64::NAN,
        _ => (1.0 + mantissa / 1_024.0) * 2_f64.powi(i32::from(exponent) - 15),
    }
}

fn values(encoding: Encoding, piece: &[u8]) -> Vec<f64> {
    let (numbers, _) = piece.as_chunks::<2>();
    let value = |it: &[u8; 2]| value(encoding, u16::from_le_bytes(*it));
    numbers.iter().map(value).collect()
}

fn bytes(numbers: &[u16]) -> Vec<u8> {
    numbers.iter().flat_map(|it| it.to_le_bytes()).collect()
}

/// What decoding gives of a piece, where it is worth encoding; as promised.
fn near(encoding: Encoding, piece: &[u8]) -> Option<Vec<u8>> {
    let encoded = encoding.encode(piece)?;
    assert!(encoded.len() < piece.len());
    let near = encoding.decode(&encoded, piece.len()).unwrap();
    assert_eq!(near.len(), piece.len());
    if piece.len() % 2 == 1 {
        assert_eq!(near.last(), piece.last());
    }
    let (went, came) = (values(encoding, piece), values(encoding, &near));
    for (went, came) in went.chunks(GROUP).zip(came.chunks(GROUP)) {
        let greatest = went.iter().fold(0.0, |most: f64, it| most.max(it.abs()));
        // Below it bf16's own numbers get too small to be scaled.
        let step = (greatest * 2_f64.powi(-17)).max(2_f64.powi(-127));
        for (went, came) in went.iter().zip(came) {
            let off = (went - came).abs();
            let exact = went.to_bits() == came.to_bits();
            assert!(
                exact || off <= (went.abs() / 16.0).max(step),
                "{went} became {came} beside {greatest}"
            );
            assert!(
                !went.is_finite() || came.is_finite(),
                "{went} became {came}"
            );
            assert_eq!(went.is_sign_negative(), came.is_sign_negative());
        }
    }
    // What was rounded once is not changed any more.
    let again = encoding.encode(&near).unwrap();
    assert!(again == encoded, "encoding twice gave something else");
    Some(near)
}

#[test]
fn what_a_model_makes_takes_half_and_is_near() {
    for encoding in BOTH {
        for scale in [0.02, 1.0, 30.0] {
            let piece = numbers(encoding, PIECE_BYTES / 2, scale, 7);
            let took = encoding.encode(&piece).unwrap().len();
            let ratio = took as f64 / piece.len() as f64;
            assert!(ratio <= 0.505, "{encoding:?} at {scale}: {ratio}");
            let near = near(encoding, &piece).unwrap();
            let (went, came) = (values(encoding, &piece), values(encoding, &near));
            let square = |of: f64| of * of;
            let off: f64 = went.iter().zip(&came).map(|(a, b)| square(a - b)).sum();
            let all: f64 = went.iter().map(|it| square(*it)).sum();
            let error = (off / all).sqrt();
            assert!((0.02..0.03).contains(&error), "{encoding:?}: {error}");
        }
    }
}

#[test]
fn every_number_has_its_result() {
    for encoding in BOTH {
        // Beside zeros, and beside the next ones.
        for from in (0..=u16::MAX).step_by(GROUP) {
            let all: Vec<u16> = (from..=from + (GROUP as u16 - 1)).collect();
            near(encoding, &bytes(&all));
            for number in all {
                let mut alone = [0; 8];
                alone[3] = number;
                near(encoding, &bytes(&alone));
            }
        }
    }
}

#[test]
fn no_number_becomes_the_code_that_is_none() {
    for (encoding, numbers) in [
        (Encoding::Bf16Fp8, 0x3f80..0x4080_u16),
        (Encoding::F16Fp8, 0x3c00..0x4400),
    ] {
        for number in numbers {
            let encoded = encoding.encode(&bytes(&[number; GROUP])).unwrap();
            assert!(encoded[1..].iter().all(|code| code & 0x7f != 0x7f));
        }
    }
}

#[test]
fn zeros_stay_zeros_with_their_signs() {
    for encoding in BOTH {
        let zeros: Vec<u16> = (0..1_000).map(|it| (it % 2) << 15).collect();
        let piece = bytes(&zeros);
        assert!(near(encoding, &piece) == Some(piece));
    }
}

#[test]
fn a_group_with_what_is_no_number_travels_as_it_is() {
    for (encoding, numbers) in [
        (Encoding::Bf16Fp8, [0x7f80, 0xff80, 0x7fc1, 0x7f81, 0x7f7f]),
        (Encoding::F16Fp8, [0x7c00, 0xfc00, 0x7e01, 0x7c01, 0x7bff]),
    ] {
        for number in numbers {
            let mut all: Vec<u16> = (0..4 * GROUP as u16).map(|it| 0x3c01 + it % 60).collect();
            all[GROUP + 3] = number;
            let encoded = encoding.encode(&bytes(&all)).unwrap();
            assert_eq!(encoded[GROUP + 1], AS_IT_IS, "{number:x}");
            let near = near(encoding, &bytes(&all)).unwrap();
            let (second, raw) = (2 * GROUP..4 * GROUP, bytes(&all));
            assert!(near[second.clone()] == raw[second]);
        }
    }
}

#[test]
fn every_length_has_its_result() {
    let around = (GROUP * 4 - 3..GROUP * 4 + 3).chain(GROUP * 2 - 20..GROUP * 2 + 40);
    for encoding in BOTH {
        for bytes in (0..200).chain(around.clone()) {
            let piece = numbers(encoding, bytes / 2 + 1, 1.0, bytes as u64);
            near(encoding, &piece[..bytes]);
        }
        assert_eq!(encoding.encode(&[]), None);
        assert_eq!(encoding.encode(&[1]), None);
    }
}

#[test]
fn a_damaged_piece_is_an_error_that_says_where() {
    for (encoding, wrong) in [(Encoding::Bf16Fp8, 0), (Encoding::F16Fp8, 200)] {
        let piece = numbers(encoding, 3 * GROUP, 1.0, 3);
        let encoded = encoding.encode(&piece).unwrap();
        let decode = |encoded: &[u8]| encoding.decode(encoded, piece.len());
        let cut = decode(&encoded[..encoded.len() - 1]);
        assert_eq!(cut, Err(EncodingError::Truncated { group: 2 }));
        let longer = [&encoded[..], &[0]].concat();
        assert_eq!(decode(&longer), Err(EncodingError::TooLong { bytes: 1 }));
        let mut scaled = encoded.clone();
        scaled[GROUP + 1] = wrong;
        let (group, scale) = (1, wrong);
        assert_eq!(decode(&scaled), Err(EncodingError::Scale { group, scale }));
        for bytes in [0, PIECE_BYTES + 1, usize::MAX] {
            let wrong = Err(EncodingError::Length { bytes });
            assert_eq!(encoding.decode(&encoded, bytes), wrong);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn whatever_goes_in_has_its_result(at in 0..2_usize, piece in pieces()) {
        near(BOTH[at], &piece);
    }

    /// Neither panics nor takes more memory than the piece has.
    #[test]
    fn whatever_a_stranger_sends_ends(
        at in 0..2_usize,
        encoded in prop::collection::vec(any::<u8>(), 0..3_000),
        bytes in 1_usize..4_000,
    ) {
        if let Ok(piece) = BOTH[at].decode(&encoded, bytes) {
            prop_assert_eq!(piece.len(), bytes);
        }
    }
}
