//! What a lossy encoding does to numbers, and to what attention makes of them.

use kvmesh_client::Encoding;
use kvmesh_directory::limits::PIECE_BYTES;

/// Numbers of one head.
const WIDTH: usize = 64;
/// Tokens that one query attends to.
const TOKENS: usize = 256;
const QUERIES: usize = 64;
/// How far logits spread.
const SPREAD: f64 = 3.0;

/// The numbers of bf16 bytes.
fn values(bf16: &[u8]) -> Vec<f64> {
    let (numbers, _) = bf16.as_chunks::<2>();
    let value = |it: &[u8; 2]| f32::from_bits(u32::from(u16::from_le_bytes(*it)) << 16).into();
    numbers.iter().map(value).collect()
}

/// What decoding gives of bf16 bytes.
fn near(bf16: &[u8]) -> Vec<u8> {
    let near = |piece: &[u8]| {
        let encoded = Encoding::Bf16Fp8.encode(piece)?;
        Encoding::Bf16Fp8.decode(&encoded, piece.len()).ok()
    };
    let pieces = bf16.chunks(PIECE_BYTES);
    pieces
        .flat_map(|piece| near(piece).unwrap_or_else(|| piece.to_vec()))
        .collect()
}

/// Root of the mean square of the difference, over that of the numbers.
fn off(from: &[f64], to: &[f64]) -> f64 {
    let off: f64 = from.iter().zip(to).map(|(a, b)| (a - b).powi(2)).sum();
    let all: f64 = from.iter().map(|it| it.powi(2)).sum();
    (off / all).sqrt()
}

/// Prints by how much numbers are off; with `run` bytes of K, then so many of V, and so on, of
/// each by itself.
pub(super) fn print_numbers(what: &str, bf16: &[u8], run: Option<usize>) {
    let near = near(bf16);
    let Some(run) = run else {
        let error = off(&values(bf16), &values(&near));
        println!("{what}, fp8: numbers are off by {:.2} %", error * 100.0);
        return;
    };
    for (at, name) in ["K", "V"].into_iter().enumerate() {
        let of = |all: &[u8]| {
            let runs = all.chunks(run).skip(at).step_by(2);
            values(&runs.flatten().copied().collect::<Vec<_>>())
        };
        let error = off(&of(bf16), &of(&near));
        println!("{what}, fp8: {name} is off by {:.2} %", error * 100.0);
    }
}

/// Prints by how much the output of attention is off, over K, V and queries of Gaussian numbers.
/// Returns it.
pub(super) fn print_attention(gaussian: &[u8]) -> f64 {
    let bytes = TOKENS * WIDTH * 2;
    let (k, rest) = gaussian.split_at(bytes);
    let (v, rest) = rest.split_at(bytes);
    let queries = values(&rest[..QUERIES * WIDTH * 2]);
    let exact = attention(&queries, &values(k), &values(v));
    let error = off(
        &exact,
        &attention(&queries, &values(&near(k)), &values(&near(v))),
    );
    println!(
        "Gaussian numbers, fp8: the output of attention is off by {:.2} %",
        error * 100.0
    );
    error
}

fn attention(queries: &[f64], k: &[f64], v: &[f64]) -> Vec<f64> {
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let mut all = Vec::new();
    for query in queries.chunks(WIDTH) {
        let scale = SPREAD / (WIDTH as f64).sqrt();
        let weights = k.chunks(WIDTH).map(|key| (dot(query, key) * scale).exp());
        let weights: Vec<f64> = weights.collect();
        let sum: f64 = weights.iter().sum();
        let output = |at| {
            let column = v.iter().skip(at).step_by(WIDTH);
            column
                .zip(&weights)
                .map(|(v, weight)| v * weight / sum)
                .sum::<f64>()
        };
        all.extend((0..WIDTH).map(output));
    }
    all
}
