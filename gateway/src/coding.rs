//! Encodings on the links to other regions: where they pay, and their work, off the threads
//! that serve calls.
//!
//! The gateway that asks decides, because it knows the link; the one that is asked encodes, and
//! sends a piece as it is where that gains little. What is passed on, kept and verified here is
//! decoded. With loss only where the namespace's policy says so (`transcode`).

use std::{
    num::NonZero,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use kvmesh_client::{Encoding, follow::Link};
use kvmesh_directory::{Namespace, RegionId, cost::LinkCost};
use kvmesh_process::Environment;
use tokio::sync::Semaphore;

use crate::{context::Gateway, frame::Frame, meters::Meters};

/// Pieces of one get that are encoded at the same time.
pub(crate) const AT_ONCE: usize = 2;
/// Bytes per second of one core, as `client/benches/encoding` measures them on a busy machine.
const ENCODED_PER_S: f64 = 1.2e9;
const DECODED_PER_S: f64 = 1.4e9;
/// The same of lossy encodings. Who encodes also decodes, and makes checksums before and after.
const ROUNDED_PER_S: f64 = 1.2e9;
const WIDENED_PER_S: f64 = 2.5e9;
/// What is usual of an encoding counts as much as so many bytes that came.
const USUAL_BYTES: f64 = 64e6;
/// What came before the last so many bytes counts half.
const SEEN_BYTES: f64 = 4e9;

/// The encodings to ask a region for, best first: those by which a byte saves more time on the
/// link than it takes at both ends. None where the link's bandwidth is not known.
pub(crate) fn that_pay(namespace: &Namespace, link: &Link) -> Vec<Encoding> {
    let dtype = &namespace.description.dtype;
    let lossy = Encoding::lossy_of_dtype(dtype).filter(|_| namespace.policy.lossy);
    let known = lossy.into_iter().chain(Encoding::of_dtype(dtype));
    known.filter(|it| pays(*it, link.bandwidth)).collect()
}

/// What to expect of a link for bytes of a namespace, as they are before they are encoded.
pub(crate) fn cost(
    gateway: &Gateway,
    namespace: &Namespace,
    region: &RegionId,
    link: &Link,
) -> LinkCost {
    let plain = gateway.links.cost(region, link);
    match that_pay(namespace, link).first() {
        Some(encoding) => plain.encoded(gateway.coding.share(*encoding)),
        None => plain,
    }
}

/// What of a namespace's bytes is expected to travel over a link.
pub(crate) fn travel(gateway: &Gateway, namespace: &Namespace, link: &Link, bytes: u64) -> u64 {
    let encodings = that_pay(namespace, link);
    let share = |encoding: &Encoding| gateway.coding.share(*encoding);
    (bytes as f64 * encodings.first().map_or(1.0, share)) as u64
}

fn pays(encoding: Encoding, bandwidth: f64) -> bool {
    let saved = (1.0 - encoding.usual_ratio()) / bandwidth;
    let (encoded, decoded) = match encoding.is_lossy() {
        true => (ROUNDED_PER_S, WIDENED_PER_S),
        false => (ENCODED_PER_S, DECODED_PER_S),
    };
    bandwidth > 0.0 && saved > 1.0 / encoded + 1.0 / decoded
}

/// Encodes and decodes for one gateway.
pub(crate) struct Coding {
    environment: Environment,
    meters: Meters,
    /// A core for each piece.
    cores: Arc<Semaphore>,
    /// Bytes that came by each encoding that was asked for, and those of them that travelled.
    came: Mutex<Vec<(Encoding, f64, f64)>>,
}

impl Coding {
    pub(crate) fn new(environment: Environment, meters: Meters) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
        Self {
            environment,
            meters,
            cores: Arc::new(Semaphore::new(cores)),
            came: Mutex::default(),
        }
    }

    /// Notes a piece of a fetch that asked for an encoding, and what of it travelled.
    pub(crate) fn note(&self, asked: Encoding, bytes: usize, travelled: usize) {
        let mut came = self.came.lock().unwrap_or_else(PoisonError::into_inner);
        let at = came.iter().position(|(of, ..)| *of == asked);
        let at = at.unwrap_or_else(|| {
            came.push((asked, 0.0, 0.0));
            came.len() - 1
        });
        let (_, all, sent) = &mut came[at];
        *all += bytes as f64;
        *sent += travelled as f64;
        if *all > SEEN_BYTES {
            (*all, *sent) = (*all / 2.0, *sent / 2.0);
        }
    }

    /// The share of the bytes that travels where an encoding is asked for.
    pub(crate) fn share(&self, asked: Encoding) -> f64 {
        let came = self.came.lock().unwrap_or_else(PoisonError::into_inner);
        let (all, sent) = came
            .iter()
            .find(|(of, ..)| *of == asked)
            .map_or((0.0, 0.0), |(_, all, sent)| (*all, *sent));
        (sent + USUAL_BYTES * asked.usual_ratio()) / (all + USUAL_BYTES)
    }

    /// Encodes the piece of a frame that is not encoded yet, if that makes it shorter.
    pub(crate) async fn encode_frame(&self, with: Encoding, mut frame: Frame) -> Frame {
        if let Frame::Block {
            piece: Some(piece),
            encoding: encoding @ None,
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
    pub(crate) async fn work<T: Send + 'static>(
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
        assert!(pays(Encoding::Bf16Fp8, 3.0 * gigabit));
        assert!(!pays(Encoding::F16Fp8, 4.0 * gigabit));
        assert!(!pays(Encoding::Bf16Exponents, 0.0), "the link is not known");
        assert!(!pays(Encoding::Bf16Exponents, f64::NAN));
    }

    #[test]
    fn what_came_tells_more_than_what_is_usual() {
        let coding = Coding::new(Environment::real("test"), Meters::new("test".into()));
        let (bf16, f16) = (Encoding::Bf16Exponents, Encoding::F16Exponents);
        assert!((coding.share(bf16) - bf16.usual_ratio()).abs() < 1e-9);
        // Bytes that cannot be made fewer.
        (0..640).for_each(|_| coding.note(bf16, 1_000_000, 1_000_000));
        assert!(coding.share(bf16) > 0.97, "{}", coding.share(bf16));
        assert!((coding.share(f16) - f16.usual_ratio()).abs() < 1e-9);
        (0..20_000).for_each(|_| coding.note(bf16, 1_000_000, 600_000));
        assert!(coding.share(bf16) < 0.63, "{}", coding.share(bf16));
    }
}
