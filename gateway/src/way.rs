//! The right of way on a link: what is pushed yields to what somebody waits for.
//!
//! What is pushed takes at most half of what demand leaves of the link. Demand is what came by it
//! in the last second and what fetches under way still expect, so that a long get has the link to
//! itself from its beginning. Where demand takes all that it can get, each second leaves pushes
//! half of what they had, down to a small part by which they never stop. See
//! `docs/decisions/0032-classes-on-a-link.md`.
//!
//! Pure, by the times that it is given; bytes are those that travel.

use std::time::Duration;

use tokio::time::Instant;

/// For what something comes from another region.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Class {
    /// Somebody waits for it, or will soon.
    Demand,
    /// Nobody does: a policy wants it here.
    Pushed,
}

/// Of the link: what demand leaves to pushes in any case.
const LEAST: f64 = 1.0 / 64.0;
/// Of what demand leaves, the part that pushes take.
const PART: f64 = 0.5;
/// What one call of a push asks for takes the link so long, if a block is not longer.
const CALL_SECONDS: f64 = 0.125;
/// The last second, in slots; the one that began before it counts in part.
const SLOTS: usize = 11;
const SLOT: Duration = Duration::from_millis(100);

/// One link.
#[derive(Debug)]
pub(crate) struct Way {
    /// Of demand that came, by slot; the newest slot's number since `begun`.
    came: [u64; SLOTS],
    newest: u64,
    begun: Instant,
    /// Of demand that is under way.
    to_come: u64,
    /// What was asked for by pushes beyond what they had a right to since.
    owed: f64,
    looked: Instant,
}

impl Way {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            came: [0; SLOTS],
            newest: 0,
            begun: now,
            to_come: 0,
            owed: 0.0,
            looked: now,
        }
    }

    /// A fetch that somebody waits for begins.
    pub(crate) fn expect(&mut self, bytes: u64) {
        self.to_come += bytes;
    }

    /// Bytes of demand came, of which so many were expected.
    pub(crate) fn came(&mut self, now: Instant, bytes: u64, expected: u64) {
        self.turn_to(now);
        self.came[self.newest as usize % SLOTS] += bytes;
        self.expect_no_more(expected);
    }

    /// A fetch ended before all came that it expected.
    pub(crate) fn expect_no_more(&mut self, bytes: u64) {
        self.to_come = self.to_come.saturating_sub(bytes);
    }

    /// Bytes of demand that are expected.
    pub(crate) fn expected(&self) -> u64 {
        self.to_come
    }

    /// Whether a push may ask for so many bytes now, of a link of so many a second; it counts as
    /// asking for them then.
    pub(crate) fn may_push(&mut self, now: Instant, bandwidth: f64, bytes: u64) -> bool {
        // Of a link that is not known nothing can be kept free.
        if !(bandwidth > 0.0 && bandwidth.is_finite()) {
            return true;
        }
        let rate = self.pushes(now, bandwidth);
        let since = now.saturating_duration_since(self.looked);
        self.looked = now;
        self.owed = (self.owed - rate * since.as_secs_f64()).max(0.0);
        let may = self.owed == 0.0;
        if may {
            self.owed = bytes as f64;
        }
        may
    }

    /// Bytes a second that pushes may take.
    fn pushes(&mut self, now: Instant, bandwidth: f64) -> f64 {
        self.turn_to(now);
        let all = self.came.iter().sum::<u64>() + self.to_come;
        let oldest = self.came[(self.newest as usize + 1) % SLOTS];
        let begun = self.begun + SLOT * u32::try_from(self.newest).unwrap_or(u32::MAX);
        let part = now.saturating_duration_since(begun).as_secs_f64() / SLOT.as_secs_f64();
        let demand = all as f64 - oldest as f64 * part.min(1.0);
        ((bandwidth - demand) * PART).max(bandwidth * LEAST)
    }

    /// Forgets what came more than a second ago.
    fn turn_to(&mut self, now: Instant) {
        let slots = now.saturating_duration_since(self.begun).as_millis() / SLOT.as_millis();
        let slot = u64::try_from(slots).unwrap_or(u64::MAX);
        for passed in (self.newest + 1..=slot).take(SLOTS) {
            self.came[passed as usize % SLOTS] = 0;
        }
        self.newest = self.newest.max(slot);
    }
}

/// Bytes that one call of a push asks for, at most, of a link of so many a second.
pub(crate) fn push_bytes_max(bandwidth: f64, most: u64) -> u64 {
    let call = bandwidth * CALL_SECONDS;
    // What is no number, or not positive, is not known.
    match call > 0.0 && call < most as f64 {
        true => call as u64,
        false => most,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);
    /// Of a link of 1 Gbit/s, bytes in a millisecond.
    const EACH_MS: u64 = 125_000;
    const BANDWIDTH: f64 = 125e6;
    const BATCH: u64 = 2 << 20;

    /// What pushes and demand got of a link in each of some seconds: what both have under way
    /// shares it evenly, as connections do. Demand asks for so many bytes a millisecond, and says
    /// before what it expects, or not.
    fn shared(seconds: u64, asks: u64, says: bool) -> Vec<(u64, u64)> {
        let mut now = Instant::now();
        let mut way = Way::new(now);
        let most = 2_000 * EACH_MS;
        let (mut pushed, mut wanted) = (0_u64, if says { most } else { 0 });
        let mut got = Vec::new();
        for _ in 0..seconds {
            let mut sums = (0, 0);
            for _ in 0..1_000 {
                now += MS;
                // What demand could not have is asked for later.
                wanted = (wanted + asks).min(most);
                if says {
                    way.to_come = wanted;
                }
                if way.may_push(now, BANDWIDTH, BATCH) {
                    pushed += BATCH;
                }
                let (push, demand) = match (pushed, wanted) {
                    (push, demand) if push + demand <= EACH_MS => (push, demand),
                    (push, demand) if push < EACH_MS / 2 => (push, demand.min(EACH_MS - push)),
                    (push, demand) if demand < EACH_MS / 2 => (push.min(EACH_MS - demand), demand),
                    _ => (EACH_MS / 2, EACH_MS / 2),
                };
                (pushed, wanted) = (pushed - push, wanted - demand);
                way.came(now, demand, 0);
                sums = (sums.0 + push, sums.1 + demand);
            }
            got.push(sums);
        }
        got
    }

    fn shares(sums: &(u64, u64)) -> (f64, f64) {
        (sums.0 as f64 / BANDWIDTH, sums.1 as f64 / BANDWIDTH)
    }

    #[test]
    fn a_link_that_nobody_wants_is_half_pushes() {
        for second in shared(5, 0, false).iter().skip(1).map(shares) {
            assert!((0.45..0.55).contains(&second.0), "{second:?}");
        }
    }

    #[test]
    fn demand_of_a_part_of_the_link_gets_it_and_pushes_half_of_the_rest() {
        for second in shared(6, EACH_MS * 2 / 5, false).iter().skip(2).map(shares) {
            assert!((0.39..0.41).contains(&second.1), "{second:?}");
            assert!((0.26..0.34).contains(&second.0), "{second:?}");
        }
    }

    #[test]
    fn demand_that_takes_all_it_can_soon_has_the_link() {
        let got = shared(8, 2 * EACH_MS, false);
        let last = shares(&got[7]);
        assert!(last.1 > 0.96 && last.0 > 0.0, "{got:?}");
        assert!(shares(&got[3]).1 > 0.9, "{got:?}");
        // One that says what it expects has it at once.
        let got = shared(8, 2 * EACH_MS, true);
        assert!(shares(&got[0]).1 > 0.95, "{got:?}");
        assert!(got.iter().map(|sums| sums.0).sum::<u64>() > 0, "{got:?}");
    }

    #[test]
    fn what_came_long_ago_or_comes_no_more_is_no_demand() {
        let begun = Instant::now();
        let mut way = Way::new(begun);
        let pushes = |way: &mut Way, ms: u32| way.pushes(begun + MS * ms, BANDWIDTH) / BANDWIDTH;
        assert_eq!(pushes(&mut way, 0), 0.5);
        way.expect(200_000_000);
        assert_eq!(pushes(&mut way, 50), LEAST);
        way.came(begun + MS * 150, 62_500_000, 62_500_000);
        assert_eq!(pushes(&mut way, 160), LEAST);
        way.expect_no_more(137_500_000);
        assert_eq!(pushes(&mut way, 1_090), 0.25);
        assert_eq!(pushes(&mut way, 1_150), 0.375);
        assert_eq!(pushes(&mut way, 1_250), 0.5);
        way.came(begun + MS * 1_300, 62_500_000, 1);
        assert_eq!(pushes(&mut way, 1_350), 0.25);
        assert_eq!(pushes(&mut way, 60_000), 0.5);
    }

    #[test]
    fn one_call_takes_the_link_for_a_moment_and_a_link_that_is_not_known_is_not_kept_free() {
        assert_eq!(push_bytes_max(BANDWIDTH, 16 << 20), 15_625_000);
        assert_eq!(push_bytes_max(10.0 * BANDWIDTH, 16 << 20), 16 << 20);
        for unknown in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            assert_eq!(push_bytes_max(unknown, 7), 7);
            let now = Instant::now();
            let mut way = Way::new(now);
            assert!((0..9).all(|_| way.may_push(now, unknown, BATCH)));
        }
    }
}
