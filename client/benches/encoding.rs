//! What encodings save, and what they cost: bytes that are left, and bytes a second of one core.
//!
//! ```text
//! cargo bench -p kvmesh-client --bench encoding -- [KV-FILE]
//! ```
//!
//! Without a file: Gaussian numbers, the same at each run. With one: its bf16 numbers, such as
//! the KV of a model. Exits with 1 when more than [`RATIO_MAX`] of the bytes of bf16 is left, or
//! when one way is slower than [`SPEED_MIN`].
//!
//! The time is that of this thread on a core, so that other work on the machine does not count;
//! of [`ROUNDS`] rounds the fastest, because such work still takes caches and half of a core.

use std::{fs, process::ExitCode};

use kvmesh_client::Encoding;
use kvmesh_directory::limits::PIECE_BYTES;

/// Of the bytes, at most.
const RATIO_MAX: f64 = 0.75;
/// Bytes per second of one core, each way.
const SPEED_MIN: f64 = 1e9;
const ROUNDS: usize = 15;
const PIECES: usize = 32;

struct Measured {
    ratio: f64,
    encode: f64,
    decode: f64,
}

fn main() -> ExitCode {
    let file = std::env::args().skip(1).find(|it| !it.starts_with('-'));
    let (what, bf16) = match &file {
        Some(file) => match fs::read(file) {
            Ok(bytes) => (file.as_str(), bytes),
            Err(error) => {
                eprintln!("{file} cannot be read: {error}");
                return ExitCode::FAILURE;
            }
        },
        None => ("Gaussian numbers", gaussian(|bits| (bits >> 16) as u16)),
    };
    if bf16.len() < PIECE_BYTES {
        eprintln!("{what}: less than one piece of {PIECE_BYTES} bytes");
        return ExitCode::FAILURE;
    }
    let bf16 = measure(Encoding::Bf16Exponents, &bf16);
    print(what, "bf16", &bf16);
    if file.is_none() {
        let f16 = gaussian(|bits| {
            let exponent = (bits >> 23 & 0xff).saturating_sub(112).min(30);
            (bits >> 16 & 0x8000 | exponent << 10 | bits >> 13 & 0x3ff) as u16
        });
        print(what, "fp16", &measure(Encoding::F16Exponents, &f16));
    }
    let slower = bf16.encode.min(bf16.decode);
    if bf16.ratio > RATIO_MAX || slower < SPEED_MIN {
        println!("missed: bf16 is to leave {RATIO_MAX} of the bytes at 1 GB/s both ways");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

fn print(what: &str, dtype: &str, measured: &Measured) {
    let giga = |speed: f64| speed / 1e9;
    println!(
        "{what}, {dtype}: {:.4} of the bytes, {:.2} GB/s in, {:.2} GB/s out, a core",
        measured.ratio,
        giga(measured.encode),
        giga(measured.decode)
    );
}

fn measure(encoding: Encoding, numbers: &[u8]) -> Measured {
    let (pieces, _) = numbers.as_chunks::<PIECE_BYTES>();
    let all = (pieces.len() * PIECE_BYTES) as f64;
    let (mut encode, mut decode, mut left) = (f64::MAX, f64::MAX, 0);
    for _ in 0..ROUNDS {
        let (mut encoding_s, mut decoding_s) = (0.0, 0.0);
        left = 0;
        for piece in pieces {
            let begun = on_core();
            let encoded = encoding.encode(piece);
            encoding_s += on_core() - begun;
            let Some(encoded) = encoded else {
                left += piece.len();
                continue;
            };
            left += encoded.len();
            let begun = on_core();
            let decoded = encoding.decode(&encoded, piece.len());
            decoding_s += on_core() - begun;
            assert!(decoded.as_deref() == Ok(piece), "other bytes came back");
        }
        encode = encoding_s.min(encode);
        decode = decoding_s.min(decode);
    }
    Measured {
        ratio: left as f64 / all,
        encode: all / encode,
        decode: all / decode,
    }
}

/// Seconds that this thread was on a core.
fn on_core() -> f64 {
    // The kernel counts when it looks at the thread.
    std::thread::yield_now();
    let counts = fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanos = counts.split(' ').next().and_then(|it| it.parse().ok());
    nanos.unwrap_or(f64::NAN) / 1e9
}

/// Numbers of a normal distribution, as `half` writes the bits of an f32.
fn gaussian(half: impl Fn(u32) -> u16) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut uniform = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        ((state >> 11) + 1) as f64 / (1_u64 << 53) as f64
    };
    let number = |_| {
        let (radius, turn) = ((-2.0 * uniform().ln()).sqrt(), uniform());
        let number = (radius * (std::f64::consts::TAU * turn).cos()) as f32;
        half(number.to_bits()).to_le_bytes()
    };
    (0..PIECES * PIECE_BYTES / 2).flat_map(number).collect()
}
