use super::*;

const SLACK: Duration = Duration::from_millis(1_250);

fn lead(since: Instant) -> Lead {
    Lead {
        term: 1,
        since,
        sole: false,
        acknowledged: Some(since),
        floor: Some(10),
        applied: VecDeque::new(),
    }
}

#[tokio::test]
async fn a_lease_needs_a_fresh_quorum() {
    let start = Instant::now();
    let mut lead = lead(start);
    assert!(lead.may_serve(start, 10, SLACK));
    assert!(!lead.may_serve(start + SLACK, 10, SLACK));
    lead.sole = true;
    assert!(lead.may_serve(start + SLACK, 10, SLACK));
}

#[tokio::test]
async fn a_lease_needs_what_was_committed_before_the_leader_came() {
    let start = Instant::now();
    let mut lead = lead(start);
    assert!(!lead.may_serve(start, 9, SLACK));
    lead.floor = None;
    assert!(!lead.may_serve(start, 99, SLACK));
}

#[tokio::test]
async fn a_lease_needs_what_the_leader_had_applied_a_while_ago() {
    let start = Instant::now();
    let mut lead = lead(start);
    lead.sole = true;
    lead.sample(start, 20, SLACK);
    lead.sample(start + SLACK / 2, 30, SLACK);
    assert!(lead.may_serve(start + SLACK / 2, 10, SLACK));
    assert!(!lead.may_serve(start + SLACK, 19, SLACK));
    assert!(lead.may_serve(start + SLACK, 20, SLACK));
    assert!(!lead.may_serve(start + SLACK * 2, 29, SLACK));
}

#[tokio::test]
async fn samples_are_bounded_and_reach_back_far_enough() {
    let start = Instant::now();
    let mut lead = lead(start);
    for step in 0..1_000u32 {
        lead.sample(start + Duration::from_millis(10) * step, step.into(), SLACK);
    }
    assert_eq!(lead.applied.len(), SAMPLES as usize);
    let (oldest, newest) = (lead.applied[0].0, lead.applied[15].0);
    assert!(newest - oldest >= SLACK);
}
