//! Prefetches, followed, left, joined again and ended.

use std::{sync::atomic::Ordering, time::Duration};

use crate::fakes::{
    Mood,
    start::{World, chain, places},
};
use kvmesh_client::{FromWire, ToWire};
use kvmesh_directory::{FeedPosition, Namespace, namespace::Fallback};
use kvmesh_proto::v1::{self as wire, GetOutcome, PrefetchEnd};
use tokio::time::timeout;
use tonic::{Code, Status, Streaming};

const PATIENCE: Duration = Duration::from_secs(15);

fn new(world: &World, blocks: u32) -> wire::PrefetchRequest {
    let query = wire::ChainQuery {
        chain: Some(chain(blocks)),
        ..Default::default()
    };
    wire::PrefetchRequest {
        namespace_id: world.namespace.id.to_wire(),
        chains: vec![query],
        ..Default::default()
    }
}

async fn ask(
    world: &World,
    request: wire::PrefetchRequest,
) -> Result<Streaming<wire::PrefetchResponse>, Status> {
    Ok(world.client.clone().prefetch(request).await?.into_inner())
}

async fn next(stream: &mut Streaming<wire::PrefetchResponse>) -> wire::PrefetchResponse {
    timeout(PATIENCE, stream.message())
        .await
        .unwrap()
        .unwrap()
        .unwrap()
}

/// The last answer.
async fn last(mut stream: Streaming<wire::PrefetchResponse>) -> wire::PrefetchResponse {
    loop {
        let answer = next(&mut stream).await;
        if answer.end() != PrefetchEnd::Unspecified {
            assert!(
                timeout(PATIENCE, stream.message())
                    .await
                    .unwrap()
                    .unwrap()
                    .is_none()
            );
            return answer;
        }
    }
}

/// Two blocks here, and 70 there: more than one call fetches.
async fn world() -> World {
    let world = World::start(2, |_| {}).await;
    for index in 0..2 {
        world.place(index, 900, &[1, 2]);
    }
    let at = world.place_far(1, 0..70, 900);
    world.catch_up().await;
    world.reach(at).await;
    world
}

fn other_namespace(world: &World) -> Namespace {
    let mut description = world.namespace.description.clone();
    description.model = "other".to_owned();
    Namespace {
        id: description.id(),
        name: "other".to_owned(),
        description,
        ..world.namespace.clone()
    }
}

/// The far region answers nothing until told.
fn hold(world: &World) {
    let held = world.far.gate.available_permits();
    world.far.gate.forget_permits(held);
}

#[tokio::test]
async fn what_others_hold_is_kept_here_and_then_read_here() {
    let world = world().await;
    let mut stream = ask(&world, new(&world, 72)).await.unwrap();
    let first = next(&mut stream).await;
    assert!(!first.handle.is_empty());
    assert_eq!((first.total_blocks, first.total_bytes), (68, 68 * 900));
    let end = match first.end() {
        PrefetchEnd::Unspecified => last(stream).await,
        _ => first,
    };
    assert_eq!(end.end(), PrefetchEnd::Complete);
    assert_eq!(
        (end.done_blocks, end.done_bytes, end.failed_blocks),
        (68, 68 * 900, 0)
    );
    let calls = world.far.gets.load(Ordering::Relaxed);
    assert_eq!(calls, 2, "one for 64 blocks and one for the others");

    let kept = FeedPosition::from_wire(end.position.unwrap()).unwrap();
    let request = wire::GetRequest {
        at_least: vec![kept.to_wire()],
        ..world.get_request(70)
    };
    let (got, summary) = world.get(request).await;
    assert_eq!(places(&got).len(), 70);
    assert_eq!(summary.sources.len(), 1, "all of it from here");
    assert_eq!(world.far.gets.load(Ordering::Relaxed), calls);

    // Nothing is left to fetch.
    let again = last(ask(&world, new(&world, 70)).await.unwrap()).await;
    assert_eq!(
        (again.end(), again.total_blocks),
        (PrefetchEnd::Complete, 0)
    );
}

#[tokio::test]
async fn it_goes_on_without_listeners_and_is_joined_by_its_handle() {
    let world = world().await;
    hold(&world);
    let mut stream = ask(&world, new(&world, 70)).await.unwrap();
    let handle = next(&mut stream).await.handle;
    drop(stream);
    let join = |handle: &str| wire::PrefetchRequest {
        namespace_id: world.namespace.id.to_wire(),
        handle: handle.to_owned(),
        ..Default::default()
    };
    let joined = ask(&world, join(&handle)).await.unwrap();
    world.far.gate.add_permits(1_000);
    let end = last(joined).await;
    assert_eq!((end.end(), end.done_blocks), (PrefetchEnd::Complete, 68));
    // Also after its end.
    let after = last(ask(&world, join(&handle)).await.unwrap()).await;
    assert_eq!(
        (after.end(), after.done_blocks),
        (PrefetchEnd::Complete, 68)
    );
    // Another namespace does not learn that there is such a prefetch.
    let other = other_namespace(&world);
    world.region.open(other.clone());
    world.catch_up().await;
    for cancel in [false, true] {
        let request = wire::PrefetchRequest {
            namespace_id: other.id.to_wire(),
            cancel,
            ..join(&handle)
        };
        let refused = ask(&world, request).await.unwrap_err();
        assert_eq!(refused.code(), Code::NotFound, "{refused}");
    }
    // Handles of other gateways and other starts are not known.
    for unknown in ["", "x", "us-east/gateway/0/1"] {
        let request = wire::PrefetchRequest {
            cancel: true,
            ..join(unknown)
        };
        let code = ask(&world, request).await.unwrap_err().code();
        let want = match unknown {
            "" => Code::InvalidArgument,
            _ => Code::NotFound,
        };
        assert_eq!(code, want, "{unknown:?}");
    }
}

#[tokio::test]
async fn it_is_cancelled_by_its_handle_and_its_fetches_end() {
    let world = world().await;
    hold(&world);
    let mut stream = ask(&world, new(&world, 70)).await.unwrap();
    let handle = next(&mut stream).await.handle;
    let cancel = wire::PrefetchRequest {
        namespace_id: world.namespace.id.to_wire(),
        handle,
        cancel: true,
        ..Default::default()
    };
    let told = last(ask(&world, cancel).await.unwrap()).await;
    assert_eq!((told.end(), told.done_blocks), (PrefetchEnd::Cancelled, 0));
    assert_eq!(last(stream).await.end(), PrefetchEnd::Cancelled);
    // Whoever wants the blocks now begins a fetch of its own.
    world.far.gate.add_permits(1_000);
    let (got, summary) = world.get(world.get_request(70)).await;
    assert_eq!(
        (places(&got).len(), summary.outcome()),
        (70, GetOutcome::Complete)
    );
}

#[tokio::test]
async fn it_ends_at_its_limit_and_says_what_failed() {
    let world = world().await;
    hold(&world);
    let request = wire::PrefetchRequest {
        deadline_ms: 200,
        ..new(&world, 70)
    };
    let end = last(ask(&world, request).await.unwrap()).await;
    assert_eq!((end.end(), end.done_blocks), (PrefetchEnd::OutOfTime, 0));

    world.far.gate.add_permits(1_000);
    world.far.be(Mood::Silent);
    let request = wire::PrefetchRequest {
        deadline_ms: 200,
        ..new(&world, 70)
    };
    let end = last(ask(&world, request).await.unwrap()).await;
    assert_ne!(end.end(), PrefetchEnd::Complete);
}

#[tokio::test]
async fn what_cannot_be_prefetched_is_refused() {
    let never = World::start_with(1, Fallback::Never, |_| {}).await;
    let refused = ask(&never, new(&never, 3)).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    let world = world().await;
    for region in ["us-east", "mars-north", "NO"] {
        let request = wire::PrefetchRequest {
            region: region.to_owned(),
            ..new(&world, 70)
        };
        let refused = ask(&world, request).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{region}");
    }
    hold(&world);
    let mut streams = Vec::new();
    for _ in 0..16 {
        streams.push(ask(&world, new(&world, 70)).await.unwrap());
    }
    let refused = ask(&world, new(&world, 70)).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
}
