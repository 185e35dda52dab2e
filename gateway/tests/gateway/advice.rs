//! What engines report, what a lookup advises, and what a `when_faster` get decides.

use std::sync::atomic::Ordering;

use crate::fakes::{
    Mood,
    start::{World, chain, places},
};
use kvmesh_client::ToWire;
use kvmesh_directory::{Command, Hlc, Namespace, Policy, namespace::Fallback};
use kvmesh_proto::v1::{self as wire, Advice, GetOutcome};
use tokio::time::{Duration, Instant};
use tonic::Code;

/// Ten requests of a thousand tokens, each so long.
fn reports(prefill_ms: f64) -> Vec<wire::RequestReport> {
    let report = wire::RequestReport {
        tokens: 1_000,
        prefill_ms,
        ..Default::default()
    };
    vec![report; 64]
}

async fn report(world: &World, reports: Vec<wire::RequestReport>) -> Result<Option<f64>, Code> {
    let request = wire::ReportRequest {
        namespace_id: world.namespace.id.to_wire(),
        reports,
    };
    let answer = world.client.clone().report(request).await;
    answer
        .map(|answer| answer.into_inner().prefill_rate)
        .map_err(|status| status.code())
}

async fn advice(world: &World) -> (Option<f64>, Advice) {
    let query = wire::ChainQuery {
        chain: Some(chain(10)),
        ..Default::default()
    };
    let request = wire::LookupRequest {
        namespace_id: world.namespace.id.to_wire(),
        chains: vec![query],
        ..Default::default()
    };
    let answer = world.client.clone().lookup(request).await.unwrap();
    let found = answer.into_inner().matches.remove(0);
    assert_eq!((found.local_blocks, found.mesh_blocks), (2, 10));
    let remote = &found.remote[0];
    (remote.estimated_recompute_ms, remote.advice())
}

/// Two blocks here and ten there, at a round trip of 80 ms.
async fn world() -> World {
    let world = World::start_with(1, Fallback::WhenFaster, |_| {}).await;
    for index in 0..2 {
        world.place(index, 900, &[1]);
    }
    let at = world.place_far(1, 0..10, 900);
    world.catch_up().await;
    world.reach(at).await;
    world
}

#[tokio::test]
async fn the_faster_way_is_advised_and_taken() {
    let world = world().await;
    assert_eq!(advice(&world).await, (None, Advice::Unspecified));

    // Eight blocks of 16 tokens at 100,000 tokens a second: 1.28 ms.
    assert_eq!(report(&world, reports(10.0)).await, Ok(Some(100_000.0)));
    assert_eq!(advice(&world).await, (Some(1.28), Advice::Recompute));
    let (got, summary) = world.get(world.get_request(10)).await;
    assert_eq!(places(&got), [0, 1]);
    assert_eq!(
        (summary.outcome(), summary.blocks),
        (GetOutcome::Recompute, 2)
    );
    assert_eq!(summary.estimated_recompute_ms, Some(1.28));
    assert!(summary.estimated_fetch_ms.unwrap() > 80.0 && summary.fetch_ms.is_none());
    assert_eq!(
        world.far.gets.load(Ordering::Relaxed),
        0,
        "nobody was asked"
    );

    // A get that names its deadline has decided by itself.
    let request = wire::GetRequest {
        deadline_ms: 20_000,
        await_fill: true,
        start: 9,
        ..world.get_request(10)
    };
    let (got, summary) = world.get(request).await;
    assert_eq!(
        (places(&got), summary.outcome()),
        (vec![9], GetOutcome::Complete)
    );

    // At 100 tokens a second it is 1.28 s.
    assert_eq!(report(&world, reports(10_000.0)).await, Ok(Some(100.0)));
    assert_eq!(advice(&world).await, (Some(1_280.0), Advice::Fetch));
    let (got, summary) = world.get(world.get_request(10)).await;
    assert_eq!(places(&got).len(), 10);
    assert_eq!(summary.outcome(), GetOutcome::Complete);
    assert_eq!(summary.estimated_recompute_ms, Some(1_280.0));
}

#[tokio::test]
async fn a_declared_rate_wins_over_a_learnt_one() {
    let world = world().await;
    report(&world, reports(10.0)).await.unwrap();
    let declared = Namespace {
        policy: Policy {
            prefill_rate: 1_280.0,
            ..world.namespace.policy.clone()
        },
        policy_hlc: Hlc(9),
        ..world.namespace.clone()
    };
    world.region.apply(Command::OpenNamespace(declared));
    world.catch_up().await;
    // 100 ms: all of it by a fetch of 80.06, or by both ways.
    assert_eq!(advice(&world).await, (Some(100.0), Advice::Fetch));
    assert_eq!(report(&world, Vec::new()).await, Ok(Some(1_280.0)));
}

#[tokio::test]
async fn a_fetch_that_turns_out_too_slow_is_given_up() {
    for any_order in [false, true] {
        let world = world().await;
        // 200 ms for the eight blocks that are lacking; fetching them should take 80.
        report(&world, reports(1_562.5)).await.unwrap();
        assert_eq!(advice(&world).await, (Some(200.0), Advice::Fetch));
        world.far.be(Mood::Silent);
        let begun = Instant::now();
        let request = wire::GetRequest {
            any_order,
            ..world.get_request(10)
        };
        let (got, summary) = world.get(request).await;
        // `remote_fetch_max` alone would have waited for 1 s.
        assert!(begun.elapsed() < Duration::from_millis(700));
        assert_eq!(places(&got), [0, 1]);
        assert_eq!(
            (summary.outcome(), summary.blocks, summary.matched_tokens),
            (GetOutcome::Recompute, 2, 160)
        );
        let saved = summary.saved_ms.unwrap();
        assert!((-700.0..-50.0).contains(&saved), "{saved}: it was lost");
        assert_eq!(world.far.gets.load(Ordering::Relaxed), 1);
    }
}

#[tokio::test]
async fn a_report_that_cannot_be_is_refused() {
    let world = world().await;
    let with = |change: fn(&mut wire::RequestReport)| {
        let mut report = reports(1.0)[0];
        change(&mut report);
        vec![report]
    };
    let wrong = [
        with(|it| it.prefill_ms = -1.0),
        with(|it| it.queue_ms = f64::NAN),
        with(|it| it.ttft_ms = f64::INFINITY),
        vec![reports(1.0)[0]; 1_025],
    ];
    for reports in wrong {
        assert_eq!(report(&world, reports).await, Err(Code::InvalidArgument));
    }
    let request = wire::ReportRequest {
        namespace_id: vec![9; 16].into(),
        reports: Vec::new(),
    };
    let unknown = world.client.clone().report(request).await.unwrap_err();
    assert_eq!(unknown.code(), Code::NotFound);
}
