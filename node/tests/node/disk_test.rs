//! Nodes with a disk.

use std::path::Path;

use kvmesh_directory::Policy;
use kvmesh_node::Settings;
use kvmesh_proto::v1::{self as wire, AckLevel};

use crate::{
    blocks_test::{Put, payload},
    region_test::{Region, until},
};

/// A disk of its own for every node.
fn disk(dir: &Path) -> impl Fn(&mut Settings) {
    move |settings| {
        settings.disk_dir = dir.join(settings.node.to_string());
        settings.disk_bytes = 64 << 20;
        // However full the machine's disk is.
        settings.disk_stop_writes = 100;
    }
}

async fn delete(region: &Region, number: u64) {
    let request = wire::DeleteRequest {
        namespace_id: region.namespace.clone(),
        chain: region.chain([number]),
        ..Default::default()
    };
    region.cache(0).delete(request).await.unwrap();
}

/// A block's copy on one node is all that the namespace wants.
async fn one_replica(region: &Region) {
    one_replica_ahead(region, Policy::default().prefetch_blocks).await;
}

/// The same, and so many blocks are read ahead.
async fn one_replica_ahead(region: &Region, prefetch_blocks: u32) {
    let request = wire::SetPolicyRequest {
        namespace_id: region.namespace.clone(),
        policy: Some(kvmesh_client::ToWire::to_wire(&Policy {
            replicas: 1,
            prefetch_blocks,
            ..Policy::default()
        })),
    };
    region.topology(0).set_policy(request).await.unwrap();
}

#[tokio::test]
async fn what_is_durable_is_on_disk_on_all_its_owners() {
    let dir = tempfile::tempdir().unwrap();
    let mut region = Region::start_with(3, disk(dir.path())).await;
    let bytes = payload(1, (2 << 20) + 100);
    let owners = region.locate(0, 1).await.0;
    let ack = region
        .put_until_acked(owners[0], 1, &bytes, AckLevel::Durable)
        .await;
    assert_eq!((ack.level(), ack.copies), (AckLevel::Durable, 2));
    // What is in memory becomes durable when a second put wants it so.
    let second = region.locate(0, 2).await.0;
    let other = payload(2, 300_000);
    region
        .put_until_acked(second[0], 2, &other, AckLevel::Replicated)
        .await;
    let ack = region
        .put_until_acked(second[0], 2, &other, AckLevel::Durable)
        .await;
    assert_eq!((ack.level(), ack.existed), (AckLevel::Durable, true));
    // All are gone at once, with their memory.
    (0..3).for_each(|node| region.stop(node));
    for node in 0..3 {
        region.restart(node).await;
    }
    region.all_alive().await;
    for (number, owners, bytes) in [(1, owners, bytes), (2, second, other)] {
        for owner in owners {
            until(async || {
                let got = region.get(owner, number).await;
                got.is_some_and(|got| got == bytes)
            })
            .await;
        }
    }
}

#[tokio::test]
async fn a_node_without_a_disk_refuses_durable_puts_and_says_why() {
    let dir = tempfile::tempdir().unwrap();
    // Only the first has one.
    let first = disk(dir.path());
    let region = Region::start_with(3, |settings| {
        if settings.node == 1 {
            first(settings);
        }
    })
    .await;
    let bytes = payload(1, 3_000);
    match region.put(1, 1, &bytes, AckLevel::Durable).await {
        Put::Refused(refused) => {
            assert_eq!(refused.reason(), wire::RefusalReason::Invalid);
            assert!(refused.message.contains("disk_dir"), "{refused:?}");
        }
        other => panic!("{other:?}"),
    }
    match region.put(0, 1, &bytes, AckLevel::Durable).await {
        Put::Refused(refused) => {
            assert_eq!(refused.reason(), wire::RefusalReason::Unavailable);
            assert!(refused.message.contains("have a disk"), "{refused:?}");
        }
        other => panic!("{other:?}"),
    }
    // What was refused is not stored.
    assert_eq!(region.stats(0).await.blocks, 0);
    // Nor is a duplicate acknowledged that one holder cannot make durable.
    region
        .put_until_acked(0, 1, &bytes, AckLevel::Replicated)
        .await;
    let again = region.put(0, 1, &bytes, AckLevel::Durable).await;
    assert_eq!(again.reason(), wire::RefusalReason::Unavailable);
}

#[tokio::test]
async fn a_node_that_restarts_has_what_its_disk_had_but_what_was_deleted() {
    let dir = tempfile::tempdir().unwrap();
    let mut region = Region::start_with(1, disk(dir.path())).await;
    one_replica(&region).await;
    let bytes = |number| payload(number, 400_000);
    for number in 0..30 {
        let bytes = bytes(number);
        let ack = region
            .put_until_acked(0, number, &bytes, AckLevel::Durable)
            .await;
        assert_eq!((ack.level(), ack.existed), (AckLevel::Durable, false));
    }
    for number in 0..30 {
        let got = region.get(0, number).await;
        assert!(got.is_some_and(|got| got == bytes(number)), "{number}");
    }
    delete(&region, 3).await;
    region.stop(0);
    region.restart(0).await;
    region.all_alive().await;
    // It offers them again by itself.
    until(async || region.stats(0).await.blocks == 29).await;
    for number in 0..30 {
        until(async || {
            let got = region.get(0, number).await;
            assert!(number != 3 || got.is_none(), "it was deleted");
            assert!(got.iter().all(|got| *got == bytes(number)));
            got.is_some() || number == 3
        })
        .await;
    }
    delete(&region, 4).await;
    assert_eq!(region.get(0, 4).await, None);
}

#[tokio::test]
async fn what_a_reader_wants_next_comes_to_memory_as_far_as_the_policy_says() {
    let dir = tempfile::tempdir().unwrap();
    let mut region = Region::start_with(1, disk(dir.path())).await;
    one_replica_ahead(&region, 0).await;
    for number in 0..8 {
        let bytes = payload(number, 400_000);
        region
            .put_until_acked(0, number, &bytes, AckLevel::Durable)
            .await;
    }
    region.stop(0);
    region.restart(0).await;
    region.all_alive().await;
    until(async || region.stats(0).await.blocks == 8).await;
    let in_memory = async || region.stats(0).await.memory_used;
    assert_eq!(in_memory().await, 0);
    // Reads the first block of a chain.
    let read = async |numbers: &[u64]| {
        let request = wire::GetRequest {
            namespace_id: region.namespace.clone(),
            chain: region.chain(numbers.iter().copied()),
            count: 1,
            ..Default::default()
        };
        until(async || region.get_as(0, request.clone()).await.0.len() == 1).await;
    };
    read(&[7, 6, 5]).await;
    let one = in_memory().await;
    assert!(one >= 400_000);
    one_replica_ahead(&region, 3).await;
    read(&[0, 1, 2, 3, 4, 5]).await;
    until(async || in_memory().await == 5 * one).await;
    // A lookup says what is wanted as well.
    let query = wire::ChainQuery {
        chain: region.chain([4, 5, 6, 99]),
        ..Default::default()
    };
    let request = wire::LookupRequest {
        namespace_id: region.namespace.clone(),
        chains: vec![query],
        ..Default::default()
    };
    region.cache(0).lookup(request).await.unwrap();
    until(async || in_memory().await == 8 * one).await;
}
