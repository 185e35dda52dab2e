//! Clients that put blocks through the memory of nodes on their host.

use kvmesh_client::{
    block::Block,
    client::{Opened, Path, PutBlock, PutOptions, PutResult},
    convert::local::{Answer, Request, Response},
    local::socket::Listener,
};
use kvmesh_directory::{NodeId, Part, namespace::AckLevel};

use crate::{
    blocks_test::{hash, payload},
    local_test::{Host, assert_whole, get, mapped_of},
    region_test::{PATIENCE, until},
    staging_test::Door,
};

const MIB: usize = 1 << 20;

/// Puts blocks; the level of each and the way it went.
async fn put(
    client: &Opened,
    numbers: std::ops::Range<u64>,
    bytes: usize,
    ack: AckLevel,
) -> Vec<(AckLevel, Path)> {
    let block = |number| PutBlock {
        hash: hash(number),
        part: Part::default(),
        block: Block::of(&payload(number, bytes), 0),
    };
    let blocks: Vec<PutBlock> = numbers.map(block).collect();
    let options = PutOptions {
        ack: Some(ack),
        deadline: Some(PATIENCE),
    };
    let results = client.put(&blocks, options).await.unwrap();
    let acked = results.into_iter().map(|result| match result {
        PutResult::Acked(acked) => (acked.level, acked.path),
        other => panic!("{other:?}"),
    });
    acked.collect()
}

/// How many went through memory.
fn through_memory(acked: &[(AckLevel, Path)]) -> usize {
    acked
        .iter()
        .filter(|(_, path)| *path == Path::Mapped)
        .count()
}

#[tokio::test]
async fn blocks_go_through_memory_at_every_level_and_are_read_both_ways() {
    let host = Host::start_with(3, |folder, settings| {
        settings.disk_dir = folder.join(settings.node.to_string());
        settings.disk_bytes = 1 << 30;
        settings.disk_stop_writes = 100;
    });
    let host = host.await;
    let client = host.client().await;
    // Of one piece and less, of several, and more at a time than fit into what is shared.
    let sizes = [5_000, MIB, 2 * MIB + 17];
    let levels = [AckLevel::Memory, AckLevel::Replicated, AckLevel::Durable];
    let mut first = 0;
    for bytes in sizes {
        for ack in levels {
            let numbers = first..first + 5;
            let acked = put(&client, numbers.clone(), bytes, ack).await;
            assert_eq!(through_memory(&acked), 5, "{acked:?}");
            let least = |(level, _): &(AckLevel, Path)| match ack {
                AckLevel::Memory => true,
                _ => *level == ack,
            };
            assert!(acked.iter().all(least), "{ack:?}: {acked:?}");
            // Other nodes' views follow, and the client waits for its own writes.
            let got = get(&client, numbers.clone()).await;
            assert_eq!(got.blocks.len(), 5);
            assert!(ack == AckLevel::Memory || mapped_of(&got) == 5);
            assert_whole(&got, first, bytes);
            for number in numbers {
                let (owners, _) = host.region.locate(0, number).await;
                let read = host.region.get(owners[0], number).await;
                assert_eq!(read.unwrap(), payload(number, bytes));
            }
            first += 5;
        }
    }
    // What is there is had, and not sent again.
    let again = put(&client, 0..5, 5_000, AckLevel::Memory).await;
    assert_eq!(through_memory(&again), 5);
}

#[tokio::test]
async fn only_blocks_that_the_node_on_the_host_is_to_own_go_through_its_memory() {
    let host = Host::start_with(3, |_, _| {}).await;
    let client = host.client_of(&host.socket).await;
    let mut mapped = 0;
    for number in 0..20 {
        let (owners, _) = host.region.locate(0, number).await;
        let acked = put(&client, number..number + 1, 5_000, AckLevel::Memory).await;
        let path = match owners[0] {
            0 => Path::Mapped,
            _ => Path::Node,
        };
        assert_eq!(acked[0].1, path, "{number}");
        mapped += through_memory(&acked);
    }
    assert!(mapped > 0 && mapped < 20, "{mapped}");
}

#[tokio::test]
async fn over_the_bounds_blocks_go_over_grpc_until_there_is_room_again() {
    // One connection finds room, and that for a piece.
    let host = Host::start_with(1, |_, settings| settings.inflight_bytes_max = 2 << 20).await;
    let client = host.client().await;
    let other = Door::open(&host).await.unwrap();
    let acked = put(&client, 0..3, 5_000, AckLevel::Memory).await;
    assert_eq!(through_memory(&acked), 0);
    // Who goes gives it back, also with a put that is not done.
    let (offer, _) = crate::blocks_test::offered(100, &payload(100, 5_000));
    other
        .offer(
            host.region.opening(kvmesh_proto::v1::AckLevel::Memory),
            offer,
        )
        .await;
    drop(other);
    let next = std::cell::Cell::new(200);
    until(async || {
        let number = next.replace(next.get() + 1);
        let acked = put(&client, number..number + 1, 5_000, AckLevel::Memory).await;
        through_memory(&acked) == 1
    })
    .await;
    // A block that does not fit beside what is shared.
    let acked = put(&client, 10..11, 2 * MIB, AckLevel::Memory).await;
    assert_eq!(through_memory(&acked), 0);
    let acked = put(&client, 11..14, MIB, AckLevel::Memory).await;
    assert_eq!(
        through_memory(&acked),
        3,
        "more than is shared, one after the other"
    );
    assert_whole(&get(&client, 10..11).await, 10, 2 * MIB);
    assert_whole(&get(&client, 11..14).await, 11, MIB);
}

#[tokio::test]
async fn a_node_that_ends_is_put_to_again_when_it_is_back() {
    let mut host = Host::start_with(1, |_, _| {}).await;
    let client = host.client().await;
    let acked = put(&client, 0..1, MIB, AckLevel::Memory).await;
    assert_eq!(through_memory(&acked), 1);
    host.region.stop(0);
    until(async || !host.socket.exists()).await;
    host.region.restart(0).await;
    let next = std::cell::Cell::new(1);
    until(async || {
        let number = next.replace(next.get() + 1);
        let acked = put(&client, number..number + 1, MIB, AckLevel::Memory).await;
        through_memory(&acked) == 1
    })
    .await;
}

#[tokio::test]
async fn a_node_that_does_not_know_such_puts_gets_them_over_grpc() {
    let host = Host::start_with(1, |_, _| {}).await;
    let folder = tempfile::tempdir().unwrap();
    let listener = Listener::bind(&folder.path().join("old.sock")).unwrap();
    let client = host.client_of(folder.path()).await;
    let own = host.region.settings[0].region.parse().unwrap();
    // It welcomes every client, and passes over what it does not know.
    let old = async {
        loop {
            let socket = listener.accept().await.unwrap();
            let packet = socket.receive().await.unwrap().unwrap();
            let welcome = Response {
                id: Request::unpack(&packet.bytes).unwrap().id,
                answer: Some(Answer::Welcome {
                    node: NodeId(1),
                    region: std::clone::Clone::clone(&own),
                    staging: 0,
                }),
                ..Response::default()
            };
            socket.send(&welcome.pack(), &[]).await.unwrap();
        }
    };
    let putting = put(&client, 0..3, 5_000, AckLevel::Memory);
    let acked = tokio::select! {
        acked = putting => acked,
        () = old => unreachable!("it ends with the put"),
    };
    assert_eq!(through_memory(&acked), 0);
    assert!(acked.iter().all(|(_, path)| *path == Path::Node));
}
