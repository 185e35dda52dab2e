use std::{collections::BTreeMap, fs, time::Duration};

use futures::future;
use kvmesh_directory::{ChangeOutcome, Command, command::Refusal};
use kvmesh_process::Environment;
use tokio::time::{self, Instant};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{Consensus, ProposeError, StartError, Storage, raft::Peer, testing::*};
use crate::directory::SharedDirectory;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_nodes_form_a_region_once_and_a_follower_proposes() {
    let region = Region::new(3, 3, brisk).await;
    let early = region.nodes[1].up().consensus.propose(
        Command::OpenNamespace(namespace("early")),
        Instant::now() + Duration::from_secs(1),
    );
    assert_eq!(early.await.err(), Some(ProposeError::NotInitialised));
    region.form().await;

    for node in &region.nodes {
        let (name, members) = (region.name.clone(), region.members.clone());
        let again = node.up().consensus.init_region(name, members, soon());
        let refused = ProposeError::Refused(Refusal::Initialised(region.name.clone()));
        assert_eq!(again.await.err(), Some(refused));
    }
    let leader = region.leader().await;
    let follower = region.nodes[(leader + 1) % 3].up();
    let open = Command::OpenNamespace(namespace("ns"));
    let (position, _) = follower.consensus.propose(open, soon()).await.unwrap();
    let here = follower.directory.with(|state| state.position()).unwrap();
    assert!(here.covers(&position), "the proposer has applied it");
    let known = region.nodes[leader].up().consensus.leader_address();
    assert_eq!(follower.consensus.leader_address(), known);
    region.assert_equal().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_voter_is_enough_and_others_follow() {
    let region = Region::new(1, 2, brisk).await;
    region.form().await;
    for node in &region.nodes {
        let submitted = node
            .up()
            .consensus
            .submit(vec![claim(node, node.id.0)], soon());
        assert_eq!(submitted.await.unwrap().1, [ChangeOutcome::Accepted]);
    }
    region.assert_equal().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_submits_share_few_entries_and_show_at_once() {
    const EACH: u64 = 400;
    let region = Region::new(3, 3, brisk).await;
    region.form().await;
    let before = region.nodes[0]
        .up()
        .directory
        .with(|state| state.applied_index());

    let submits = region.nodes.iter().flat_map(|node| {
        (0..EACH).map(move |block| async move {
            let block = node.id.0 * 10_000 + block;
            let running = node.up();
            let submitted = running.consensus.submit(vec![claim(node, block)], soon());
            let (index, outcomes) = submitted.await.unwrap();
            assert_eq!(outcomes, [ChangeOutcome::Accepted]);
            let held = running
                .directory
                .with(|state| state.entry(&name(block)).is_some());
            assert!(held, "the submitter's directory shows it");
            index
        })
    });
    let last = future::join_all(submits).await.into_iter().max().unwrap();
    let entries = last - before;
    assert!(
        entries < 3 * EACH / 10,
        "{entries} entries carried {} changes",
        3 * EACH
    );
    region.assert_equal().await;

    let node = &region.nodes[1];
    let large: Vec<_> = (0..1_000)
        .map(|block| claim(node, 90_000 + block))
        .collect();
    let (_, outcomes) = node.up().consensus.submit(large, soon()).await.unwrap();
    assert_eq!(outcomes, [ChangeOutcome::Accepted; 1_000]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn followers_apply_long_before_the_next_heartbeat() {
    let region = Region::new(3, 3, |id, settings| {
        brisk(id, settings);
        settings.heartbeat = Duration::from_millis(500);
        settings.election_min = Duration::from_millis(1_500);
        settings.election_max = Duration::from_millis(2_500);
        settings.serve_lease = Duration::from_secs(5);
    })
    .await;
    region.form().await;
    let leader = region.leader().await;
    let follower = region.nodes[(leader + 1) % 3].up();
    let mut lags = Vec::new();
    for block in 0..9 {
        let change = vec![claim(&region.nodes[leader], block)];
        let running = region.nodes[leader].up();
        let (index, _) = running.consensus.submit(change, soon()).await.unwrap();
        let committed = Instant::now();
        let mut applied = follower.directory.applied();
        let reached = applied.wait_for(|applied| *applied >= index);
        time::timeout_at(soon(), reached).await.unwrap().unwrap();
        lags.push(committed.elapsed());
    }
    lags.sort_unstable();
    eprintln!("lag of a follower behind a commit: {lags:?}");
    assert!(lags[4] < Duration::from_millis(150), "{lags:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_leader_is_replaced_and_submits_go_on() {
    let mut region = Region::new(3, 3, brisk).await;
    region.form().await;
    let leader = region.leader().await;
    let follower = (leader + 1) % 3;
    let consensus = region.nodes[follower].up().consensus.clone();
    let claims: Vec<_> = (0..40)
        .map(|block| claim(&region.nodes[follower], block))
        .collect();
    let submits = TaskTracker::new();
    let handles: Vec<_> = claims
        .into_iter()
        .map(|change| {
            let consensus = consensus.clone();
            submits.spawn(async move { consensus.submit(vec![change], soon()).await })
        })
        .collect();
    region.nodes[leader].stop().await;
    for handle in handles {
        assert_eq!(handle.await.unwrap().unwrap().1, [ChangeOutcome::Accepted]);
    }
    let next = region.leader().await;
    assert_ne!(next, leader);
    let (node, other) = (&region.nodes[follower], &region.nodes[(leader + 2) % 3]);
    node.up()
        .consensus
        .submit(vec![claim(node, 77)], soon())
        .await
        .unwrap();
    other
        .up()
        .consensus
        .submit(vec![claim(other, 78)], soon())
        .await
        .unwrap();
    until("the lost node is given up", || {
        let lost = region.nodes[leader].id;
        let alive = |state: &kvmesh_directory::DirectoryState| state.node(lost).unwrap().alive;
        !node.up().directory.with(alive)
    })
    .await;

    region.nodes[leader].start().await;
    until("it is back", || {
        region.nodes[leader].up().consensus.lease_valid()
    })
    .await;
    region.assert_equal().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_keeps_the_directory_and_begins_an_incarnation() {
    let dir = tempfile::tempdir().unwrap();
    let mut region = Region::new(3, 3, |id, settings| {
        brisk(id, settings);
        settings.storage = Storage::Directory(dir.path().join(id.to_string()));
    })
    .await;
    region.form().await;
    for node in &region.nodes {
        let change = vec![claim(node, node.id.0)];
        node.up().consensus.submit(change, soon()).await.unwrap();
    }
    region.assert_equal().await;
    let head = region.nodes[0].up().directory.with(|state| state.head());
    for node in &mut region.nodes {
        node.stop().await;
    }
    for node in &mut region.nodes {
        node.start().await;
    }
    for node in &region.nodes {
        until("it serves again", || node.up().consensus.lease_valid()).await;
        let incarnation = node.up().consensus.incarnation().unwrap();
        let before = head
            .nodes
            .iter()
            .flatten()
            .find(|record| record.node == node.id);
        assert!(incarnation > before.unwrap().incarnation);
    }
    region.assert_equal().await;
    let now = region.nodes[0].up().directory.with(|state| state.head());
    assert_eq!(now.log_incarnation, head.log_incarnation);
    assert_eq!(now.namespaces, head.namespaces);
    assert!(now.applied_index > head.applied_index);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_that_lags_far_gets_a_snapshot() {
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
    for block in 0..80 {
        let node = &region.nodes[leader];
        node.up()
            .consensus
            .submit(vec![claim(node, block)], soon())
            .await
            .unwrap();
    }
    region.nodes[lagging].start().await;
    region.assert_equal().await;
    let behind = region.nodes[lagging].up();
    assert!(
        behind.directory.steps_after(0, 1).is_none(),
        "it did not replay the log"
    );

    // From its own snapshot and the log after it.
    region.nodes[lagging].stop().await;
    region.nodes[lagging].start().await;
    region.assert_equal().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_node_is_given_up_and_returns_with_a_new_incarnation() {
    let region = Region::new(3, 3, brisk).await;
    region.form().await;
    let leader = region.leader().await;
    let silent = &region.nodes[(leader + 1) % 3];
    silent
        .up()
        .consensus
        .submit(vec![claim(silent, 1)], soon())
        .await
        .unwrap();
    let before = silent.up().consensus.incarnation().unwrap();

    silent.mute(true);
    let lead = region.nodes[leader].up();
    until("its claims are void", || {
        lead.directory.with(|state| state.entry(&name(1)).is_none())
    })
    .await;
    until("it knows", || silent.up().consensus.incarnation().is_none()).await;
    assert!(!silent.up().consensus.lease_valid());
    silent.mute(false);
    until("it is back", || {
        let consensus = &silent.up().consensus;
        consensus.incarnation().is_some_and(|now| now > before) && consensus.lease_valid()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leases_end_without_a_quorum_and_deletes_wait_for_them() {
    let mut region = Region::new(3, 3, brisk).await;
    region.form().await;
    let leader = region.leader().await;
    let index = {
        let node = &region.nodes[leader];
        let (index, _) = node
            .up()
            .consensus
            .submit(vec![claim(node, 1)], soon())
            .await
            .unwrap();
        index
    };
    let other = &region.nodes[(leader + 1) % 3].up().consensus;
    assert_eq!(
        other.applied_by_all(index, soon()).await,
        Err(ProposeError::NotLeader)
    );
    let lead = &region.nodes[leader].up().consensus;
    let asked = Instant::now();
    lead.applied_by_all(index, soon()).await.unwrap();
    assert!(
        asked.elapsed() < Duration::from_millis(1_500),
        "all are well and fast"
    );

    // What a silent node may still serve ends within the lease, and no sooner is it waited for.
    let silent = &region.nodes[(leader + 2) % 3];
    silent.mute(true);
    let asked = Instant::now();
    lead.applied_by_all(index + 1_000, soon()).await.unwrap();
    assert!(!silent.up().consensus.lease_valid());
    assert!(asked.elapsed() >= Duration::from_secs(2));
    silent.mute(false);

    for at in [1, 2] {
        region.nodes[(leader + at) % 3].stop().await;
    }
    let alone = region.nodes[leader].up();
    until("the lease ends", || !alone.consensus.lease_valid()).await;
    let deadline = Instant::now() + Duration::from_millis(500);
    let change = vec![claim(&region.nodes[leader], 2)];
    let submitted = alone.consensus.submit(change, deadline).await;
    assert_eq!(submitted, Err(ProposeError::OutOfTime));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_formation_that_stopped_halfway_is_completed() {
    let region = Region::new(3, 3, brisk).await;
    let voters: BTreeMap<u64, Peer> = region
        .members
        .iter()
        .map(|member| {
            let address = member.address.clone();
            (member.node.0, Peer { address })
        })
        .collect();
    let first = &region.nodes[0].up().consensus;
    for node in &region.nodes {
        let voter = node.up().consensus.voter();
        let prepared = voter.prepare(&region.name, &region.members);
        assert_ne!(prepared.await.unwrap(), 0);
    }
    first.inner.group.raft.initialize(voters).await.unwrap();
    region.leader().await;

    let mut fewer = region.members.clone();
    fewer.truncate(1);
    let other = first.init_region(region.name.clone(), fewer, soon()).await;
    assert!(matches!(other, Err(ProposeError::Invalid(_))), "{other:?}");
    region.form().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_that_cannot_form_a_region_are_refused() {
    let region = Region::new(1, 2, brisk).await;
    let (voter, follower) = (&region.nodes[0].up(), &region.nodes[1].up());
    let members = || region.members.clone();
    let mut two = members();
    two[1].voter = true;
    let elsewhere = "elsewhere".parse().unwrap();
    for refused in [
        voter
            .consensus
            .init_region(region.name.clone(), two, soon())
            .await,
        voter
            .consensus
            .init_region(elsewhere, members(), soon())
            .await,
        follower
            .consensus
            .init_region(region.name.clone(), members(), soon())
            .await,
    ] {
        assert!(
            matches!(refused, Err(ProposeError::Invalid(_))),
            "{refused:?}"
        );
    }
    region.form().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_lost_the_snapshot_below_its_log_does_not_start() {
    let dir = tempfile::tempdir().unwrap();
    let mut region = Region::new(1, 1, |id, settings| {
        brisk(id, settings);
        settings.snapshots.entries_max = 20;
        settings.kept_entries = 5;
        settings.storage = Storage::Directory(dir.path().to_owned());
    })
    .await;
    region.form().await;
    let node = &region.nodes[0];
    for block in 0..60 {
        let change = vec![claim(node, block)];
        node.up().consensus.submit(change, soon()).await.unwrap();
    }
    until("the log is purged", || {
        let metrics = node.up().consensus.inner.group.raft.metrics();
        metrics.borrow().purged.is_some()
    })
    .await;
    region.nodes[0].stop().await;
    region.nodes[0].start().await;
    let back = region.nodes[0].up();
    until("the new incarnation voids its older claims", || {
        back.directory.with(|state| state.stats().blocks == 0)
    })
    .await;
    region.nodes[0].stop().await;

    fs::remove_dir_all(dir.path().join("snapshots")).unwrap();
    let refused = until_some("the store is free", || async {
        let tasks = TaskTracker::new();
        let started = Consensus::start(
            region.nodes[0].settings.clone(),
            Environment::real("test"),
            SharedDirectory::default(),
            &tasks,
            CancellationToken::new(),
        );
        let error = started.await.err().expect("it must not start");
        format!("{error:?}")
            .contains("missing or damaged")
            .then_some(error)
    })
    .await;
    assert!(matches!(refused, StartError::Store { .. }), "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_comes_back_alone_does_not_ask_for_a_quorum_without_a_pause() {
    const CONNECTS: u64 = 200;
    let mut region = Region::new(3, 3, brisk).await;
    region.form().await;
    let leader = region.leader().await;
    for node in &mut region.nodes {
        node.stop().await;
    }
    // Raft remembers that it led; the others refuse connections at once.
    let node = &mut region.nodes[leader];
    node.start().await;
    let (began, before) = (Instant::now(), node.connects());
    let asked = || node.connects() >= before + CONNECTS;
    until("it asks again and again", asked).await;
    assert!(began.elapsed() > Duration::from_millis(500));
}
