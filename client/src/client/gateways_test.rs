//! Calls leave a gateway that is lost, and come back by themselves.

use std::time::Duration;

use kvmesh_proto::v1 as wire;
use tokio::time::{Instant, interval, timeout};
use tonic::Status;

use crate::{
    client::{
        Client, GetOptions, GetOutcome, Opened, PutBlock, PutOptions, PutResult,
        fake_gateway_test::{self as fake, Gateway, LONG, block, chain, hash, opened, position},
    },
    convert::ToWire,
};

fn found(region: &str) -> wire::LookupResponse {
    let mut at = position(1).to_wire();
    at.region = region.to_owned();
    wire::LookupResponse {
        matches: vec![wire::ChainMatch::default()],
        position: Some(at),
        ..Default::default()
    }
}

/// Many lookups end well in a region.
fn lookups(gateway: &Gateway, region: &str) {
    gateway.with(|script| {
        let answers = std::iter::repeat_with(|| Ok(found(region))).take(10_000);
        script.lookups = answers.collect();
    });
}

/// Where a lookup is answered.
async fn look_up(namespace: &Opened) -> String {
    let answer = namespace.lookup(&[chain(1).into()], LONG).await.unwrap();
    answer.position.unwrap().region.to_string()
}

/// Waits until the next call would ask a gateway first; by real time.
async fn until_asked(client: &Client, gateway: &str) {
    let mut ticks = interval(Duration::from_millis(10));
    let asked = async {
        while client.gateway() != gateway {
            ticks.tick().await;
        }
    };
    timeout(LONG, asked).await.unwrap();
}

#[tokio::test]
async fn calls_come_back_to_the_preferred_gateway_when_it_serves_again() {
    let (net, [first, second], client) = fake::start_on_net(&["first:1", "second:1"]);
    lookups(&first, "home");
    lookups(&second, "away");
    let namespace = opened(&client);
    assert_eq!(look_up(&namespace).await, "home");
    net.cut("first:1");
    assert_eq!(look_up(&namespace).await, "away");
    assert_eq!(client.gateway(), "second:1");
    let asked = net.asked("first:1");
    for _ in 0..5 {
        assert_eq!(look_up(&namespace).await, "away");
    }
    net.mend("first:1");
    until_asked(&client, "first:1").await;
    assert_eq!(look_up(&namespace).await, "home");
    assert!(net.asked("first:1") > asked, "it was tried, by no call");
}

#[tokio::test]
async fn what_was_written_to_a_region_that_is_lost_is_not_waited_for_until_it_is_back() {
    let (net, [first, second], client) = fake::start_on_net(&["first:1", "second:1"]);
    lookups(&first, "eu-west");
    lookups(&second, "us-east");
    let namespace = opened(&client);
    namespace.delete(&chain(1), 0, 0, &[], LONG).await.unwrap();
    net.cut("first:1");
    assert_eq!(look_up(&namespace).await, "us-east");
    let asks = |gateway: &Gateway| {
        gateway.with(|script| script.asked_lookups.last().unwrap().at_least.clone())
    };
    assert_eq!(asks(&second), []);
    net.mend("first:1");
    until_asked(&client, "first:1").await;
    assert_eq!(look_up(&namespace).await, "eu-west");
    assert_eq!(asks(&first), [position(77).to_wire()]);
}

/// Real time: a paused clock does not wait for the streams in memory.
#[tokio::test]
async fn a_gateway_that_takes_calls_and_says_nothing_is_given_up() {
    let (net, [first, second], client) = fake::start_on_net(&["first:1", "second:1"]);
    lookups(&first, "home");
    let namespace = opened(&client);
    assert_eq!(look_up(&namespace).await, "home");
    net.freeze("first:1");
    lookups(&second, "away");
    second.with(|script| {
        let mut frames = fake::frames(0);
        frames.push(fake::summary(wire::GetOutcome::Complete));
        script.gets.push_back(Ok(frames));
    });
    let options = GetOptions {
        deadline: Some(LONG),
        ..GetOptions::default()
    };
    let (chain, blocks) = (chain(1), blocks(1));
    let options_of_put = PutOptions {
        deadline: Some(LONG),
        ..PutOptions::default()
    };
    let begun = Instant::now();
    let (looked_up, got, put) = tokio::join!(
        look_up(&namespace),
        namespace.get(&chain, options),
        namespace.put(&blocks, options_of_put),
    );
    assert_eq!(looked_up, "away");
    assert_eq!(got.unwrap().summary.outcome, GetOutcome::Complete);
    assert!(matches!(put.unwrap()[..], [PutResult::Acked(_)]));
    assert!(begun.elapsed() < LONG / 2, "{:?}", begun.elapsed());
    assert_eq!(client.gateway(), "second:1");
}

#[tokio::test]
async fn overload_sends_one_call_elsewhere_and_not_the_next_ones() {
    let (_, [first, second], client) = fake::start_on_net(&["first:1", "second:1"]);
    lookups(&first, "home");
    lookups(&second, "away");
    first.with(|script| {
        let busy = crate::Problem::Exhausted {
            limit: "calls_max".to_owned(),
            retry_after: Duration::from_millis(1),
        };
        script.lookups.push_front(Err(Status::from(busy)));
    });
    let namespace = opened(&client);
    assert_eq!(look_up(&namespace).await, "away");
    assert_eq!(look_up(&namespace).await, "home");
}

fn blocks(count: u8) -> Vec<PutBlock> {
    let put = |number| PutBlock {
        hash: hash(number),
        part: kvmesh_directory::Part::default(),
        block: block(number),
    };
    (0..count).map(put).collect()
}
