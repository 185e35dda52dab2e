//! Clients of other regions, known by their certificates: what a gateway that serves them says of
//! namespaces that may not be where they are is what it says of namespaces that are nowhere.

use bytes::Bytes;
use futures::stream;
use kvmesh_client::{ToWire, channel::Channel};
use kvmesh_directory::{BlockName, Description, Namespace};
use kvmesh_proto::v1::{self as wire, cache_client::CacheClient, put_request::Frame};
use tonic::{Code, Request, Response, Status, Streaming};

use crate::fakes::start::{World, block, chain, description, hash};

const GUEST: &str = "spiffe://m/region/eu-west/client/c";

fn residing(world: &World, regions: &[&str]) -> Namespace {
    let description = Description {
        residency: regions.iter().map(|name| name.parse().unwrap()).collect(),
        ..description()
    };
    Namespace {
        id: description.id(),
        name: "hidden".to_owned(),
        description,
        ..world.namespace.clone()
    }
}

/// A world with a gateway that clients of `eu-west` call.
async fn served(clients_of: &[&str]) -> (World, CacheClient<Channel>) {
    let clients_of = clients_of.iter().map(|&name| name.to_owned()).collect();
    let world = World::start(1, |settings| settings.clients_of = clients_of).await;
    let guest = world.gateway_asked_by(GUEST).await;
    (world, guest)
}

/// The first thing that a call says.
async fn first<T: std::fmt::Debug>(
    called: Result<Response<Streaming<T>>, Status>,
) -> Result<String, Status> {
    let said = called?.into_inner().message().await?;
    Ok(format!("{said:?}"))
}

fn only<T: std::fmt::Debug>(called: Result<Response<T>, Status>) -> Result<String, Status> {
    Ok(format!("{:?}", called?.into_inner()))
}

/// Every call that names a namespace, and what came of it.
async fn all(
    client: &CacheClient<Channel>,
    namespace: &Namespace,
    lease: &Bytes,
) -> Vec<(&'static str, Result<String, Status>)> {
    let id = || namespace.id.to_wire();
    let client = || client.clone();
    let query = || wire::ChainQuery {
        chain: Some(chain(1)),
        ..Default::default()
    };
    let get = || wire::GetRequest {
        namespace_id: id(),
        chain: Some(chain(1)),
        ..Default::default()
    };
    // What is wrong with it says something of the namespace.
    let other_part = wire::GetRequest {
        parts: vec![wire::Part { shard: 9, group: 9 }],
        ..get()
    };
    let lookup = |hold_ms| wire::LookupRequest {
        namespace_id: id(),
        chains: vec![query()],
        hold_ms,
        ..Default::default()
    };
    let leases = |chains, renew, release| wire::LeaseRequest {
        namespace_id: id(),
        chains,
        renew,
        release,
        ..Default::default()
    };
    let none = Bytes::new;
    let locate = wire::LocateRequest {
        namespace_id: id(),
        chain: Some(chain(1)),
        ring_known: Some(0),
        ..Default::default()
    };
    let prefetch = wire::PrefetchRequest {
        namespace_id: id(),
        chains: vec![query()],
        ..Default::default()
    };
    let watch = wire::WatchRequest {
        namespace_id: id(),
        ..Default::default()
    };
    let report = wire::ReportRequest {
        namespace_id: id(),
        ..Default::default()
    };
    let delete = wire::DeleteRequest {
        namespace_id: id(),
        chain: Some(chain(1)),
        ..Default::default()
    };
    vec![
        ("lookup", only(client().lookup(lookup(0)).await)),
        (
            "lookup and hold",
            only(client().lookup(lookup(1_000)).await),
        ),
        ("get", first(client().get(get()).await).await),
        (
            "get of no part",
            first(client().get(other_part).await).await,
        ),
        ("put", put(client(), namespace).await),
        ("locate", only(client().locate(locate).await)),
        ("prefetch", first(client().prefetch(prefetch).await).await),
        (
            "lease",
            only(client().lease(leases(vec![query()], none(), none())).await),
        ),
        (
            "renew",
            only(
                client()
                    .lease(leases(Vec::new(), lease.clone(), none()))
                    .await,
            ),
        ),
        (
            "release",
            only(
                client()
                    .lease(leases(Vec::new(), none(), lease.clone()))
                    .await,
            ),
        ),
        ("watch", first(client().watch(watch).await).await),
        ("report", only(client().report(report).await)),
        ("delete", only(client().delete(delete).await)),
    ]
}

/// Offers block 0.
async fn put(mut client: CacheClient<Channel>, namespace: &Namespace) -> Result<String, Status> {
    let open = wire::PutOpen {
        namespace_id: namespace.id.to_wire(),
        ..Default::default()
    };
    let mut meta = block(0, 900).meta;
    meta.put_hlc = kvmesh_directory::Hlc(0);
    let offer = wire::PutOffer {
        id: 1,
        hash: hash(0).into(),
        meta: Some(meta.to_wire()),
        ..Default::default()
    };
    let frames = [Frame::Open(open), Frame::Offer(offer)];
    let messages = frames.map(|frame| wire::PutRequest { frame: Some(frame) });
    first(client.put(Request::new(stream::iter(messages))).await).await
}

fn open(description: &Description, name: &str) -> wire::OpenRequest {
    wire::OpenRequest {
        description: Some(description.to_wire()),
        name: name.to_owned(),
        ..Default::default()
    }
}

#[tokio::test]
async fn a_namespace_that_may_not_be_where_a_client_is_is_none_for_it() {
    let (world, guest) = served(&["eu-west"]).await;
    let hidden = residing(&world, &["us-east"]);
    let nowhere = residing(&world, &["ap-south", "us-east"]);
    world.region.open(hidden.clone());
    let name = BlockName {
        namespace: hidden.id,
        ..world.name(0, 0)
    };
    world.nodes[0].keep(name, block(0, 900));
    world.region.claim(name, &block(0, 900).meta, &[1]);
    world.place(0, 900, &[1]);
    world.catch_up().await;
    world
        .shows(&guest, &world.region.state().position().unwrap())
        .await;
    let held = wire::LookupRequest {
        namespace_id: hidden.id.to_wire(),
        chains: vec![wire::ChainQuery {
            chain: Some(chain(1)),
            ..Default::default()
        }],
        hold_ms: 60_000,
        ..Default::default()
    };
    let held = world
        .client
        .clone()
        .lookup(held)
        .await
        .unwrap()
        .into_inner();
    assert_eq!(held.matches[0].leased_blocks, 1, "{held:?}");

    let of_hidden = all(&guest, &hidden, &held.lease).await;
    let of_nowhere = all(&guest, &nowhere, &held.lease).await;
    let words = |status: &Status, namespace: &Namespace| {
        let id = namespace.id.to_string();
        let details = String::from_utf8_lossy(status.details()).replace(&id, "ID");
        (status.message().replace(&id, "ID"), details)
    };
    for ((call, hidden_one), (_, unknown)) in of_hidden.iter().zip(&of_nowhere) {
        let (hidden_one, unknown) = (hidden_one.as_ref().unwrap_err(), unknown.as_ref());
        let unknown = unknown.unwrap_err();
        assert_eq!(hidden_one.code(), Code::NotFound, "{call}: {hidden_one:?}");
        assert_eq!(
            words(hidden_one, &hidden),
            words(unknown, &nowhere),
            "{call}"
        );
    }
    assert_eq!(
        world.nodes[0].asked.lock().unwrap().len(),
        0,
        "a node was asked"
    );
    // Whoever is here may all of it, and others all of what they may see.
    let near = all(&world.client, &hidden, &held.lease).await;
    let visible = all(&guest, &world.namespace, &held.lease).await;
    for (whose, answers) in [("near", near), ("visible", visible)] {
        for (call, answer) in answers {
            let refused = answer.err().map(|status| status.code());
            let want = match (whose, call) {
                (_, "get of no part") => Some(Code::InvalidArgument),
                // The lease is of the other namespace.
                ("visible", "renew") => Some(Code::NotFound),
                _ => None,
            };
            assert_eq!(refused, want, "{whose}: {call}");
        }
    }
}

#[tokio::test]
async fn opening_tells_a_client_of_another_region_nothing_either() {
    let (world, mut guest) = served(&["eu-west"]).await;
    let hidden = residing(&world, &["us-east"]);
    world.region.open(hidden.clone());
    world.catch_up().await;
    world
        .shows(&guest, &world.region.state().position().unwrap())
        .await;
    // Open, or only described: it is the same.
    for regions in [&["us-east"][..], &["ap-south", "us-east"]] {
        let description = residing(&world, regions).description;
        let refused = guest.open(open(&description, "")).await.unwrap_err();
        assert_eq!(refused.code(), Code::PermissionDenied);
        assert!(refused.message().contains("eu-west"), "{refused:?}");
    }
    let both = residing(&world, &["eu-west", "us-east"]).description;
    let refused = world.client.clone().open(open(&both, "hidden")).await;
    assert_eq!(refused.unwrap_err().code(), Code::FailedPrecondition);
    // That the name is taken is not for it to know; of what it may see it is told.
    let refused = guest.open(open(&both, "n")).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused:?}");
    let all = residing(&world, &["ap-south", "eu-west", "us-east"]).description;
    for (description, name) in [(&both, "hidden"), (&all, "free")] {
        let opened = guest.open(open(description, name)).await.unwrap();
        let opened = opened.into_inner();
        let id = description.id();
        let namespace = opened.namespace.unwrap();
        assert_eq!(namespace.id, id.to_wire());
        assert_eq!(namespace.name, id.to_string()[..12]);
        assert_eq!(opened.ring_epoch, 0, "nodes are not for it");
    }
    let known = guest.open(open(&world.namespace.description, "else")).await;
    assert_eq!(known.unwrap().into_inner().namespace.unwrap().name, "n");
    let near = world.client.clone().open(open(&both, "")).await.unwrap();
    assert!(near.into_inner().ring_epoch > 0);
}

#[tokio::test]
async fn a_client_of_another_region_is_not_told_of_nodes() {
    let (world, mut guest) = served(&["eu-west"]).await;
    world.place(0, 900, &[1]);
    world.catch_up().await;
    world
        .shows(&guest, &world.region.state().position().unwrap())
        .await;
    let locate = |ring_epoch| wire::LocateRequest {
        namespace_id: world.namespace.id.to_wire(),
        chain: Some(chain(2)),
        ring_epoch,
        ring_known: Some(0),
        ..Default::default()
    };
    let near = world.client.clone().locate(locate(0)).await.unwrap();
    assert!(!near.into_inner().nodes.is_empty());
    // Nor of the epoch, by naming others.
    for epoch in [0, 1, 99] {
        let located = guest.locate(locate(epoch)).await.unwrap().into_inner();
        let nowhere = wire::LocateResponse {
            blocks: vec![wire::BlockOwners::default(); 2],
            ..Default::default()
        };
        assert_eq!(located, nowhere);
    }
}

#[tokio::test]
async fn clients_of_regions_that_are_not_named_are_refused() {
    for named in [&[][..], &["ap-south"]] {
        let (world, guest) = served(named).await;
        let open = open(&world.namespace.description, "");
        let mut answers = all(&guest, &world.namespace, &Bytes::from_static(b"x")).await;
        answers.push(("open", only(guest.clone().open(open).await)));
        for (call, answer) in answers {
            let refused = answer.unwrap_err();
            assert_eq!(
                refused.code(),
                Code::PermissionDenied,
                "{call}: {refused:?}"
            );
            assert!(refused.message().contains("clients_of"), "{refused:?}");
        }
    }
}
