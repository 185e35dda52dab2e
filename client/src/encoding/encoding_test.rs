use proptest::prelude::*;

use super::{exponents::GROUP, *};

const BOTH: [Encoding; 2] = [Encoding::Bf16Exponents, Encoding::F16Exponents];

/// Numbers as a model makes them: about Gaussian, of one scale.
pub(super) fn numbers(encoding: Encoding, count: usize, scale: f32, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let mut uniform = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1 << 24) as f32
    };
    let number = |_| {
        let sum: f32 = (0..12).map(|_| uniform()).sum();
        let bits = ((sum - 6.0) * scale).to_bits();
        let half = match encoding {
            Encoding::Bf16Exponents | Encoding::Bf16Fp8 => (bits >> 16) as u16,
            Encoding::F16Exponents | Encoding::F16Fp8 => {
                let exponent = (bits >> 23 & 0xff).saturating_sub(112).min(30);
                (bits >> 16 & 0x8000 | exponent << 10 | bits >> 13 & 0x3ff) as u16
            }
        };
        half.to_le_bytes()
    };
    (0..count).flat_map(number).collect()
}

fn comes_back(encoding: Encoding, piece: &[u8]) -> Option<usize> {
    let encoded = encoding.encode(piece)?;
    assert!(encoded.len() < piece.len());
    let decoded = encoding.decode(&encoded, piece.len());
    assert!(decoded.as_deref() == Ok(piece), "{} bytes", piece.len());
    Some(encoded.len())
}

#[test]
fn what_a_model_makes_takes_less_and_comes_back() {
    for (encoding, most) in [
        (Encoding::Bf16Exponents, 0.72),
        (Encoding::F16Exponents, 0.91),
    ] {
        for scale in [0.02, 1.0, 30.0] {
            let piece = numbers(encoding, PIECE_BYTES / 2, scale, 7);
            let took = comes_back(encoding, &piece).unwrap();
            let ratio = took as f64 / piece.len() as f64;
            assert!(ratio <= most, "{encoding:?} at {scale}: {ratio}");
        }
    }
}

#[test]
fn every_number_comes_back() {
    for encoding in BOTH {
        // Among equal ones, so that the whole is shorter.
        for from in (0..=u16::MAX).step_by(GROUP / 16) {
            let all = (from..=from.saturating_add(GROUP as u16 / 16)).flat_map(u16::to_le_bytes);
            let piece: Vec<u8> = all.chain(vec![0; 8 * GROUP]).collect();
            assert!(comes_back(encoding, &piece).is_some());
        }
    }
}

#[test]
fn every_length_comes_back() {
    let around = (GROUP * 2 - 20..GROUP * 2 + 40).chain(GROUP * 4 - 3..GROUP * 4 + 3);
    for encoding in BOTH {
        for bytes in (0..200).chain(around.clone()) {
            let piece = numbers(encoding, bytes / 2 + 1, 1.0, bytes as u64);
            comes_back(encoding, &piece[..bytes]);
        }
    }
}

#[test]
fn what_does_not_get_shorter_travels_as_it_is() {
    let mut state = 1_u64;
    let noise: Vec<u8> = (0..PIECE_BYTES)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 33) as u8
        })
        .collect();
    for encoding in BOTH {
        assert_eq!(encoding.encode(&noise), None);
        assert_eq!(encoding.encode(&[]), None);
        assert_eq!(encoding.encode(&[1]), None);
    }
}

#[test]
fn what_is_the_same_throughout_takes_half() {
    for encoding in BOTH {
        let took = comes_back(encoding, &vec![0; PIECE_BYTES]).unwrap();
        assert!(took < PIECE_BYTES * 7 / 10, "{took}");
    }
}

#[test]
fn a_damaged_piece_is_an_error_that_says_where() {
    let encoding = Encoding::Bf16Exponents;
    let piece = numbers(encoding, 3 * GROUP, 1.0, 3);
    let encoded = encoding.encode(&piece).unwrap();
    let decode = |encoded: &[u8]| encoding.decode(encoded, piece.len());
    let cut = decode(&encoded[..encoded.len() - 1]);
    assert_eq!(cut, Err(EncodingError::Truncated { group: 2 }));
    assert_eq!(decode(&[]), Err(EncodingError::Truncated { group: 0 }));
    let longer = [&encoded[..], &[0]].concat();
    assert_eq!(decode(&longer), Err(EncodingError::TooLong { bytes: 1 }));
    let mut wide = encoded.clone();
    wide[0] = 4;
    let unknown = EncodingError::Width { group: 0, width: 4 };
    assert_eq!(decode(&wide), Err(unknown));
    let mut fewer = encoded.clone();
    fewer[2] -= 1;
    assert!(matches!(
        decode(&fewer),
        Err(EncodingError::Exceptions { group: 0, .. })
    ));
    for bytes in [0, PIECE_BYTES + 1, usize::MAX] {
        let wrong = Err(EncodingError::Length { bytes });
        assert_eq!(encoding.decode(&encoded, bytes), wrong);
    }
}

#[test]
fn dtypes_have_their_encoding() {
    let of = Encoding::of_dtype;
    assert_eq!(of("bf16"), Some(Encoding::Bf16Exponents));
    assert_eq!(of("BFloat16"), Some(Encoding::Bf16Exponents));
    assert_eq!(of("fp16"), Some(Encoding::F16Exponents));
    let lossy = Encoding::lossy_of_dtype;
    assert_eq!(lossy("bfloat16"), Some(Encoding::Bf16Fp8));
    assert_eq!(lossy("half"), Some(Encoding::F16Fp8));
    for other in ["", "bytes", "fp8_e4m3", "float32", "int8", "bf16x"] {
        assert_eq!(of(other), None, "{other}");
        assert_eq!(Encoding::lossy_of_dtype(other), None, "{other}");
    }
}

fn either() -> impl Strategy<Value = Encoding> {
    (0..BOTH.len()).prop_map(|at| BOTH[at])
}

/// Runs of numbers, each about one scale: some narrow, some wild.
pub(super) fn pieces() -> impl Strategy<Value = Vec<u8>> {
    let run = (any::<u16>(), any::<u16>(), 0_usize..3_000, any::<u64>());
    prop::collection::vec(run, 1..6).prop_map(|runs| {
        let mut piece = Vec::new();
        for (base, spread, count, seed) in runs {
            let mut state = seed | 1;
            for _ in 0..count {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                let number = base.wrapping_add(state as u16 & spread);
                piece.extend_from_slice(&number.to_le_bytes());
            }
        }
        piece.pop();
        piece
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn whatever_goes_in_comes_back(encoding in either(), piece in pieces()) {
        comes_back(encoding, &piece);
    }

    /// Neither panics nor takes more memory than the piece has.
    #[test]
    fn whatever_a_stranger_sends_ends(
        encoding in either(),
        mut encoded in prop::collection::vec(any::<u8>(), 0..9_000),
        bytes in 1_usize..20_000,
        width in prop::sample::select(vec![0_u8, 3, 8]),
    ) {
        if let Some(first) = encoded.first_mut() {
            *first = width;
        }
        if let Ok(piece) = encoding.decode(&encoded, bytes) {
            prop_assert_eq!(piece.len(), bytes);
        }
    }

    /// Damage is an error or other bytes of the same length, which the checksum tells.
    #[test]
    fn damage_is_an_error_or_other_bytes(
        encoding in either(),
        seed: u64,
        at: prop::sample::Index,
        flip in 1_u8..,
    ) {
        let piece = numbers(encoding, 2 * GROUP + 5, 1.0, seed);
        let mut encoded = encoding.encode(&piece).unwrap();
        let at = at.index(encoded.len());
        encoded[at] ^= flip;
        if let Ok(decoded) = encoding.decode(&encoded, piece.len()) {
            prop_assert_eq!(decoded.len(), piece.len());
        }
    }
}
