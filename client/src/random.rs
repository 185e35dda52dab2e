//! The randomness of every process: the machine's, unless this thread was seeded.
//!
//! Nonces, jitter and election timers are drawn here and nowhere else, so that a simulated
//! mesh, which lives on one thread, is a function of its seed.

use std::cell::RefCell;

use rand::{
    RngCore, SeedableRng,
    distr::uniform::{SampleRange, SampleUniform},
    rngs::SmallRng,
};

thread_local! {
    static SEEDED: RefCell<Option<SmallRng>> = const { RefCell::new(None) };
}

/// Makes all draws of this thread a function of `seed`. For simulations.
pub fn seed(seed: u64) {
    SEEDED.set(Some(SmallRng::seed_from_u64(seed)));
}

/// A uniform number of a range.
///
/// # Panics
/// When the range is empty.
pub fn in_range<T: SampleUniform>(range: impl SampleRange<T>) -> T {
    with(|mut rng| rand::Rng::random_range(&mut rng, range))
}

/// Any number.
#[must_use]
pub fn word() -> u64 {
    with(|rng| rng.next_u64())
}

/// Draws from this thread's generator.
#[allow(clippy::disallowed_methods, reason = "the one place that draws")]
fn with<T>(draw: impl FnOnce(&mut dyn RngCore) -> T) -> T {
    SEEDED.with_borrow_mut(|seeded| match seeded {
        Some(rng) => draw(rng),
        None => draw(&mut rand::rng()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seeded_thread_repeats_itself_and_no_other_does() {
        let draws = || [word(), in_range(0..u64::MAX), word()];
        seed(7);
        let first = draws();
        seed(7);
        assert_eq!(draws(), first);
        let elsewhere = std::thread::spawn(move || [word(), in_range(0..u64::MAX), word()]);
        assert_ne!(elsewhere.join().unwrap(), first);
    }
}
