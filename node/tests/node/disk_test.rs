//! Nodes with a disk.

use std::path::Path;

use kvmesh_node::Settings;
use kvmesh_proto::v1::{self as wire, AckLevel};

use crate::region_test::{Region, payload, until};

/// A disk of its own for every node.
fn disk(dir: &Path) -> impl Fn(&mut Settings) {
    move |settings| {
        settings.disk_dir = dir.join(settings.node.to_string());
        settings.disk_bytes = 64 << 20;
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

#[tokio::test]
async fn a_node_that_restarts_has_what_its_disk_had_but_what_was_deleted() {
    let dir = tempfile::tempdir().unwrap();
    let mut region = Region::start_with(1, disk(dir.path())).await;
    let bytes = |number| payload(number, 400_000);
    for number in 0..30 {
        let bytes = bytes(number);
        region
            .put_until_acked(0, number, &bytes, AckLevel::Memory)
            .await;
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
