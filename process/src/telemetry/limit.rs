//! How many lines one place in the code may log.
//!
//! Invariants: the state is bounded by [`SITES_MAX`]; a line that is left out is counted, and
//! the next one from there, or one of its own once the place is quiet, says how many were.
//!
//! Not here: what a line looks like.

use std::{collections::HashMap, hash::Hash, time::Duration};

use tokio::time::Instant;

/// Lines that one place may log at once.
pub(super) const LINES_BURST: u32 = 50;
/// Lines a second after that.
pub(super) const LINES_PER_SECOND: u32 = 5;
/// Places that are told apart; further ones share one allowance.
pub(super) const SITES_MAX: usize = 2_048;
/// A place that has left lines out and is silent for so long says so.
pub(super) const QUIET: Duration = Duration::from_secs(5);

/// The allowances of all places, each known by a `K`.
#[derive(Debug)]
pub(super) struct Limit<K> {
    sites: HashMap<Option<K>, Site>,
    /// Places that have left lines out.
    owing: usize,
}

#[derive(Debug)]
struct Site {
    /// In lines; a whole one lets a line pass.
    allowance: f64,
    counted_at: Instant,
    left_out: u64,
}

impl<K: Hash + Eq + Clone> Limit<K> {
    pub(super) fn new() -> Self {
        Self {
            sites: HashMap::new(),
            owing: 0,
        }
    }

    /// Whether a line may be logged; then, how many were left out before it.
    pub(super) fn admit(&mut self, key: K, now: Instant) -> Option<u64> {
        let full = self.sites.len() >= SITES_MAX;
        let key = Some(key);
        let key = match full && !self.sites.contains_key(&key) {
            true => None,
            false => key,
        };
        let site = self.sites.entry(key).or_insert(Site {
            allowance: f64::from(LINES_BURST),
            counted_at: now,
            left_out: 0,
        });
        let earned =
            now.duration_since(site.counted_at).as_secs_f64() * f64::from(LINES_PER_SECOND);
        site.allowance = (site.allowance + earned).min(f64::from(LINES_BURST));
        site.counted_at = now;
        if site.allowance < 1.0 {
            self.owing += usize::from(site.left_out == 0);
            site.left_out += 1;
            return None;
        }
        site.allowance -= 1.0;
        self.owing -= usize::from(site.left_out > 0);
        Some(std::mem::take(&mut site.left_out))
    }

    /// Places that are quiet now, with what they left out; each is told once.
    pub(super) fn quiet(&mut self, now: Instant) -> Vec<(Option<K>, u64)> {
        if self.owing == 0 {
            return Vec::new();
        }
        let sites = self.sites.iter_mut();
        let quiet = sites
            .filter(|(_, site)| site.left_out > 0 && now.duration_since(site.counted_at) >= QUIET);
        let told: Vec<_> = quiet
            .map(|(key, site)| (key.clone(), std::mem::take(&mut site.left_out)))
            .collect();
        self.owing -= told.len();
        told
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admitted(limit: &mut Limit<u32>, key: u32, lines: u32, now: Instant) -> Vec<u64> {
        (0..lines).filter_map(|_| limit.admit(key, now)).collect()
    }

    #[test]
    fn a_place_is_held_to_its_rate_and_says_how_much_was_left_out() {
        let (mut limit, now) = (Limit::new(), Instant::now());
        let burst = LINES_BURST as usize;
        assert_eq!(
            admitted(&mut limit, 1, LINES_BURST + 7, now),
            vec![0; burst]
        );
        // Another place has its own allowance.
        assert_eq!(admitted(&mut limit, 2, 1, now), [0]);
        let later = now + Duration::from_secs(1);
        let mut rest = vec![7];
        rest.resize(LINES_PER_SECOND as usize, 0);
        assert_eq!(admitted(&mut limit, 1, LINES_BURST, later), rest);
    }

    #[test]
    fn a_place_that_went_quiet_is_told_once() {
        let (mut limit, now) = (Limit::new(), Instant::now());
        admitted(&mut limit, 1, LINES_BURST + 3, now);
        assert_eq!(limit.quiet(now), []);
        let later = now + QUIET;
        assert_eq!(limit.quiet(later), [(Some(1), 3)]);
        assert_eq!(limit.quiet(later), []);
        assert_eq!(admitted(&mut limit, 1, 1, later), [0]);
    }

    #[test]
    fn the_places_that_are_told_apart_are_bounded() {
        let (mut limit, now) = (Limit::new(), Instant::now());
        for key in 0..SITES_MAX as u32 {
            assert_eq!(limit.admit(key, now), Some(0));
        }
        let further = SITES_MAX as u32..SITES_MAX as u32 + 2 * LINES_BURST;
        let passed = further.filter_map(|key| limit.admit(key, now)).count();
        assert_eq!(passed, LINES_BURST as usize);
        assert!(limit.sites.len() <= SITES_MAX + 1);
    }
}
