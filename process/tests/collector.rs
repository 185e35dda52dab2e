//! A collector of traces that does not answer: calls and the end of a process do not wait for it.
#![allow(clippy::unwrap_used, reason = "a test ends with the first surprise")]

use std::{sync::Arc, time::Duration};

use kvmesh_client::channel::{Channel, Channels, TcpConnect};
use kvmesh_process::{
    Environment, server,
    telemetry::{self, SPANS, TraceSettings, Traces},
};
use tokio::{
    net::TcpListener,
    time::{interval, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use tracing::info_span;

const BOUND: Duration = Duration::from_secs(60);
/// Three times what may wait.
const SPANS_MADE: usize = 3 * 4_096;
const CALLS: usize = 50;

/// The value of a metric with these labels, as a scraper sees it.
fn metric(name: &str, labels: &[&str]) -> f64 {
    let page = telemetry::render().unwrap();
    let has = |line: &&str| line.starts_with(name) && labels.iter().all(|it| line.contains(it));
    let line = page.lines().find(has);
    line.map_or(0.0, |line| {
        line.rsplit(' ').next().unwrap().parse().unwrap()
    })
}

fn spans(outcome: &str) -> f64 {
    metric(
        "kvmesh_trace_spans_total{",
        &[&format!("outcome=\"{outcome}\"")],
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_that_never_answers_holds_up_neither_calls_nor_the_end() {
    telemetry::record().unwrap();
    // It takes connections, and never says anything.
    let collector = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let settings = TraceSettings {
        endpoint: format!("http://{}", collector.local_addr().unwrap()),
        ratio: 1.0,
    };
    let traces = Traces::start(&settings, "test", "e/test").unwrap();
    telemetry::logs_and_traces("error", &traces).unwrap();

    let made = tokio::task::spawn_blocking(|| {
        (0..SPANS_MADE).for_each(|_| drop(info_span!(target: SPANS, "work")));
    });
    timeout(BOUND, made).await.expect("a span waits").unwrap();
    let dropped = spans("dropped");
    assert!(
        dropped >= (SPANS_MADE - 2 * 4_096) as f64,
        "{dropped} dropped"
    );

    // Calls are traced as well, and answered.
    let (address, incoming) = server::listen(([127, 0, 0, 1], 0).into()).await.unwrap();
    let stop = CancellationToken::new();
    let serving = server::serve(
        server::Routes::default(),
        Environment::real("e/test"),
        incoming,
        stop.clone(),
        Duration::ZERO,
    );
    TaskTracker::new().spawn(async { serving.await.unwrap() });
    let channels = Channels::new(Arc::new(TcpConnect));
    let mut health = HealthClient::new(channels.to(&address.to_string()).unwrap());
    call(&mut health).await;
    // What the collector does not take in its time is lost, and counted.
    until(|| spans("failed") > 0.0).await;

    // From now on nobody is there at all.
    drop(collector);
    let failed = spans("failed");
    call(&mut health).await;
    until(|| spans("failed") > failed).await;
    assert_eq!(spans("sent"), 0.0);
    stop.cancel();
    timeout(BOUND, traces.flush()).await.expect("the end waits");
}

async fn call(health: &mut HealthClient<Channel>) {
    let calling = async {
        for _ in 0..CALLS {
            health.check(HealthCheckRequest::default()).await.unwrap();
        }
    };
    timeout(BOUND, calling).await.expect("a call waits");
}

async fn until(holds: impl Fn() -> bool) {
    let waiting = async {
        let mut ticks = interval(Duration::from_millis(20));
        while !holds() {
            ticks.tick().await;
        }
    };
    timeout(BOUND, waiting).await.expect("it does not come");
}

#[tokio::test]
async fn calls_and_connections_are_counted() {
    telemetry::record().unwrap();
    let (address, incoming) = server::listen(([127, 0, 0, 1], 0).into()).await.unwrap();
    let stop = CancellationToken::new();
    let serving = server::serve(
        server::Routes::default(),
        Environment::real("e/counted"),
        incoming,
        stop.clone(),
        Duration::ZERO,
    );
    let tasks = TaskTracker::new();
    tasks.spawn(async { serving.await.unwrap() });
    tasks.close();
    let channels = Channels::new(Arc::new(TcpConnect));
    let channel = channels.to(&address.to_string()).unwrap();
    let mut health = HealthClient::new(channel.clone());
    for _ in 0..3 {
        health.check(HealthCheckRequest::default()).await.unwrap();
    }
    let mut topology = kvmesh_proto::v1::topology_client::TopologyClient::new(channel);
    let show = topology.show(kvmesh_proto::v1::ShowRequest {}).await;
    show.unwrap_err();
    let own = "instance=\"e/counted\"";
    let ended = |labels: &[&str]| {
        let labels = [&[own], labels].concat();
        let seconds = metric("kvmesh_rpc_seconds_count{", &labels[..labels.len() - 1]);
        (metric("kvmesh_rpc_requests_total{", &labels), seconds)
    };
    let all = || {
        let other = ended(&["service=\"other\"", "method=\"other\"", "code=\"Ok\""]);
        let show = ended(&[
            "service=\"Topology\"",
            "method=\"Show\"",
            "code=\"Unimplemented\"",
        ]);
        (other, show, metric("kvmesh_connections{", &[own]))
    };
    until(|| all() == ((3.0, 3.0), (1.0, 1.0), 1.0)).await;
    assert_eq!(metric("kvmesh_connections_refused_total{", &[own]), 0.0);
    stop.cancel();
    timeout(BOUND, tasks.wait()).await.unwrap();
    assert_eq!(metric("kvmesh_connections{", &[own]), 0.0, "closed");
}
