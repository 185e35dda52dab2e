//! Nodes join and leave; blocks move, and are read meanwhile.

use std::{cell::Cell, collections::BTreeSet};

use kvmesh_proto::v1::{AckLevel, JoinRequest, LeaseRequest, LeaveRequest, Member, NodeState};
use tonic::Code;

use crate::{
    blocks_test::payload,
    lease_test::{id, keys},
    region_test::{Region, until},
};

const BLOCKS: u64 = 32;

fn bytes_of(number: u64) -> bytes::Bytes {
    payload(number, 10_000 + number as usize)
}

async fn put_all(region: &Region, ack: AckLevel) {
    for number in 0..BLOCKS {
        let primary = region.locate(0, number).await.0[0];
        region
            .put_until_acked(primary, number, &bytes_of(number), ack)
            .await;
    }
}

/// Some holder that a node's directory names has the block.
async fn is_read(region: &Region, number: u64) -> bool {
    let (_, holders) = region.locate(0, number).await;
    for holder in holders {
        if region.get(holder, number).await.as_deref() == Some(&bytes_of(number)[..]) {
            return true;
        }
    }
    false
}

/// Reads all blocks again and again until they have moved.
async fn moved(region: &Region, epoch: u64) {
    until(async || {
        let shown = region.shown(0).await;
        for number in 0..BLOCKS {
            assert!(is_read(region, number).await, "block {number} is read");
        }
        shown.ring_epoch >= epoch && !shown.moving
    })
    .await;
}

/// Holders of each block, and whether they are its owners.
async fn holders(region: &Region) -> Vec<(BTreeSet<usize>, bool)> {
    let mut all = Vec::new();
    for number in 0..BLOCKS {
        let (owners, held) = region.locate(0, number).await;
        let (owners, held) = (BTreeSet::from_iter(owners), BTreeSet::from_iter(held));
        all.push((held.clone(), held == owners));
    }
    all
}

/// No lease runs out however slow the machine is: a node without one answers misses by right.
fn patiently(settings: &mut kvmesh_node::Settings) {
    settings.serve_lease_ms = 25_000;
    settings.dead_after_ms = 28_000;
}

fn leave(node: u64, forget: bool) -> LeaveRequest {
    LeaveRequest { node, forget }
}

#[tokio::test]
async fn a_join_and_a_leave_move_exactly_the_blocks_whose_owners_change() {
    let mut region = Region::start_with(3, patiently).await;
    put_all(&region, AckLevel::Replicated).await;
    let before = holders(&region).await;
    assert!(before.iter().all(|(_, owned)| *owned));

    let fourth = region.join(1, patiently).await;
    region.all_alive().await;
    moved(&region, 2).await;
    let joined = holders(&region).await;
    let mut changed = 0;
    for ((old, _), (new, owned)) in before.iter().zip(&joined) {
        assert!(
            owned,
            "every owner holds the block, and nobody else: {new:?}"
        );
        // A ring of one more node takes places over, and moves nothing between the others.
        assert!(
            new == old || new.contains(&fourth),
            "{old:?} became {new:?}"
        );
        changed += u64::from(new != old);
    }
    assert!(changed > 0 && changed < BLOCKS, "{changed} of {BLOCKS}");
    let stats = region.stats(0).await;
    assert_eq!((stats.copies, stats.under_replicated), (2 * BLOCKS, 0));

    let left = region.topology(1).leave(leave(4, false)).await.unwrap();
    assert_eq!(left.into_inner().ring_epoch, 3);
    moved(&region, 3).await;
    let shown = region.shown(0).await;
    assert_eq!((shown.nodes.len(), shown.moving), (3, false));
    assert_eq!(holders(&region).await, before, "all is as it was");
    let stats = region.stats(0).await;
    assert_eq!((stats.copies, stats.under_replicated), (2 * BLOCKS, 0));
}

#[tokio::test]
async fn one_change_at_a_time_and_a_restart_goes_on_with_it() {
    let slowly = |settings: &mut kvmesh_node::Settings| settings.repair_rate = 30_000;
    let mut region = Region::start_with(3, slowly).await;
    put_all(&region, AckLevel::Replicated).await;
    region.join(2, slowly).await;
    until(async || region.shown(0).await.moving).await;
    let another = Member {
        node: 9,
        address: "127.0.0.1:9".to_owned(),
        zone: String::new(),
        weight: 1,
        voter: false,
    };
    let member = Some(another.clone());
    let refused = region.topology(1).join(JoinRequest { member }).await;
    let refused = refused.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused:?}");
    assert!(refused.message().contains("still move"), "{refused:?}");
    let refused = region.topology(1).leave(leave(1, false)).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused:?}");
    // What can never be says so at once.
    let member = Some(Member {
        weight: 99,
        ..another
    });
    let refused = region.topology(1).join(JoinRequest { member }).await;
    assert!(matches!(
        refused.unwrap_err().code(),
        Code::FailedPrecondition | Code::InvalidArgument
    ));

    // Whoever leads is started anew.
    until(async || region.shown(0).await.leader > 0).await;
    let leader = region.shown(0).await.leader as usize - 1;
    region.stop(leader);
    region.restart(leader).await;
    region.all_alive().await;
    let region = &region;
    until(async || {
        let (shown, stats) = (region.shown(0).await, region.stats(0).await);
        !shown.moving
            && shown.nodes.len() == 4
            && (stats.blocks, stats.copies, stats.under_replicated) == (BLOCKS, 2 * BLOCKS, 0)
    })
    .await;
    for number in 0..BLOCKS {
        until(async || is_read(region, number).await).await;
    }
}

/// There is nothing to raise while all programs are of one build; that it is refused and done
/// is tested where the level can be another one.
#[tokio::test]
async fn an_operator_sees_what_each_program_knows_and_asks_again_without_harm() {
    let region = Region::start(3).await;
    let shown = region.shown(0).await;
    let level = kvmesh_directory::limits::FEATURE_LEVEL;
    assert_eq!(shown.feature_level, level);
    assert!(shown.nodes.iter().all(|node| node.feature_level == level));
    let request = kvmesh_proto::v1::UpgradeRequest {};
    let upgraded = region.topology(1).upgrade(request).await.unwrap();
    let upgraded = upgraded.into_inner();
    assert_eq!((upgraded.from, upgraded.to), (level, level));
}

#[tokio::test]
async fn a_node_that_is_lost_for_good_is_forgotten() {
    let mut region = Region::start(3).await;
    let fourth = region.join(0, |_| {}).await;
    region.all_alive().await;
    until(async || !region.shown(0).await.moving).await;
    region.epoch = 2;
    put_all(&region, AckLevel::Replicated).await;
    region.stop(fourth);
    until(async || region.shown(0).await.nodes[fourth].state() == NodeState::Dead).await;
    let refused = region.topology(0).leave(leave(4, false)).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused:?}");
    assert!(refused.message().contains("--forget"), "{refused:?}");
    region.topology(0).leave(leave(4, true)).await.unwrap();
    until(async || {
        let (shown, stats) = (region.shown(0).await, region.stats(0).await);
        !shown.moving
            && shown.nodes.len() == 3
            && (stats.copies, stats.under_replicated) == (2 * BLOCKS, 0)
    })
    .await;
    until(async || holders(&region).await.iter().all(|(_, owned)| *owned)).await;
    let refused = region.topology(0).leave(leave(4, true)).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
}

#[tokio::test]
async fn blocks_get_the_copies_for_which_there_were_too_few_nodes() {
    let mut region = Region::start_with(1, patiently).await;
    put_all(&region, AckLevel::Memory).await;
    assert_eq!(region.stats(0).await.copies, BLOCKS);
    region.join(0, patiently).await;
    region.all_alive().await;
    moved(&region, 2).await;
    let stats = region.stats(0).await;
    assert_eq!((stats.copies, stats.under_replicated), (2 * BLOCKS, 0));
}

/// Somebody holds every copy by leases, which are renewed and taken again for ever.
#[tokio::test]
async fn a_move_ends_though_its_blocks_are_leased_again_and_again() {
    let region = Region::start_with(3, patiently).await;
    put_all(&region, AckLevel::Replicated).await;
    let all: Vec<u64> = (0..BLOCKS).collect();
    let lease = async |node: usize, change: fn(&mut LeaseRequest)| {
        let mut request = LeaseRequest {
            namespace_id: region.namespace.clone(),
            hold_ms: 1_500,
            ..Default::default()
        };
        change(&mut request);
        if !request.id.is_empty() {
            request.keys = keys(&all);
        }
        region.cache(node).lease(request).await
    };
    for node in 0..3 {
        let taken = lease(node, |it| it.id = id(1)).await.unwrap().into_inner();
        assert!(taken.blocks > 0, "node {node} holds none");
    }
    region.topology(0).leave(leave(3, false)).await.unwrap();
    let refused = Cell::new(0);
    until(async || {
        for node in 0..3 {
            let renewed = lease(node, |it| it.renew = id(1)).await;
            let said_no = renewed.is_err_and(|error| error.code() == Code::NotFound);
            refused.set(refused.get() + u32::from(said_no));
            // Under its old name, and under another one.
            let _ = lease(node, |it| it.id = id(1)).await;
            let _ = lease(node, |it| it.id = id(2)).await;
        }
        !region.shown(0).await.moving
    })
    .await;
    assert!(refused.get() > 0, "a lease was in the way");
    let left = region.shown(0).await;
    assert_eq!((left.nodes.len(), left.ring_epoch), (2, 2));
    let stats = region.stats(0).await;
    assert_eq!((stats.copies, stats.under_replicated), (2 * BLOCKS, 0));
}
