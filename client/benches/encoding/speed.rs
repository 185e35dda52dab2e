//! Bytes that an encoding leaves, and bytes a second of one core.
//!
//! The time is that of this thread on a core, so that other work on the machine does not count;
//! of [`ROUNDS`] rounds the fastest, because such work still takes caches and half of a core.

use std::fs;

use kvmesh_client::Encoding;

const ROUNDS: usize = 15;

/// What came of it.
pub(super) struct Measured {
    /// Of the bytes, left.
    pub(super) ratio: f64,
    /// Bytes per second.
    encode: f64,
    decode: f64,
}

impl Measured {
    pub(super) fn slower(&self) -> f64 {
        self.encode.min(self.decode)
    }
}

/// Measures, and says what came of it.
pub(super) fn print(what: &str, encoding: Encoding, pieces: &[&[u8]]) -> Measured {
    let measured = measure(encoding, pieces);
    let giga = |speed: f64| speed / 1e9;
    println!(
        "{what}, {}: {:.4} of the bytes, {:.2} GB/s in, {:.2} GB/s out, a core",
        encoding.name(),
        measured.ratio,
        giga(measured.encode),
        giga(measured.decode)
    );
    measured
}

fn measure(encoding: Encoding, pieces: &[&[u8]]) -> Measured {
    let all = pieces.iter().map(|it| it.len()).sum::<usize>() as f64;
    let (mut encode, mut decode, mut left) = (f64::MAX, f64::MAX, 0);
    for round in 0..ROUNDS {
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
            let Ok(decoded) = decoded else {
                panic!("what was encoded cannot be decoded");
            };
            if !encoding.is_lossy() {
                assert!(decoded == *piece, "other bytes came back");
            } else if round == 0 {
                let again = encoding.encode(&decoded);
                assert!(again == Some(encoded), "encoding twice gave something else");
            }
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
