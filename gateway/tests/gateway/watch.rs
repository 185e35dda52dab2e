//! Watches of one namespace.

use std::time::Duration;

use crate::fakes::start::World;
use kvmesh_client::{FromWire, ToWire};
use kvmesh_directory::{
    BlockName, Command, FeedPosition, Hlc, LogIncarnation, Namespace, Part, command::Deletion,
};
use kvmesh_proto::v1 as wire;
use tokio::time::timeout;
use tonic::{Code, Status, Streaming};

const PATIENCE: Duration = Duration::from_secs(15);

async fn watch(
    world: &World,
    after: Option<&FeedPosition>,
) -> Result<Streaming<wire::WatchResponse>, Status> {
    let request = wire::WatchRequest {
        namespace_id: world.namespace.id.to_wire(),
        after: after.map(ToWire::to_wire),
    };
    Ok(world.client.clone().watch(request).await?.into_inner())
}

/// A message in words: position, what appeared, what vanished.
type Said = (FeedPosition, Vec<BlockName>, Vec<BlockName>);

async fn next(stream: &mut Streaming<wire::WatchResponse>) -> Result<Said, Status> {
    let message = timeout(PATIENCE, stream.message()).await.unwrap()?.unwrap();
    let names = |raw: Vec<wire::BlockName>| {
        let names = raw.into_iter().map(BlockName::from_wire);
        names.collect::<Result<Vec<_>, _>>().unwrap()
    };
    let position = FeedPosition::from_wire(message.position.unwrap()).unwrap();
    Ok((position, names(message.appeared), names(message.vanished)))
}

/// All that is said up to a position.
async fn up_to(
    stream: &mut Streaming<wire::WatchResponse>,
    end: &FeedPosition,
) -> (Vec<BlockName>, Vec<BlockName>) {
    let (mut appeared, mut vanished) = (Vec::new(), Vec::new());
    loop {
        let said = next(stream).await.unwrap();
        appeared.extend(said.1);
        vanished.extend(said.2);
        if said.0.covers(end) {
            return (appeared, vanished);
        }
    }
}

fn delete(world: &World, index: u32) -> FeedPosition {
    let name = world.name(index, 0);
    let deletion = Deletion {
        namespace: name.namespace,
        keys: vec![name.key()],
        hlc: Hlc(60),
    };
    world.region.apply(Command::Delete(deletion)).0
}

#[tokio::test]
async fn what_appears_and_vanishes_is_told_and_nothing_else() {
    let world = World::start(2, |_| {}).await;
    world.place(0, 900, &[1]);
    world.catch_up().await;
    let now = world.region.state().position().unwrap();
    let mut stream = watch(&world, None).await.unwrap();
    assert_eq!(
        next(&mut stream).await.unwrap(),
        (now.clone(), vec![], vec![]),
        "from now"
    );

    // Of another namespace; a second copy; and the namespace's own.
    let mut other = world.namespace.description.clone();
    other.model = "other".to_owned();
    let other = Namespace {
        id: other.id(),
        name: "other".to_owned(),
        description: other,
        ..world.namespace.clone()
    };
    let id = other.id;
    world.region.open(other);
    let foreign = BlockName {
        namespace: id,
        part: Part::default(),
        ..world.name(5, 0)
    };
    let meta = crate::fakes::start::block(5, 900).meta;
    world.region.claim(foreign, &meta, &[1]);
    world.place(0, 900, &[2]);
    world.place(1, 900, &[1, 2]);
    let end = delete(&world, 0);
    let (appeared, vanished) = up_to(&mut stream, &end).await;
    assert_eq!(appeared, [world.name(1, 0)]);
    assert_eq!(vanished, [world.name(0, 0)]);

    // A silent stream still says where it stands.
    let beat = next(&mut stream).await.unwrap();
    assert_eq!(beat, (end.clone(), vec![], vec![]));

    // Again from before: the same changes.
    let mut again = watch(&world, Some(&now)).await.unwrap();
    let said = up_to(&mut again, &end).await;
    assert_eq!(said, (vec![world.name(1, 0)], vec![world.name(0, 0)]));
}

#[tokio::test]
async fn a_gap_that_cannot_be_bridged_is_said() {
    let world = World::start(1, |_| {}).await;
    world.catch_up().await;
    let now = world.region.state().position().unwrap();
    let other_log = FeedPosition {
        log_incarnation: LogIncarnation(99),
        ..now.clone()
    };
    let other_region = FeedPosition {
        region: "eu-west".parse().unwrap(),
        ..now.clone()
    };
    // Before the view's own beginning.
    let too_old = FeedPosition { index: 0, ..now };
    for after in [other_log, other_region, too_old] {
        let mut stream = watch(&world, Some(&after)).await.unwrap();
        let ended = next(&mut stream).await.unwrap_err();
        assert_eq!(ended.code(), Code::OutOfRange, "{after:?}: {ended}");
    }
    let request = wire::WatchRequest {
        namespace_id: vec![9; 16].into(),
        after: None,
    };
    let unknown = world.client.clone().watch(request).await.unwrap_err();
    assert_eq!(unknown.code(), Code::NotFound);
}

#[tokio::test]
async fn watches_are_bounded_in_number() {
    let world = World::start(1, |_| {}).await;
    world.catch_up().await;
    let mut streams = Vec::new();
    for _ in 0..256 {
        streams.push(watch(&world, None).await.unwrap());
    }
    let refused = watch(&world, None).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    // One that leaves makes room.
    streams.pop();
    let again = async { while watch(&world, None).await.is_err() {} };
    timeout(PATIENCE, again).await.unwrap();
}
