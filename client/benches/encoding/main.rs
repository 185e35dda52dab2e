//! What encodings save, what they cost, and what lossy ones do: bytes that are left, bytes a
//! second of one core, and by how much numbers are off.
//!
//! ```text
//! cargo bench -p kvmesh-client --bench encoding -- [KV-FILE [--kv-run BYTES]]
//!     [--fp8-bytes-max SHARE] [--fp8-gbs-min SPEED] [--attention-off-max SHARE]
//! ```
//!
//! Without a file: Gaussian numbers, the same at each run. With one: its bf16 numbers, such as
//! the KV of a model, of which `--kv-run` bytes are K, then so many V, and so on. Exits with 1
//! when without loss more than [`RATIO_MAX`] of the bytes of bf16 is left, or one way is slower
//! than [`SPEED_MIN`]; and when fp8, of either dtype, misses the bars that are named. What both do
//! to a real model is said by `benches/model`.

mod harm;
mod speed;

use std::{fs, process::ExitCode};

use kvmesh_client::Encoding;
use kvmesh_directory::limits::PIECE_BYTES;

/// Of the bytes, at most.
const RATIO_MAX: f64 = 0.75;
/// Bytes per second of one core, each way.
const SPEED_MIN: f64 = 1e9;
const PIECES: usize = 32;

/// As the command line says.
#[derive(Default)]
struct Asked {
    file: Option<String>,
    run: Option<usize>,
    bytes_max: Option<f64>,
    gbs_min: Option<f64>,
    attention_max: Option<f64>,
}

fn asked() -> Option<Asked> {
    let mut asked = Asked::default();
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        match word.as_str() {
            "--bench" => {}
            "--kv-run" => asked.run = Some(words.next()?.parse().ok().filter(|it| *it > 0)?),
            "--fp8-bytes-max" => asked.bytes_max = Some(words.next()?.parse().ok()?),
            "--fp8-gbs-min" => asked.gbs_min = Some(words.next()?.parse().ok()?),
            "--attention-off-max" => asked.attention_max = Some(words.next()?.parse().ok()?),
            _ if !word.starts_with('-') => asked.file = Some(word),
            _ => return None,
        }
    }
    Some(asked)
}

fn main() -> ExitCode {
    let Some(asked) = asked() else {
        eprintln!("wrong words: see the head of client/benches/encoding/main.rs");
        return ExitCode::FAILURE;
    };
    let (what, bf16) = match &asked.file {
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
    let print = |what: &str, encoding, numbers: &[u8]| {
        let (pieces, _) = numbers.as_chunks::<PIECE_BYTES>();
        let pieces: Vec<&[u8]> = pieces.iter().map(<[u8; PIECE_BYTES]>::as_slice).collect();
        speed::print(what, encoding, &pieces)
    };
    let lossless = print(what, Encoding::Bf16Exponents, &bf16);
    let mut lossy = vec![print(what, Encoding::Bf16Fp8, &bf16)];
    if asked.file.is_none() {
        let f16 = gaussian(|bits| {
            let exponent = (bits >> 23 & 0xff).saturating_sub(112).min(30);
            (bits >> 16 & 0x8000 | exponent << 10 | bits >> 13 & 0x3ff) as u16
        });
        print(what, Encoding::F16Exponents, &f16);
        lossy.push(print(what, Encoding::F16Fp8, &f16));
    }
    harm::print_numbers(what, &bf16, asked.run);
    let attention = harm::print_attention(&gaussian(|bits| (bits >> 16) as u16));
    let mut missed = Vec::new();
    if lossless.ratio > RATIO_MAX || lossless.slower() < SPEED_MIN {
        missed.push(format!(
            "bf16 is to leave {RATIO_MAX} of the bytes at 1 GB/s both ways"
        ));
    }
    if let Some(most) = asked
        .bytes_max
        .filter(|most| lossy.iter().any(|it| it.ratio > *most))
    {
        missed.push(format!("fp8 is to leave {most} of the bytes"));
    }
    let slow = |least: &f64| lossy.iter().any(|it| it.slower() < least * 1e9);
    if let Some(least) = asked.gbs_min.filter(slow) {
        missed.push(format!("fp8 is to do {least} GB/s both ways"));
    }
    if let Some(most) = asked.attention_max.filter(|most| attention > *most) {
        missed.push(format!("the output of attention is to be off by {most}"));
    }
    missed.iter().for_each(|what| println!("missed: {what}"));
    ExitCode::from(u8::from(!missed.is_empty()))
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
