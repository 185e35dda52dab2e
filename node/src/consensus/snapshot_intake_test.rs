//! A snapshot that is not what its checksum says reaches a member.

use crate::consensus::{Storage, snapshot_store::SnapshotStore, testing::*};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_snapshot_is_refused_and_another_one_is_sent() {
    let mut region = Region::new(3, 3, |id, settings| {
        brisk(id, settings);
        settings.snapshots.entries_max = 20;
        settings.kept_entries = 5;
    })
    .await;
    region.form().await;
    let leader = region.leader().await;
    let lagging = (leader + 1) % 3;
    region.nodes[lagging].stop().await;
    let running = region.nodes[leader].up();
    let write = async |block| {
        let change = vec![claim(&region.nodes[leader], block)];
        running.consensus.submit(change, soon()).await.unwrap();
    };
    for block in 0..80 {
        write(block).await;
    }
    // Whoever of the others leads when it comes back: it is sent a damaged one first.
    let others = [leader, 3 - leader - lagging];
    let snapshots = others.map(|at| match &region.nodes[at].settings.storage {
        Storage::Memory(memory) => memory.snapshots.clone(),
        Storage::Directory(_) => unreachable!("tests keep it in memory"),
    });
    for (at, snapshots) in others.into_iter().zip(&snapshots) {
        let other = region.nodes[at].up();
        until("no other snapshot is due", || {
            let metrics = other.consensus.inner.group.raft.metrics();
            let metrics = metrics.borrow();
            let made = metrics.snapshot.map_or(0, |id| id.index);
            made > 5 && metrics.last_applied.is_some_and(|id| id.index < made + 20)
        })
        .await;
        snapshots.damage();
        assert!(snapshots.load().await.is_err());
    }

    region.nodes[lagging].start().await;
    region.assert_equal().await;
    let caught_up = region.nodes[lagging].up();
    assert!(
        caught_up.directory.steps_after(0, 1).is_none(),
        "it did not replay the log"
    );
    assert_eq!(caught_up.consensus.ended(), None);
    let mut made_again = false;
    for snapshots in &snapshots {
        made_again |= snapshots.load().await.is_ok_and(|made| made.is_some());
    }
    assert!(made_again, "the sender's own is whole again");
}
