//! The ledger against a naive model, and its promises one by one.

use std::time::Duration;

use kvmesh_directory::{BlockHash, Hlc, NamespaceId, Part};
use proptest::prelude::*;

use super::{
    super::retention::{Age, SCHEDULES, used_again},
    *,
};

fn key(number: u64) -> CopyKey {
    let mut hash = [0; 32];
    hash[..8].copy_from_slice(&number.to_be_bytes());
    let name = BlockName {
        namespace: NamespaceId([7; 16]),
        hash: BlockHash(hash),
        part: Part::default(),
    };
    let copy = Copy {
        node: NodeId(1),
        incarnation: Incarnation(1),
        copy: CopyNumber(number),
    };
    CopyKey { name, copy }
}

fn admission(bytes: u64, depth: u32, touched: u64, since: Instant) -> Admission {
    let checksum = Checksum([1; 16]);
    Admission {
        bytes,
        depth,
        checksum,
        put_hlc: Hlc(1),
        transcoded: None,
        touched,
        since,
    }
}

const COST: u64 = 1_000;
const BYTES: u64 = COST - COPY_OVERHEAD_BYTES;

#[tokio::test(start_paused = true)]
async fn the_least_recent_goes_first_and_of_one_chain_the_leaf() {
    let mut ledger = Ledger::new(4 * COST);
    let now = Instant::now();
    for (number, depth, touched) in [(1, 0, 5), (2, 1, 5), (3, 2, 5), (4, 9, 3)] {
        let evicted = ledger.admit(key(number), admission(BYTES, depth, touched, now));
        assert_eq!(evicted, Ok(vec![]));
        assert!(ledger.claim(key(number), Hlc(1)));
    }
    assert_eq!(ledger.usage().used, 4 * COST);
    for (number, victim) in [(5, 4), (6, 3)] {
        let evicted = ledger.admit(key(number), admission(BYTES, 0, 9, now));
        assert_eq!(evicted, Ok(vec![key(victim)]));
    }
    assert!(ledger.touch(key(1), 8), "the root is read again");
    assert!(ledger.claim(key(5), Hlc(1)) && ledger.claim(key(6), Hlc(1)));
    let evicted = ledger.admit(key(7), admission(BYTES, 0, 9, now));
    assert_eq!(evicted, Ok(vec![key(2)]));
}

#[tokio::test(start_paused = true)]
async fn a_budget_shrinks_by_evicting_and_no_further_than_what_stays() {
    let mut ledger = Ledger::new(16 * COST);
    let now = Instant::now();
    for number in 1..=6 {
        let admitted = ledger.admit(key(number), admission(BYTES, 0, number, now));
        assert_eq!(admitted, Ok(vec![]));
        assert!(number == 6 || ledger.claim(key(number), Hlc(1)));
    }
    assert_eq!(ledger.pin(key(1)), Pin::Pinned);
    let resize = |ledger: &mut Ledger, max, at_most| {
        let gone = ledger.resize(max, at_most, 9, |victim| victim == key(5));
        (gone.evicted, gone.demoted, ledger.usage().max)
    };
    let (one, none) = (resize(&mut ledger, 4 * COST, 1), vec![]);
    assert_eq!(one, (vec![key(2)], none.clone(), 5 * COST), "one step");
    let all = resize(&mut ledger, COST, 9);
    // One is leased, and one is not claimed yet. The disk has one.
    assert_eq!(all, (vec![key(3), key(4)], vec![key(5)], 2 * COST));
    ledger.unpin(key(1));
    let last = resize(&mut ledger, COST, 9);
    assert_eq!(last, (vec![key(1)], none.clone(), COST));
    assert_eq!(ledger.usage().used, COST);
    assert_eq!(
        resize(&mut ledger, 9 * COST, 9),
        (none.clone(), none, 9 * COST)
    );
    assert_eq!(ledger.usage().max, 9 * COST);
}

#[tokio::test(start_paused = true)]
async fn unclaimed_copies_stay_bounded_and_expire() {
    let mut ledger = Ledger::new(4 * COST);
    let start = Instant::now();
    for number in 1..=2 {
        assert!(
            ledger
                .admit(key(number), admission(BYTES, 0, 0, start))
                .is_ok()
        );
    }
    let full = ledger.admit(key(3), admission(BYTES, 0, 0, start));
    assert!(full.is_err(), "half of the budget is the bound");
    let later = start + Duration::from_secs(30);
    assert_eq!(
        ledger.join(&key(2).name, (Checksum([1; 16]), Hlc(1)), later),
        Some(key(2).copy)
    );
    for other in [(Checksum([2; 16]), Hlc(1)), (Checksum([1; 16]), Hlc(2))] {
        assert_eq!(ledger.join(&key(2).name, other, later), None);
    }
    assert_eq!(ledger.expire(start), vec![key(1)]);
    assert_eq!(ledger.usage().copies, 1);
    assert!(ledger.held(key(2)).is_some());
}

#[tokio::test(start_paused = true)]
async fn what_another_put_relies_on_outlives_a_refusal_and_a_drop() {
    let mut ledger = Ledger::new(16 * COST);
    let start = Instant::now();
    for number in 1..=4 {
        let admitted = ledger.admit(key(number), admission(BYTES, 0, 0, start));
        assert!(admitted.is_ok());
    }
    const TTL: Duration = Duration::from_secs(30);
    let joins = start + Duration::from_secs(1);
    for number in 2..=4 {
        let joined = ledger.join(&key(number).name, (Checksum([1; 16]), Hlc(1)), joins);
        assert_eq!(joined, Some(key(number).copy));
    }
    assert!(ledger.withdraw(key(1)).is_some(), "nobody else wants it");
    assert!(
        ledger.withdraw(key(2)).is_none(),
        "another put is under way"
    );
    // It is claimed, and its block is deleted: before that other put's claim, and long after.
    assert!(ledger.claim(key(3), Hlc(1)) && ledger.claim(key(4), Hlc(1)));
    assert!(ledger.withdraw(key(3)).is_none(), "it is committed");
    assert!(ledger.unlisted(key(3), joins, TTL).is_none());
    assert!(ledger.unlisted(key(4), joins + TTL, TTL).is_some());
    let waits = CopyState::Provisional { since: joins };
    assert_eq!(ledger.held(key(3)).map(|held| held.state), Some(waits));
    assert!(
        ledger.claim(key(3), Hlc(1)),
        "that put's claim comes in the end"
    );
    // Or it does not: then the copy's time ends.
    assert!(ledger.unlisted(key(3), joins, TTL).is_none());
    assert_eq!(ledger.expire(joins), vec![key(2), key(3)]);
    assert_eq!(ledger.usage().used, 0);
}

#[tokio::test(start_paused = true)]
async fn what_is_offered_stays_while_it_is_renewed_and_is_known_as_such() {
    let (mut ledger, start) = (Ledger::new(16 * COST), Instant::now());
    for number in 1..=2 {
        let admitted = ledger.admit(key(number), admission(BYTES, 0, 0, start));
        assert!(admitted.is_ok() && ledger.claim(key(number), Hlc(2)));
        let renumbered = ledger.renumber(key(number), key(number + 10), start);
        assert_eq!(renumbered, Some(Hlc(2)));
    }
    let later = start + Duration::from_secs(1);
    assert!(ledger.renew(key(11), later) && !ledger.renew(key(1), later));
    assert_eq!(ledger.expire(start), vec![key(12)]);
    let offered = |ledger: &Ledger, number| ledger.held(key(number)).map(|held| held.offered);
    assert_eq!(offered(&ledger, 11), Some(true));
    assert!(ledger.claim(key(11), Hlc(2)) && ledger.renew(key(11), later));
    assert_eq!(offered(&ledger, 11), Some(false));
    assert_eq!(ledger.held(key(11)).unwrap().state, CopyState::Claimed);
}

#[derive(Debug, Clone)]
enum Step {
    Admit(u64, u64, u32, u64),
    Claim(u64),
    Touch(u64, u64),
    Remove(u64),
    Pin(u64),
    Unpin(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let number = 0..24_u64;
    let step = prop_oneof![
        3 => (number.clone(), 1..3_000_u64, 0..4_u32, 0..60_u64)
            .prop_map(|(n, bytes, depth, touched)| Step::Admit(n, bytes, depth, touched)),
        3 => number.clone().prop_map(Step::Claim),
        2 => (number.clone(), 0..60_u64).prop_map(|(n, touched)| Step::Touch(n, touched)),
        1 => number.clone().prop_map(Step::Remove),
        2 => number.clone().prop_map(Step::Pin),
        1 => number.prop_map(Step::Unpin),
    ];
    prop::collection::vec(step, 0..240)
}

/// The obvious way: a list, sorted when something must go; with every pin, how often what went
/// was used, and the age at which it went.
#[derive(Default)]
struct Model(
    Vec<(CopyKey, Held)>,
    Vec<CopyKey>,
    BTreeMap<CopyKey, (u8, u64)>,
    Age,
);

impl Model {
    fn cost(&self, which: impl Fn(&Held) -> bool) -> u64 {
        let costs = self.0.iter().filter(|(_, held)| which(held));
        costs
            .map(|(_, held)| held.bytes + COPY_OVERHEAD_BYTES)
            .sum()
    }

    fn admit(
        &mut self,
        key: CopyKey,
        copy: Admission,
        max: u64,
        schedule: usize,
    ) -> Option<Vec<CopyKey>> {
        let cost = copy.bytes + COPY_OVERHEAD_BYTES;
        if self.cost(|held| held.state != CopyState::Claimed) + cost > max / 2 {
            return None;
        }
        let mut evicted = Vec::new();
        while self.cost(|_| true) + cost > max {
            let claimed = self
                .0
                .iter()
                .filter(|(key, held)| held.state == CopyState::Claimed && !self.1.contains(key));
            let leads = self.3.leads(schedule);
            let until = |held: &Held| held.touched + leads[usize::from(held.uses)];
            let victim = claimed.min_by_key(|(key, held)| (until(held), Reverse(held.depth), *key));
            let (victim, held) = *victim.unwrap();
            self.0.retain(|(key, _)| *key != victim);
            if held.uses == 0 {
                let age = copy.touched.saturating_sub(held.touched);
                self.3.went(age, max / (held.bytes + COPY_OVERHEAD_BYTES));
            }
            self.2.insert(victim, (held.uses, held.touched));
            evicted.push(victim);
        }
        let held = Held {
            bytes: copy.bytes,
            depth: copy.depth,
            checksum: copy.checksum,
            put_hlc: copy.put_hlc,
            transcoded: copy.transcoded,
            state: CopyState::Provisional { since: copy.since },
            touched: copy.touched,
            kept: copy.since,
            in_memory: true,
            joined: None,
            offered: false,
            uses: match self.2.remove(&key) {
                None => 0,
                Some((uses, second)) if second >= copy.touched => uses,
                Some((uses, _)) => used_again(uses),
            },
        };
        self.0.push((key, held));
        Some(evicted)
    }

    fn pinned(&self) -> u64 {
        let pinned = self.0.iter().filter(|(key, _)| self.1.contains(key));
        pinned
            .map(|(_, held)| held.bytes + COPY_OVERHEAD_BYTES)
            .sum()
    }

    /// Pins as often as asked for.
    fn pin(&mut self, key: CopyKey, max: u64) -> Pin {
        let Some(held) = self.find(key).copied() else {
            return Pin::Absent;
        };
        let cost = held.bytes + COPY_OVERHEAD_BYTES;
        if !self.1.contains(&key) && self.pinned() + cost > max / 4 {
            return Pin::Full;
        }
        // All keys are of one namespace.
        if !self.1.contains(&key) && self.pinned() + cost > max / 8 {
            return Pin::Share;
        }
        self.1.push(key);
        Pin::Pinned
    }

    fn unpin(&mut self, key: CopyKey) {
        if let Some(at) = self.1.iter().position(|pinned| *pinned == key) {
            self.1.remove(at);
        }
    }

    fn find(&mut self, key: CopyKey) -> Option<&mut Held> {
        self.0
            .iter_mut()
            .find(|(k, _)| *k == key)
            .map(|(_, held)| held)
    }
}

proptest! {
    #[test]
    fn the_ledger_is_its_model(steps in steps(), schedule in 0..SCHEDULES.len()) {
        let max = 12_000;
        let now = tokio::time::Instant::now();
        let (mut ledger, mut model) = (Ledger::with_schedule(max, Some(schedule)), Model::default());
        for step in steps {
            match step {
                Step::Admit(n, bytes, depth, touched) => {
                    if model.find(key(n)).is_some() { continue; }
                    let copy = admission(bytes, depth, touched, now);
                    let evicted = ledger.admit(key(n), copy).ok();
                    prop_assert_eq!(evicted, model.admit(key(n), copy, max, schedule));
                    // What went long ago is forgotten; else the uses go on.
                    if let Some(forgotten) = ledger.held(key(n)).filter(|held| held.uses == 0)
                        && let Some(held) = model.find(key(n))
                    {
                        held.uses = forgotten.uses;
                    }
                }
                Step::Claim(n) => {
                    let known = model.find(key(n)).map(|held| {
                        held.state = CopyState::Claimed;
                        held.put_hlc = Hlc(n);
                    });
                    prop_assert_eq!(ledger.claim(key(n), Hlc(n)), known.is_some());
                }
                Step::Touch(n, touched) => {
                    let known = model.find(key(n)).map(|held| if touched > held.touched {
                        (held.touched, held.uses) = (touched, used_again(held.uses));
                    });
                    prop_assert_eq!(ledger.touch(key(n), touched), known.is_some());
                }
                Step::Remove(n) => {
                    let known = model.find(key(n)).copied();
                    model.0.retain(|(k, _)| *k != key(n));
                    model.1.retain(|k| *k != key(n));
                    prop_assert_eq!(ledger.remove(key(n)), known);
                }
                Step::Pin(n) => prop_assert_eq!(ledger.pin(key(n)), model.pin(key(n), max)),
                Step::Unpin(n) => {
                    ledger.unpin(key(n));
                    model.unpin(key(n));
                }
            }
            prop_assert_eq!(ledger.usage().used, model.cost(|_| true));
            prop_assert!(ledger.usage().used <= max);
            prop_assert_eq!(ledger.usage().pinned_bytes, model.pinned());
            let mut listed = model.0.clone();
            listed.sort_by_key(|(key, _)| *key);
            prop_assert_eq!(ledger.inventory(), listed);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_used_since_is_worth_more_than_what_nobody_wants_yet() {
    let mut ledger = Ledger::new(3 * COST);
    let (now, id) = (Instant::now(), key(1).name.namespace);
    for (number, touched) in [(1, 20), (2, 30)] {
        ledger
            .admit(key(number), admission(BYTES, 0, touched, now))
            .unwrap();
        assert!(ledger.claim(key(number), Hlc(1)));
    }
    assert!(
        !ledger.would_give_up_since(id, BYTES, None),
        "there is room"
    );
    ledger.admit(key(3), admission(BYTES, 0, 40, now)).unwrap();
    assert!(ledger.claim(key(3), Hlc(1)));
    // The first would go.
    assert!(ledger.would_give_up_since(id, BYTES, Some(19)));
    assert!(!ledger.would_give_up_since(id, BYTES, Some(20)));
    assert!(ledger.touch(key(1), 50));
    assert!(ledger.would_give_up_since(id, BYTES, Some(29)));
    assert!(!ledger.would_give_up_since(id, BYTES, Some(30)));
    assert!(ledger.would_give_up_since(id, BYTES, None));
}
