use proptest::prelude::*;

use super::*;

#[test]
fn pieces_take_whole_chunks_and_rests_share_one() {
    let mut granules = Granules::new(3);
    assert_eq!(granules.take(PER_CHUNK), Some(0));
    assert_eq!(granules.take(100), Some(PER_CHUNK));
    assert_eq!(granules.take(100), Some(PER_CHUNK + 100));
    assert_eq!(granules.scattered(), PER_CHUNK - 200);
    assert_eq!(granules.take(100), Some(2 * PER_CHUNK), "56 are left");
    assert_eq!(granules.take(56), Some(PER_CHUNK + 200), "the tightest fit");
    assert_eq!(granules.take(PER_CHUNK), None);
    granules.give(0, PER_CHUNK);
    assert_eq!(granules.take(1), Some(2 * PER_CHUNK + 100));
    assert_eq!(granules.take(PER_CHUNK), Some(0));
    assert_eq!(granules.high_water(), 2 * PER_CHUNK + 101);
}

#[test]
fn free_chunks_keep_their_pages_as_far_as_they_may() {
    let mut granules = Granules::new(4);
    let taken: Vec<usize> = (0..3).filter_map(|_| granules.take(PER_CHUNK)).collect();
    granules.give(taken[0], PER_CHUNK);
    granules.give(taken[2], PER_CHUNK);
    assert_eq!(granules.spare(), None, "nobody asked for pages");
    granules.keep_resident(2);
    assert_eq!(granules.spare(), Some(2), "three had pages");
    assert_eq!(granules.spare(), None);
    granules.keep_resident(0);
    assert_eq!(granules.spare(), Some(0));
    assert_eq!(granules.spare(), None, "what is in use keeps its own");
    let part = granules.take(1).unwrap();
    granules.give(part, 1);
    assert_eq!(granules.spare(), Some(part / PER_CHUNK), "used again");
}

#[derive(Debug, Clone)]
enum Step {
    Take(usize),
    Give(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => (1..=PER_CHUNK).prop_map(Step::Take),
        3 => (1..=8_usize).prop_map(Step::Take),
        4 => any::<usize>().prop_map(Step::Give),
    ];
    prop::collection::vec(step, 1..200)
}

proptest! {
    #[test]
    fn nothing_is_given_out_twice_and_room_that_is_there_is_found(steps in steps()) {
        let chunks = 4;
        let mut granules = Granules::new(chunks);
        let mut taken: Vec<(usize, usize)> = Vec::new();
        for step in steps {
            match step {
                Step::Take(count) => {
                    let mut model = vec![false; chunks * PER_CHUNK];
                    for (first, count) in &taken {
                        model[*first..first + count].fill(true);
                    }
                    let free = |run: &[bool]| run.iter().all(|taken| !taken);
                    let fits = model.chunks(PER_CHUNK).any(|chunk| chunk.windows(count).any(free));
                    let got = granules.take(count);
                    prop_assert_eq!(got.is_some(), fits);
                    if let Some(first) = got {
                        prop_assert!(free(&model[first..first + count]));
                        prop_assert_eq!(first / PER_CHUNK, (first + count - 1) / PER_CHUNK);
                        taken.push((first, count));
                    }
                }
                Step::Give(which) if !taken.is_empty() => {
                    let (first, count) = taken.swap_remove(which % taken.len());
                    granules.give(first, count);
                }
                Step::Give(_) => {}
            }
            let sum: usize = taken.iter().map(|(_, count)| count).sum();
            prop_assert_eq!(granules.taken(), sum);
        }
        for (first, count) in taken {
            granules.give(first, count);
        }
        prop_assert_eq!((granules.taken(), granules.scattered()), (0, 0));
    }
}
