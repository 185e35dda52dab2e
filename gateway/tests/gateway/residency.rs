//! Namespaces that may be in some regions only: what a gateway tells others, and whom it asks.

use std::sync::atomic::Ordering;

use kvmesh_client::ToWire;
use kvmesh_directory::{BlockName, Description, Namespace};
use kvmesh_proto::v1::{self as wire, GetOutcome};
use tonic::Code;

use crate::fakes::start::{World, block, chain, description, places};

fn residing(world: &World, regions: &[&str]) -> Namespace {
    let description = Description {
        residency: regions.iter().map(|name| name.parse().unwrap()).collect(),
        ..description()
    };
    Namespace {
        id: description.id(),
        name: regions.join("-"),
        description,
        ..world.namespace.clone()
    }
}

fn name(world: &World, namespace: &Namespace, index: u32) -> BlockName {
    BlockName {
        namespace: namespace.id,
        ..world.name(index, 0)
    }
}

fn get(namespace: &Namespace, blocks: u32) -> wire::GetRequest {
    wire::GetRequest {
        namespace_id: namespace.id.to_wire(),
        chain: Some(chain(blocks)),
        ..Default::default()
    }
}

#[tokio::test]
async fn only_a_region_of_the_residency_is_answered_from_afar() {
    let world = World::start(1, |_| {}).await;
    let namespace = residing(&world, &["eu-west", "us-east"]);
    world.region.open(namespace.clone());
    let name = name(&world, &namespace, 0);
    world.nodes[0].keep(name, block(0, 900));
    world.region.claim(name, &block(0, 900).meta, &[1]);
    world.catch_up().await;
    for (hop, from, served) in [
        (1, "eu-west", true),
        (1, "ap-south", false),
        // Who does not say where it is has no right to it.
        (1, "", false),
        (0, "ap-south", false),
        (0, "", true),
    ] {
        let request = wire::GetRequest {
            hop,
            from_region: from.to_owned(),
            ..get(&namespace, 1)
        };
        if served {
            assert_eq!(places(&world.get(request).await.0), [0], "hop {hop} {from}");
            continue;
        }
        let status = world.client.clone().get(request).await.unwrap_err();
        assert_eq!(
            status.code(),
            Code::NotFound,
            "hop {hop} {from}: {status:?}"
        );
    }
}

#[tokio::test]
async fn a_region_outside_is_neither_asked_nor_spoken_of() {
    let world = World::start(1, |_| {}).await;
    let namespace = residing(&world, &["eu-west", "us-east"]);
    world.region.open(namespace.clone());
    // By a tag of another name, or by a lie: the view says that all of them have it.
    let names: Vec<_> = (0..2)
        .map(|index| (name(&world, &namespace, index), 900))
        .collect();
    let (outside, address) = world.another_far("ap-south").await;
    for (index, (name, _)) in names.iter().enumerate() {
        outside.keep(*name, block(index as u32, 900));
    }
    world.mesh.link("ap-south", 10.0, &[address]);
    let at = world.mesh.has("ap-south", 1, &names);
    world.catch_up().await;
    world.reach(at).await;
    let (got, summary) = world.get(get(&namespace, 2)).await;
    assert!(got.is_empty());
    assert_eq!(summary.outcome(), GetOutcome::Miss);
    assert!(
        !summary.local_only && summary.left_out.is_empty(),
        "{summary:?}"
    );
    let lookup = wire::LookupRequest {
        namespace_id: namespace.id.to_wire(),
        chains: vec![wire::ChainQuery {
            chain: Some(chain(2)),
            ..Default::default()
        }],
        ..Default::default()
    };
    let answer = world
        .client
        .clone()
        .lookup(lookup)
        .await
        .unwrap()
        .into_inner();
    assert!(answer.matches[0].remote.is_empty() && answer.left_out.is_empty());
    let prefetch = wire::PrefetchRequest {
        namespace_id: namespace.id.to_wire(),
        region: "ap-south".to_owned(),
        chains: vec![wire::ChainQuery {
            chain: Some(chain(2)),
            ..Default::default()
        }],
        ..Default::default()
    };
    let status = world.client.clone().prefetch(prefetch).await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied, "{status:?}");
    assert_eq!(outside.gets.load(Ordering::Relaxed), 0);

    // One of the residency is asked, and told who asks.
    for (index, (name, _)) in names.iter().enumerate() {
        world.far.keep(*name, block(index as u32, 900));
    }
    let far = std::slice::from_ref(&world.far_address);
    world.mesh.link("eu-west", 80.0, far);
    let at = world.mesh.has("eu-west", 1, &names);
    world.reach(at).await;
    let (got, _) = world.get(get(&namespace, 2)).await;
    assert_eq!(places(&got), [0, 1]);
    let asked = world.far.asked.lock().unwrap()[0].clone();
    assert_eq!((asked.hop, asked.from_region.as_str()), (1, "us-east"));
    assert_eq!(outside.gets.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn a_namespace_that_may_not_be_here_is_none_whatever_the_log_says() {
    let world = World::start(1, |_| {}).await;
    let namespace = residing(&world, &["eu-west"]);
    world.region.open(namespace.clone());
    let name = name(&world, &namespace, 0);
    world.nodes[0].keep(name, block(0, 900));
    world.region.claim(name, &block(0, 900).meta, &[1]);
    world.catch_up().await;
    let mut client = world.client.clone();
    let id = || namespace.id.to_wire();
    let refusals = [
        client.get(get(&namespace, 1)).await.map(|_| ()),
        client
            .watch(wire::WatchRequest {
                namespace_id: id(),
                ..Default::default()
            })
            .await
            .map(|_| ()),
        client
            .locate(wire::LocateRequest {
                namespace_id: id(),
                chain: Some(chain(1)),
                ..Default::default()
            })
            .await
            .map(|_| ()),
        client
            .prefetch(wire::PrefetchRequest {
                namespace_id: id(),
                ..Default::default()
            })
            .await
            .map(|_| ()),
        client
            .lookup(wire::LookupRequest {
                namespace_id: id(),
                ..Default::default()
            })
            .await
            .map(|_| ()),
    ];
    for refused in refusals {
        assert_eq!(refused.unwrap_err().code(), Code::NotFound);
    }
}
