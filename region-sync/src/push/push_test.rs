use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use kvmesh_directory::{
    Command, Hlc, Namespace, Policy, RegionId, command::Deletion, namespace::ReplicationMode,
};
use kvmesh_process::{Environment, server};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::{
    PeerSettings, ServeError, Settings, serve,
    testing::{FakeRegion, block, deletion, evict, namespace, put, until},
};

/// A region-sync of `us`.
struct Running {
    stop: CancellationToken,
    ended: JoinHandle<Result<(), ServeError>>,
}

impl Running {
    #[allow(clippy::disallowed_methods, reason = "the test awaits it")]
    async fn start(
        home: &FakeRegion,
        peers: &[&Arc<FakeRegion>],
        change: impl FnOnce(&mut Settings),
    ) -> Self {
        *home.sources.lock().unwrap() = peers.iter().map(|peer| Arc::clone(peer)).collect();
        let mut settings = Settings {
            region: home.name.to_string(),
            nodes: vec![home.address.to_string()],
            gateways: vec![home.address.to_string()],
            peers: peers.iter().map(|peer| peer_settings(peer)).collect(),
            probe_interval_ms: 20,
            probe_timeout_ms: 2_000,
            offline_after_ms: 100,
            return_after_ms: 0,
            ..Settings::default()
        };
        change(&mut settings);
        let (_, incoming) = server::listen(([127, 0, 0, 1], 0).into()).await.unwrap();
        let stop = CancellationToken::new();
        let environment = Environment::real("us/region-sync");
        let ended = tokio::spawn(serve(settings, environment, incoming, stop.clone()));
        Self { stop, ended }
    }

    async fn end(self) {
        self.stop.cancel();
        let ended = tokio::time::timeout(Duration::from_secs(30), self.ended).await;
        ended.unwrap().unwrap().unwrap();
    }
}

fn peer_settings(peer: &FakeRegion) -> PeerSettings {
    PeerSettings {
        region: peer.name.to_string(),
        nodes: vec![peer.address.to_string()],
        gateways: vec![peer.address.to_string()],
        bandwidth_bits: 1_000_000_000,
        dollars_per_gb: 0.0,
    }
}

fn regions(names: &[&str]) -> Vec<RegionId> {
    names.iter().map(|name| name.parse().unwrap()).collect()
}

/// Of a model, pushed to these regions.
fn pushed(model: &str, to: &[&str]) -> Namespace {
    Namespace {
        policy: Policy {
            replication: ReplicationMode::Push,
            regions: regions(to),
            ..Policy::default()
        },
        ..namespace(model)
    }
}

fn has(region: &FakeRegion, namespace: &Namespace, number: u32) -> bool {
    let state = region.state.lock().unwrap();
    state.entry(&block(namespace, number)).is_some()
}

fn has_all(
    region: &FakeRegion,
    namespace: &Namespace,
    mut numbers: impl Iterator<Item = u32>,
) -> bool {
    numbers.all(|number| has(region, namespace, number))
}

fn blocks(region: &FakeRegion) -> usize {
    region.state.lock().unwrap().entries().count()
}

#[tokio::test]
async fn what_is_put_in_one_region_is_brought_where_the_policy_says_and_nowhere_else() {
    let (us, eu, ap) = tokio::join!(
        FakeRegion::start("us"),
        FakeRegion::start("eu"),
        FakeRegion::start("ap")
    );
    let (here, there) = (pushed("here", &["us"]), pushed("there", &["ap"]));
    let plain = namespace("plain");
    for namespace in [&here, &there, &plain] {
        eu.apply(Command::OpenNamespace(namespace.clone()));
        eu.apply(put(namespace, 0, 10));
    }
    let to_us = Running::start(&us, &[&eu, &ap], |_| {}).await;
    let to_ap = Running::start(&ap, &[&eu, &us], |_| {}).await;
    for number in 1..40 {
        for namespace in [&here, &there, &plain] {
            eu.apply(put(namespace, number, 10));
        }
    }
    until("both have what is pushed to them", || {
        has_all(&us, &here, 0..40) && has_all(&ap, &there, 0..40)
    })
    .await;
    assert_eq!((blocks(&us), blocks(&ap)), (40, 40));
    // What was put at home is not brought back there, and what two have is brought once.
    us.apply(put(&here, 50, 10));
    eu.apply(evict(&here, 1));
    eu.apply(put(&here, 41, 10));
    until("the last one is there", || has(&us, &here, 41)).await;
    let brought: usize = us.brought.lock().unwrap().iter().sum();
    assert_eq!(brought, 41);
    to_us.end().await;
    to_ap.end().await;
}

#[tokio::test]
async fn more_than_the_queue_keeps_is_brought_all_the_same() {
    let (us, eu) = tokio::join!(FakeRegion::start("us"), FakeRegion::start("eu"));
    let model = pushed("m", &["us"]);
    eu.apply(Command::OpenNamespace(model.clone()));
    let running = Running::start(&us, &[&eu], |settings| settings.push_queue_max = 8).await;
    until("the namespace is known", || {
        us.state.lock().unwrap().namespace(model.id).is_some()
    })
    .await;
    // Its gateway brings nothing for now, and puts go on.
    us.refuse(true);
    for number in 0..300 {
        eu.apply(put(&model, number, 10));
    }
    let (position, _) = eu.apply(Command::Delete(deletion(&model, &[400], 5)));
    us.refuse(false);
    until("all are there", || has_all(&us, &model, 0..300)).await;
    until("the delete is there as well", || {
        us.stands_at("eu").is_some_and(|at| at.covers(&position))
    })
    .await;
    assert_eq!(blocks(&us), 300);
    running.end().await;
}

#[tokio::test]
async fn what_waits_too_long_is_found_again() {
    let (us, eu) = tokio::join!(FakeRegion::start("us"), FakeRegion::start("eu"));
    let model = pushed("m", &["us"]);
    for region in [&us, &eu] {
        region.apply(Command::OpenNamespace(model.clone()));
    }
    us.refuse(true);
    let running = Running::start(&us, &[&eu], |settings| {
        settings.push_queue_age_max_ms = 10;
    })
    .await;
    for number in 0..20 {
        eu.apply(put(&model, number, 10));
    }
    until("the feed was read again to mend", || {
        eu.begun.lock().unwrap().0 > 1
    })
    .await;
    us.refuse(false);
    until("all are there", || has_all(&us, &model, 0..20)).await;
    running.end().await;
}

#[tokio::test]
async fn what_was_deleted_is_not_brought_back() {
    let (us, eu) = tokio::join!(FakeRegion::start("us"), FakeRegion::start("eu"));
    let model = pushed("m", &["us"]);
    for region in [&us, &eu] {
        region.apply(Command::OpenNamespace(model.clone()));
    }
    for number in 0..10 {
        eu.apply(put(&model, number, 10));
    }
    // The other region has not heard of it.
    us.apply(Command::Delete(deletion(&model, &[3, 4], 20)));
    let running = Running::start(&us, &[&eu], |_| {}).await;
    let live = || (0..10).filter(|number| ![3, 4].contains(number));
    until("the others are there", || has_all(&us, &model, live())).await;
    let Deletion { keys, .. } = deletion(&model, &[5], 20);
    let (position, _) = eu.apply(Command::Delete(Deletion {
        namespace: model.id,
        keys,
        hlc: Hlc(20),
    }));
    eu.apply(put(&model, 11, 30));
    until("a later one is there", || has(&us, &model, 11)).await;
    until("the delete is there", || {
        us.stands_at("eu").is_some_and(|at| at.covers(&position))
    })
    .await;
    assert!([3, 4, 5].iter().all(|number| !has(&us, &model, *number)));
    running.end().await;
}

#[tokio::test]
async fn a_peer_that_was_away_is_caught_up_with() {
    let (us, eu) = tokio::join!(FakeRegion::start("us"), FakeRegion::start("eu"));
    let model = pushed("m", &["us"]);
    eu.apply(Command::OpenNamespace(model.clone()));
    eu.apply(put(&model, 0, 10));
    let running = Running::start(&us, &[&eu], |_| {}).await;
    until("the first is there", || has(&us, &model, 0)).await;
    let port = eu.address.port();
    eu.end();
    let again = FakeRegion::start_on("eu", port).await;
    again.apply(Command::OpenNamespace(model.clone()));
    us.sources.lock().unwrap().push(Arc::clone(&again));
    us.sources.lock().unwrap().rotate_right(1);
    for number in 0..30 {
        again.apply(put(&model, number, 10));
    }
    until("all are there", || has_all(&us, &model, 0..30)).await;
    running.end().await;
}

#[tokio::test]
async fn a_policy_that_begins_to_push_brings_what_was_there_before() {
    let (us, eu) = tokio::join!(FakeRegion::start("us"), FakeRegion::start("eu"));
    let model = namespace("m");
    eu.apply(Command::OpenNamespace(model.clone()));
    for number in 0..20 {
        eu.apply(put(&model, number, 10));
    }
    let running = Running::start(&us, &[&eu], |_| {}).await;
    until("the namespace is known", || {
        us.state.lock().unwrap().namespace(model.id).is_some()
    })
    .await;
    assert_eq!(blocks(&us), 0);
    let changed = |policy: Policy, hlc| Namespace {
        policy,
        policy_hlc: Hlc(hlc),
        ..model.clone()
    };
    eu.apply(Command::OpenNamespace(changed(
        pushed("m", &["us"]).policy,
        100,
    )));
    until("all are there", || has_all(&us, &model, 0..20)).await;
    // And one that ends brings no more.
    let (position, _) = eu.apply(Command::OpenNamespace(changed(Policy::default(), 200)));
    until("the change is there", || {
        us.stands_at("eu").is_some_and(|at| at.covers(&position))
    })
    .await;
    let calls = us.brought.lock().unwrap().len();
    eu.apply(put(&model, 30, 10));
    let (last, _) = eu.apply(Command::Delete(deletion(&model, &[99], 5)));
    until("the feed went on", || {
        us.stands_at("eu").is_some_and(|at| at.covers(&last))
    })
    .await;
    assert_eq!(us.brought.lock().unwrap().len(), calls);
    running.end().await;
}

#[tokio::test]
async fn a_namespace_stays_within_its_residency_whatever_its_policy_says() {
    let (us, eu) = tokio::join!(FakeRegion::start("us"), FakeRegion::start("eu"));
    let mut bound = pushed("bound", &["us"]);
    bound.description.residency = regions(&["eu"]);
    bound.id = bound.description.id();
    let free = pushed("free", &["us"]);
    for namespace in [&bound, &free] {
        eu.apply(Command::OpenNamespace(namespace.clone()));
        for number in 0..5 {
            eu.apply(put(namespace, number, 10));
        }
    }
    let running = Running::start(&us, &[&eu], |_| {}).await;
    until("the free one is there", || has_all(&us, &free, 0..5)).await;
    assert_eq!(blocks(&us), 5);
    assert!(us.state.lock().unwrap().namespace(bound.id).is_none());
    assert_eq!(us.brought.lock().unwrap().iter().sum::<usize>(), 5);
    running.end().await;
}

#[tokio::test]
async fn what_there_was_no_time_for_is_not_given_up() {
    let (us, eu) = tokio::join!(FakeRegion::start("us"), FakeRegion::start("eu"));
    let model = pushed("m", &["us"]);
    eu.apply(Command::OpenNamespace(model.clone()));
    // Oftener than a block is tried that does not come.
    us.late.store(5, Ordering::Relaxed);
    let running = Running::start(&us, &[&eu], |_| {}).await;
    eu.apply(put(&model, 0, 10));
    until("it is brought", || has(&us, &model, 0)).await;
    assert_eq!(us.brought.lock().unwrap().len(), 6);
    running.end().await;
}
