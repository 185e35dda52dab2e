use super::*;
use crate::testing::{block, namespace};

const SOME: (usize, u64) = (4, 10_000);
const MINUTE: Duration = Duration::from_secs(60);

fn bring(_: &BlockName) -> Fate {
    Fate::Bring
}

fn numbers(names: &[Waiting], model: &str) -> Vec<u32> {
    let of = namespace(model);
    let number = |waiting: &Waiting| (0..10_000).find(|n| block(&of, *n) == waiting.name);
    names.iter().filter_map(number).collect()
}

#[test]
fn names_come_in_order_and_each_namespace_has_its_turn() {
    let (mut queue, now) = (Queue::new(100), Instant::now());
    let (a, b) = (namespace("a"), namespace("b"));
    for number in 0..6 {
        assert!(queue.add(block(&a, number), 1_000, now));
    }
    queue.add(block(&b, 0), 1_000, now);
    // Twice is once, and what vanished is left out.
    queue.add(block(&a, 0), 1_000, now);
    queue.vanished(&block(&a, 2));
    assert_eq!(queue.len(), 6);
    let taken = [(); 3].map(|()| queue.take(now, SOME, bring));
    let of = |model| taken.each_ref().map(|batch| numbers(batch, model));
    let (of_a, of_b) = (of("a"), of("b"));
    let mut of_a: Vec<Vec<u32>> = of_a.into_iter().filter(|batch| !batch.is_empty()).collect();
    let of_b: Vec<Vec<u32>> = of_b.into_iter().filter(|batch| !batch.is_empty()).collect();
    assert_eq!(of_b, [vec![0]]);
    let last = of_a.pop().unwrap();
    assert_eq!((of_a, last), (vec![vec![0, 1, 3, 4]], vec![5]));
    assert!(queue.take(now, SOME, bring).is_empty());
    assert_eq!((queue.len(), queue.len, queue.is_dirty()), (0, 0, false));
}

#[test]
fn a_call_carries_so_many_bytes_but_at_least_one_block() {
    let (mut queue, now) = (Queue::new(100), Instant::now());
    let a = namespace("a");
    for (number, bytes) in [(0, 50_000), (1, 6_000), (2, 4_000), (3, 1)] {
        queue.add(block(&a, number), bytes, now);
    }
    let taken = [(); 3].map(|()| numbers(&queue.take(now, SOME, bring), "a"));
    assert_eq!(taken, [vec![0], vec![1, 2], vec![3]]);
}

#[test]
fn what_is_here_is_dropped_and_what_nobody_knows_holds_up_its_namespace_only() {
    let (mut queue, now) = (Queue::new(100), Instant::now());
    let (a, b) = (namespace("a"), namespace("b"));
    for number in 0..4 {
        queue.add(block(&a, number), 1, now);
        queue.add(block(&b, number), 1, now);
    }
    let fate = |name: &BlockName| match name.namespace == a.id {
        true if name.hash.0[0] < 2 => Fate::Drop,
        true => Fate::Bring,
        false => Fate::Wait,
    };
    assert_eq!(numbers(&queue.take(now, SOME, fate), "a"), [2, 3]);
    assert!(queue.take(now, SOME, fate).is_empty());
    assert_eq!(queue.len(), 4, "those of b wait on");
}

#[test]
fn what_finds_no_room_or_waits_too_long_makes_its_range_dirty() {
    let (mut queue, begun) = (Queue::new(8), Instant::now());
    let a = namespace("a");
    for number in 0..20 {
        assert_eq!(queue.add(block(&a, number), 1, begun), number < 8);
    }
    assert!(queue.is_dirty());
    assert_eq!(queue.take_dirty(), None, "not before there is room");
    assert_eq!(queue.age(begun + MINUTE, MINUTE), 0);
    assert_eq!(queue.age(begun + MINUTE * 2, MINUTE), 8);
    assert_eq!((queue.len(), queue.len), (0, 0));
    let dirty = queue.take_dirty().unwrap();
    assert!((0..20).all(|number| dirty.has(&block(&a, number))));
    assert!(!dirty.has(&block(&a, 20)) && !dirty.has(&block(&namespace("b"), 3)));
    assert_eq!(queue.take_dirty(), None);
    let whole = Range::of(a.id);
    assert!((0..500).all(|number| whole.has(&block(&a, number))));
    assert!(!whole.has(&block(&namespace("b"), 3)));
}

#[test]
fn what_did_not_come_is_asked_for_alone_and_in_the_end_given_up() {
    let (mut queue, begun) = (Queue::new(100), Instant::now());
    let a = namespace("a");
    for number in 0..4 {
        queue.add(block(&a, number), 1, begun);
    }
    let batch = queue.take(begun, SOME, bring);
    queue.put_back(batch, begun);
    let batch = queue.take(begun, SOME, bring);
    assert_eq!(numbers(&batch, "a"), [0, 1, 2, 3], "nothing was tried");
    for waiting in batch {
        assert!(queue.failed(waiting, begun));
    }
    assert!(queue.take(begun, SOME, bring).is_empty());
    let mut now = begun;
    for wait in [TRY_AGAIN, TRY_AGAIN * 4] {
        now += wait;
        for number in 0..4 {
            let alone = queue.take(now, SOME, bring);
            assert_eq!(numbers(&alone, "a"), [number]);
            let [alone] = alone.try_into().unwrap();
            let goes_on = queue.failed(alone, now);
            assert_eq!(goes_on, wait == TRY_AGAIN);
        }
    }
    assert_eq!((queue.len(), queue.len), (0, 0));
}
