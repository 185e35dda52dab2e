//! Encodings on the links to other regions: where they pay, and their work, off the threads
//! that serve calls.
//!
//! The gateway that asks decides, because it knows the link; the one that is asked encodes, and
//! sends a piece as it is where that gains little. What is passed on, kept and verified here is
//! decoded.

use std::{num::NonZero, sync::Arc};

use bytes::Bytes;
use kvmesh_client::{Encoding, follow::Link};
use kvmesh_directory::Namespace;
use kvmesh_process::Environment;
use tokio::sync::Semaphore;

use crate::{frame::Frame, meters::Meters};

/// Pieces of one get that are encoded at the same time.
pub(crate) const AT_ONCE: usize = 2;
/// Bytes per second of one core, as `client/benches/encoding.rs` measures them on a busy machine.
const ENCODED_PER_S: f64 = 1.2e9;
const DECODED_PER_S: f64 = 1.4e9;

/// The encodings to ask a region for, best first: those by which a byte saves more time on the
/// link than it takes at both ends. None where the link's bandwidth is not known.
pub(crate) fn that_pay(namespace: &Namespace, link: &Link) -> Vec<Encoding> {
    let encoding = Encoding::of_dtype(&namespace.description.dtype);
    let pays = |it: &Encoding| pays(*it, link.bandwidth);
    encoding.filter(pays).into_iter().collect()
}

fn pays(encoding: Encoding, bandwidth: f64) -> bool {
    let saved = (1.0 - encoding.usual_ratio()) / bandwidth;
    bandwidth > 0.0 && saved > 1.0 / ENCODED_PER_S + 1.0 / DECODED_PER_S
}

/// Encodes and decodes for one gateway.
pub(crate) struct Coding {
    environment: Environment,
    meters: Meters,
    /// A core for each piece.
    cores: Arc<Semaphore>,
}

impl Coding {
    pub(crate) fn new(environment: Environment, meters: Meters) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
        Self {
            environment,
            meters,
            cores: Arc::new(Semaphore::new(cores)),
        }
    }

    /// Encodes the piece of a frame, if that makes it shorter.
    pub(crate) async fn encode_frame(&self, with: Encoding, mut frame: Frame) -> Frame {
        if let Frame::Block {
            piece: Some(piece),
            encoding,
            ..
        } = &mut frame
        {
            let plain = piece.clone();
            let encoded = self.work(move || with.encode(&plain)).await.flatten();
            let bytes = piece.len() as u64;
            match encoded {
                Some(encoded) => {
                    let wire = encoded.len() as u64;
                    self.meters.coded("sent", with.name(), bytes, wire);
                    (*piece, *encoding) = (Bytes::from(encoded), Some(with));
                }
                None => self.meters.coded("sent", "none", bytes, bytes),
            }
        }
        frame
    }

    /// The piece of `bytes` bytes; an empty one, which no block has, where it cannot be decoded.
    pub(crate) async fn decode(&self, from: Option<Encoding>, piece: Bytes, bytes: usize) -> Bytes {
        let Some(from) = from else { return piece };
        let wire = piece.len() as u64;
        match self.work(move || from.decode(&piece, bytes)).await {
            Some(Ok(decoded)) => {
                self.meters
                    .coded("received", from.name(), bytes as u64, wire);
                Bytes::from(decoded)
            }
            failed => {
                self.meters.not_decoded();
                if let Some(Err(error)) = failed {
                    tracing::warn!(encoding = from.name(), %error, "a far piece cannot be decoded");
                }
                Bytes::new()
            }
        }
    }

    /// Waits for a core. None: the work panicked.
    async fn work<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        // Held to the end of the work, also when nobody waits for it any more.
        let core = Arc::clone(&self.cores).acquire_owned().await.ok()?;
        let held = move || {
            let done = work();
            drop(core);
            done
        };
        self.environment.aside(held).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_encoding_pays_where_the_link_is_slower_than_the_work() {
        let gigabit = 125e6;
        assert!(pays(Encoding::Bf16Exponents, gigabit));
        assert!(!pays(Encoding::Bf16Exponents, 2.0 * gigabit));
        assert!(pays(Encoding::F16Exponents, gigabit / 4.0));
        assert!(!pays(Encoding::F16Exponents, gigabit));
        assert!(!pays(Encoding::Bf16Exponents, 0.0), "the link is not known");
        assert!(!pays(Encoding::Bf16Exponents, f64::NAN));
    }
}
