//! Leases through gateways (invariant 9): who is asked, what is held, and who may end it.

use std::{collections::BTreeSet, sync::atomic::Ordering, time::Duration};

use crate::fakes::{
    Mood,
    start::{World, chain, until},
};
use bytes::Bytes;
use kvmesh_client::{ToWire, channel::Channel, status};
use kvmesh_directory::{BlockName, Namespace};
use kvmesh_proto::v1::{self as wire, cache_client::CacheClient};
use tokio::time::timeout;
use tonic::{Code, Status};

const PATIENCE: Duration = Duration::from_secs(15);
const HOLD_MS: u32 = 60_000;

fn query(blocks: u32) -> wire::ChainQuery {
    wire::ChainQuery {
        chain: Some(chain(blocks)),
        ..Default::default()
    }
}

/// Two nodes that both hold blocks 0 to 5.
async fn world() -> World {
    world_with(|_| {}).await
}

async fn world_with(change: impl FnOnce(&mut kvmesh_gateway::Settings)) -> World {
    let world = World::start(2, change).await;
    for index in 0..6 {
        world.place(index, 900, &[1, 2]);
    }
    world.catch_up().await;
    world
}

async fn look_up(world: &World, blocks: u32, hold_ms: u32) -> Result<wire::LookupResponse, Status> {
    let request = wire::LookupRequest {
        namespace_id: world.namespace.id.to_wire(),
        chains: vec![query(blocks)],
        hold_ms,
        ..Default::default()
    };
    let mut client = world.client.clone();
    let answer = timeout(PATIENCE, client.lookup(request)).await.unwrap()?;
    Ok(answer.into_inner())
}

async fn lease_at(
    mut gateway: CacheClient<Channel>,
    world: &World,
    change: impl FnOnce(&mut wire::LeaseRequest),
) -> Result<wire::LeaseResponse, Status> {
    let mut request = wire::LeaseRequest {
        namespace_id: world.namespace.id.to_wire(),
        ..Default::default()
    };
    change(&mut request);
    let answer = timeout(PATIENCE, gateway.lease(request)).await.unwrap()?;
    Ok(answer.into_inner())
}

async fn lease(
    world: &World,
    change: impl FnOnce(&mut wire::LeaseRequest),
) -> Result<wire::LeaseResponse, Status> {
    lease_at(world.client.clone(), world, change).await
}

/// What each node has leased.
fn leased(world: &World) -> Vec<BTreeSet<BlockName>> {
    let nodes = world.nodes.iter();
    nodes.map(|node| node.leases.names()).collect()
}

fn lease_calls(world: &World) -> Vec<usize> {
    let nodes = world.nodes.iter();
    nodes
        .map(|node| node.leases.calls.load(Ordering::SeqCst))
        .collect()
}

#[tokio::test]
async fn a_held_run_is_leased_once_each_and_any_gateway_renews_and_ends_it() {
    let world = world().await;
    let second = world.another_gateway().await;
    world.nodes[1]
        .leases
        .hold_ms
        .store(20_000, Ordering::SeqCst);
    let found = look_up(&world, 8, HOLD_MS).await.unwrap();
    let matched = &found.matches[0];
    assert_eq!((matched.local_blocks, matched.leased_blocks), (6, 6));
    let of = leased(&world);
    let all: BTreeSet<BlockName> = (0..6).map(|index| world.name(index, 0)).collect();
    assert_eq!(&of[0] | &of[1], all);
    assert!(of[0].is_disjoint(&of[1]), "one holder of each is enough");
    assert!(lease_calls(&world).iter().all(|calls| *calls <= 1));
    let shortest = if of[1].is_empty() { HOLD_MS } else { 20_000 };
    assert_eq!(found.lease_ms, shortest);

    let id = found.lease.clone();
    let renewed = lease_at(second.clone(), &world, |it| {
        (it.renew, it.hold_ms) = (id.clone(), 10_000);
    });
    let renewed = renewed.await.unwrap();
    let got = (renewed.blocks, renewed.hold_ms, renewed.partial);
    assert_eq!((got, renewed.lease), ((6, 10_000, false), id.clone()));
    // Another namespace does not learn that there is such a lease.
    let mut description = world.namespace.description.clone();
    description.model = "other".to_owned();
    let other = Namespace {
        id: description.id(),
        name: "other".to_owned(),
        description,
        ..world.namespace.clone()
    };
    world.region.open(other.clone());
    world.catch_up().await;
    let theirs = |renew: Bytes| {
        let namespace_id = other.id.to_wire();
        lease(&world, move |it| {
            (it.namespace_id, it.renew) = (namespace_id, renew)
        })
    };
    let known = theirs(id.clone()).await.unwrap_err();
    assert_eq!(known.code(), Code::NotFound, "{known}");
    let mut unknown = id.to_vec();
    unknown[5] ^= 1;
    assert_eq!(
        theirs(unknown.into()).await.unwrap_err().message(),
        known.message()
    );

    let ended = lease_at(second, &world, |it| it.release = id.clone()).await;
    assert_eq!(ended.unwrap().blocks, 6);
    assert_eq!(leased(&world), [BTreeSet::new(), BTreeSet::new()]);
    let again = lease(&world, |it| it.release = id.clone()).await.unwrap();
    assert_eq!(again.blocks, 0, "that it has ended is no error");
    let gone = lease(&world, |it| it.renew = id).await.unwrap_err();
    assert_eq!(gone.code(), Code::NotFound);
}

#[tokio::test]
async fn without_a_hold_no_call_leaves_the_gateway() {
    let world = world().await;
    let found = look_up(&world, 6, 0).await.unwrap();
    assert_eq!(found.matches[0].local_blocks, 6);
    assert!(found.lease.is_empty());
    assert_eq!(lease_calls(&world), [0, 0]);
    // Nor is anything leased where nothing is.
    let none = lease(&world, |it| {
        it.chains = vec![wire::ChainQuery {
            start: 6,
            ..query(8)
        }];
    });
    let none = none.await.unwrap();
    assert_eq!((none.lease.len(), none.blocks, none.runs), (0, 0, vec![0]));
    assert_eq!(lease_calls(&world), [0, 0]);
}

#[tokio::test]
async fn the_next_holder_is_asked_and_what_nobody_leases_cuts_the_run() {
    let world = world().await;
    world.place(6, 900, &[1]);
    world.place(7, 900, &[1, 2]);
    world.catch_up().await;
    world.nodes[0].be(Mood::Forgetful);
    let found = look_up(&world, 8, HOLD_MS).await.unwrap();
    let matched = &found.matches[0];
    assert_eq!((matched.local_blocks, matched.leased_blocks), (8, 6));
    assert_eq!(
        leased(&world)[1].len(),
        7,
        "block 7 as well, behind the cut"
    );
    let renewed = lease(&world, |it| it.renew = found.lease.clone())
        .await
        .unwrap();
    assert_eq!((renewed.blocks, renewed.partial), (7, false));
    // A node that has lost it is told of, the others go on.
    world.nodes[0].be(Mood::Fine);
    let found = look_up(&world, 7, HOLD_MS).await.unwrap();
    assert_eq!(found.matches[0].leased_blocks, 7);
    world.nodes[0].leases.open.lock().unwrap().clear();
    let renewed = lease(&world, |it| it.renew = found.lease.clone())
        .await
        .unwrap();
    assert!(renewed.partial);
    assert!(renewed.blocks < 7);
}

#[tokio::test]
async fn a_silent_holder_is_passed_over_in_time() {
    let world = world().await;
    world.nodes[0].be(Mood::Silent);
    let found = look_up(&world, 6, HOLD_MS).await.unwrap();
    assert_eq!(found.matches[0].leased_blocks, 6);
    let renewed = lease(&world, |it| it.renew = found.lease.clone())
        .await
        .unwrap();
    assert_eq!((renewed.blocks, renewed.partial), (6, false));
    world.nodes[1].be(Mood::Silent);
    let found = look_up(&world, 6, HOLD_MS).await.unwrap();
    let matched = &found.matches[0];
    assert_eq!((matched.local_blocks, matched.leased_blocks), (6, 0));
    assert!(found.lease.is_empty(), "the lookup itself is answered");
}

#[tokio::test]
async fn a_limit_is_named_when_nothing_is_left_and_else_cuts_the_run() {
    let world = world().await;
    for node in &world.nodes {
        node.leases.max.store(2, Ordering::SeqCst);
    }
    let some = lease(&world, |it| it.chains = vec![query(6)])
        .await
        .unwrap();
    assert_eq!(some.blocks, 4, "two at each");
    assert!(some.runs[0] >= 2 && some.runs[0] <= 4, "{:?}", some.runs);
    let ask_again = |hold_ms| look_up(&world, 6, hold_ms);
    let refused = ask_again(HOLD_MS).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert!(refused.message().contains("leased here"), "{refused}");
    assert!(status::retry_after(&refused).is_some());
    assert_eq!(ask_again(0).await.unwrap().matches[0].local_blocks, 6);
    lease(&world, |it| it.release = some.lease.clone())
        .await
        .unwrap();
    assert!(ask_again(HOLD_MS).await.is_ok());
}

#[tokio::test]
async fn what_a_caller_that_left_had_leased_is_released() {
    let world = world_with(|settings| settings.owner_timeout_ms = 10_000).await;
    world.nodes[1].be(Mood::Silent);
    let request = wire::LeaseRequest {
        namespace_id: world.namespace.id.to_wire(),
        chains: vec![query(6)],
        hold_ms: HOLD_MS,
        ..Default::default()
    };
    let mut client = world.client.clone();
    {
        let asked = client.lease(request);
        tokio::pin!(asked);
        let granted = until(|| !leased(&world)[0].is_empty() && lease_calls(&world)[1] > 0);
        tokio::select! {
            answer = &mut asked => panic!("answered before the silent node was given up: {answer:?}"),
            () = granted => {}
        }
    }
    until(|| leased(&world)[0].is_empty()).await;
}

#[tokio::test]
async fn chains_that_share_blocks_lease_them_once_and_what_cannot_be_is_refused() {
    let world = world().await;
    let both = lease(&world, |it| {
        it.chains = vec![
            query(4),
            wire::ChainQuery {
                start: 2,
                ..query(8)
            },
        ];
    });
    let both = both.await.unwrap();
    assert_eq!(
        (both.blocks, both.runs, both.hold_ms),
        (6, vec![4, 4], 30_000)
    );
    let named = both.lease;
    let behind = lease(&world, |it| {
        let mut position = world.region.state().position().unwrap();
        position.index += 5;
        (it.chains, it.at_least) = (vec![query(4)], vec![position.to_wire()]);
    });
    let behind = behind.await.unwrap();
    assert!(behind.view_behind && behind.lease.is_empty());

    type Spoil = fn(&mut wire::LeaseRequest, &Bytes);
    let wrong: [Spoil; 6] = [
        |_, _| {},
        |it, named| (it.renew, it.release) = (named.clone(), named.clone()),
        |it, named| (it.chains, it.renew) = (vec![query(4)], named.clone()),
        |it, named| it.renew = named.slice(..named.len() - 1),
        |it, named| it.id = named.clone(),
        |it, _| it.keys = vec![wire::BlockKey::default()],
    ];
    for (at, spoil) in wrong.into_iter().enumerate() {
        let refused = lease(&world, |it| spoil(it, &named)).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{at}: {refused}");
    }
}
