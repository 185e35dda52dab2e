//! Nodes join, leave, and lose their stores, while the group goes on.

use std::time::Duration;

use kvmesh_client::ToWire;
use kvmesh_directory::{
    ChangeOutcome, Command, Incarnation, LogIncarnation, NodeId, command::Refusal,
    limits::FEATURE_LEVEL,
};
use kvmesh_proto::{
    raft_entry::{Payload, RaftEntry},
    v1 as wire,
};
use prost::Message;
use tokio::time::Instant;

use super::{Ended, ProposeError, network, testing::*};

/// One block is claimed at a node.
async fn write(node: &Node, block: u64) {
    let written = until_some("a write", || async {
        let running = node.up();
        running.consensus.incarnation()?;
        let submitted = running.consensus.submit(vec![claim(node, block)], soon());
        submitted.await.ok()
    });
    assert_eq!(written.await.1, [ChangeOutcome::Accepted]);
}

fn leave(node: u64, forget: bool) -> Command {
    Command::LeaveNode {
        node: NodeId(node),
        forget,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_region_grows_to_five_voters_and_then_outlives_two() {
    let mut region = Region::new(1, 1, brisk).await;
    region.form().await;
    for (id, voters) in [
        (2, vec![1, 2]),
        (3, vec![1, 2, 3]),
        (4, vec![1, 2, 3, 4]),
        (5, vec![1, 2, 3, 4, 5]),
    ] {
        region.join(id, true).await;
        write(&region.nodes[0], id).await;
        region.until_voters(&voters).await;
    }
    region.assert_equal().await;
    let leader = region.leader().await;
    for place in [leader, (leader + 1) % 5] {
        region.nodes[place].stop().await;
    }
    let left = region.running().next().unwrap();
    write(left, 100).await;
    region.assert_equal().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_voter_is_replaced_while_writes_go_on() {
    let mut region = Region::new(3, 3, brisk).await;
    region.form().await;
    region.join(4, false).await;
    region.until_voters(&[1, 2, 3]).await;
    let leader = region.leader().await as u64 + 1;
    let leaves = if leader == 2 { 3 } else { 2 };
    let writer = region.nodes.iter().find(|node| node.id.0 == 5 - leaves);
    let writer = writer.unwrap();
    let writes = async {
        for block in 0..60 {
            write(writer, block).await;
        }
    };
    tokio::join!(writes, region.change(leave(leaves, false)));
    let stays = 5 - leaves;
    region.until_voters(&[1, stays, 4]).await;
    let left = &region.nodes[leaves as usize - 1].up().consensus;
    until("it has ended", || left.ended().is_some()).await;
    assert_eq!(left.ended(), Some(Ended::Left(NodeId(leaves))));
    write(&region.nodes[3], 100).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_leader_leaves_and_another_one_leads() {
    let mut region = Region::new(3, 3, brisk).await;
    region.form().await;
    region.join(4, false).await;
    region.until_voters(&[1, 2, 3]).await;
    let place = region.leader().await;
    let leaves = region.nodes[place].id;
    region.change(leave(leaves.0, false)).await;
    let voters: Vec<u64> = (1..=4).filter(|id| *id != leaves.0).collect();
    let left = &region.nodes[place].up().consensus;
    until("it has ended", || left.ended().is_some()).await;
    assert_eq!(left.ended(), Some(Ended::Left(leaves)));
    region.nodes[place].stop().await;
    region.until_voters(&voters).await;
    assert_ne!(region.leader().await, place);
    write(&region.nodes[3], 100).await;
    region.assert_equal().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_was_forgotten_while_it_was_cut_off_ends_and_disturbs_nobody() {
    let mut region = Region::new(3, 3, brisk).await;
    region.form().await;
    region.join(4, false).await;
    region.until_voters(&[1, 2, 3]).await;
    let leader = region.leader().await;
    let place = (leader + 1) % 3;
    let forgotten = region.nodes[place].id;
    region.nodes[place].stop().await;
    region.change(leave(forgotten.0, true)).await;
    let voters: Vec<u64> = (1..=4).filter(|id| *id != forgotten.0).collect();
    region.until_voters(&voters).await;
    let term = |region: &Region| {
        let raft = &region.nodes[leader].up().consensus.inner.group.raft;
        raft.metrics().borrow().current_term
    };
    let before = term(&region);
    region.nodes[place].start().await;
    let back = &region.nodes[place].up().consensus;
    until("it has ended", || back.ended().is_some()).await;
    assert_eq!(back.ended(), Some(Ended::Removed(forgotten)));
    assert_eq!(term(&region), before, "no election took place");
}

/// Whoever does not vote stands for no election, and so asks nobody for a vote; the leader that
/// it last knew is gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_that_was_forgotten_while_it_was_cut_off_asks_and_ends() {
    let mut region = Region::new(3, 3, brisk).await;
    region.form().await;
    region.join(4, false).await;
    let forgotten = region.nodes[3].id;
    let admission = &region.nodes[3].up().consensus.inner.admission;
    until("it has begun", || admission.is_admitted()).await;
    region.nodes[3].stop().await;
    region.change(leave(forgotten.0, true)).await;
    let before = region.leader().await;
    region.nodes[before].stop().await;
    region.leader().await;
    region.nodes[3].start().await;
    let back = &region.nodes[3].up().consensus;
    until("it has ended", || back.ended().is_some()).await;
    assert_eq!(back.ended(), Some(Ended::Removed(forgotten)));
}

/// Blocks would wait for it, and the ring could not change again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_never_begins_is_forgotten() {
    let adjust = |id: u64, settings: &mut super::Settings| {
        brisk(id, settings);
        settings.begin_within = Duration::from_millis(700);
    };
    let region = Region::new(3, 3, adjust).await;
    region.form().await;
    let member = kvmesh_directory::Member {
        node: NodeId(4),
        address: "127.0.0.1:9".to_owned(),
        zone: "z".to_owned(),
        weight: 1,
        voter: false,
    };
    let began = Instant::now();
    let first = region.nodes[0].up();
    let join = Command::JoinNode { member };
    first.consensus.propose(join, soon()).await.unwrap();
    assert!(is_member(first, 4));
    until("it is forgotten", || !is_member(first, 4)).await;
    assert!(began.elapsed() >= Duration::from_millis(700));
    assert!(
        (1..=3).all(|node| is_member(first, node)),
        "and nobody else"
    );
}

fn is_member(node: &Running, id: u64) -> bool {
    let directory = &node.directory;
    directory.with(|state| state.topology().member(NodeId(id)).is_some())
}

/// Two of five are left, so that nobody wins and whoever may stand does so again and again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_to_end_votes_and_stands_for_no_election() {
    let mut region = Region::new(5, 5, brisk).await;
    region.form().await;
    let leader = region.leader().await;
    let (ending, other) = ((leader + 1) % 5, (leader + 2) % 5);
    region.nodes[ending].up().consensus.stand_no_more();
    for lost in [leader, (leader + 3) % 5, (leader + 4) % 5] {
        region.nodes[lost].stop().await;
    }
    let raft = |node: usize| &region.nodes[node].up().consensus.inner.group.raft;
    let term = raft(other).metrics().borrow().current_term;
    until("the other one stood six times and was voted for", || {
        let (ours, theirs) = (raft(ending).metrics(), raft(other).metrics());
        let (ours, theirs) = (ours.borrow(), theirs.borrow());
        assert_ne!(ours.state, openraft::ServerState::Candidate);
        let voted = ours.vote.leader_id().voted_for();
        theirs.current_term > term + 5 && voted == Some(region.nodes[other].id.0)
    })
    .await;
}

/// The dangerous case: what is committed is on the leader and on a voter that then loses its
/// store; the third voter lags, and asks the second one for its vote.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_voter_that_lost_its_store_does_not_vote_and_comes_back_under_a_new_number() {
    let mut region = Region::new(3, 3, brisk).await;
    region.form().await;
    let leader = region.leader().await;
    let (lags, wiped) = ((leader + 1) % 3, (leader + 2) % 3);
    region.nodes[lags].stop().await;
    write(&region.nodes[leader], 1).await;
    region.nodes[wiped].stop().await;
    region.nodes[leader].stop().await;
    region.nodes[wiped].wipe();
    region.nodes[wiped].start().await;
    region.nodes[lags].start().await;

    let candidate = &region.nodes[lags].up().consensus.inner.group.raft;
    let term = candidate.metrics().borrow().current_term;
    until("it stood for election more than once", || {
        candidate.metrics().borrow().current_term > term + 1
    })
    .await;
    assert_eq!(region.nodes[lags].up().consensus.leader(), None);
    let channels = &region.nodes[lags].up().consensus.inner.group.channels;
    let asked = channels.to(&region.members[wiped].address).unwrap();
    let vote = wire::VoteRequest {
        vote: Some(wire::RaftVote {
            term: term + 100,
            node: region.nodes[lags].id.0,
            committed: false,
        }),
        last_log_id: None,
    };
    let answer = network::client(asked)
        .vote(vote)
        .await
        .unwrap()
        .into_inner();
    assert!(!answer.granted);
    assert!(answer.vote.unwrap().term <= term + 100);

    region.nodes[leader].start().await;
    let back = &region.nodes[wiped].up().consensus;
    until("it has ended", || back.ended().is_some()).await;
    let lost = region.nodes[wiped].id;
    assert_eq!(back.ended(), Some(Ended::StoreLost(lost)));
    let held = region.nodes[leader].up();
    assert!(held.directory.with(|state| state.node(lost).is_some()));
    region.nodes[wiped].stop().await;

    region.change(leave(lost.0, true)).await;
    region.join(4, true).await;
    let voters: Vec<u64> = (1..=4).filter(|id| *id != lost.0).collect();
    region.until_voters(&voters).await;
    region.nodes[lags].stop().await;
    write(&region.nodes[3], 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_region_is_formed_only_with_all_voters_and_never_again_on_a_wiped_one() {
    let mut region = Region::new(3, 3, brisk).await;
    region.nodes[2].stop().await;
    let first = &region.nodes[0].up().consensus;
    let (name, members) = (region.name.clone(), region.members.clone());
    let without = first.init_region(name, members, soon()).await;
    match without {
        Err(ProposeError::NotReady(why)) => {
            assert!(why.contains("node 3"), "{why}");
            assert!(!why.contains("node 2"), "{why}");
        }
        other => panic!("{other:?}"),
    }
    // Two of them are prepared, and one of these is started anew: it is repeated.
    region.nodes[1].stop().await;
    region.nodes[1].start().await;
    region.nodes[2].start().await;
    region.form().await;

    let leader = region.leader().await;
    let first = (leader + 1) % 3;
    region.nodes[first].stop().await;
    region.nodes[first].wipe();
    region.nodes[first].start().await;
    let again = &region.nodes[first].up().consensus;
    let (name, members) = (region.name.clone(), region.members.clone());
    let refused = again.init_region(name.clone(), members, soon()).await;
    assert_eq!(
        refused.err(),
        Some(ProposeError::Refused(Refusal::Initialised(name)))
    );
}

/// A region of one node, made by a program of this feature level.
async fn made_at(feature_level: u32) -> Region {
    let region = Region::new(1, 1, brisk).await;
    let first = &region.nodes[0].up().consensus;
    let voter = first.voter();
    let members = region.members.clone();
    voter.prepare(&region.name, &members).await.unwrap();
    let peer = super::raft::Peer {
        address: members[0].address.clone(),
    };
    let raft = &first.inner.group.raft;
    let voters = std::collections::BTreeMap::from([(1, peer)]);
    raft.initialize(voters).await.unwrap();
    region.leader().await;
    let init = Command::InitRegion {
        region: region.name.clone(),
        log_incarnation: LogIncarnation(1),
        members,
        feature_level,
    };
    first.propose(init, soon()).await.unwrap();
    region
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_above_the_regions_feature_level_are_not_proposed_until_it_is_raised() {
    let region = made_at(0).await;
    let first = &region.nodes[0].up().consensus;
    let dead = Command::MarkDead {
        node: NodeId(1),
        incarnation: Incarnation(1),
    };
    let refused = first.propose(dead, soon()).await;
    let level = ProposeError::FeatureLevel {
        needed: 1,
        committed: 0,
    };
    assert_eq!(refused.err(), Some(level));

    let region = made_at(1).await;
    let first = region.nodes[0].up();
    let begun = |state: &kvmesh_directory::DirectoryState| {
        state.node(NodeId(1)).is_some_and(|record| record.alive)
    };
    until("it has begun", || first.directory.with(begun)).await;
    let mut costs = namespace("costs");
    costs.policy.dollars_per_gpu_hour = 2.0;
    let costs = Command::OpenNamespace(costs);
    let needed = costs.feature_level();
    let refused = first.consensus.propose(costs.clone(), soon()).await;
    let level = ProposeError::FeatureLevel {
        needed,
        committed: 1,
    };
    assert_eq!(refused.err(), Some(level));
    let raise = Command::RaiseFeatureLevel { level: needed };
    first.consensus.propose(raise, soon()).await.unwrap();
    first.consensus.propose(costs, soon()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_knows_less_than_its_region_ends_and_says_so() {
    let level = FEATURE_LEVEL + 1;
    let region = made_at(level).await;
    let first = &region.nodes[0].up().consensus;
    until("it has ended", || first.ended().is_some()).await;
    let node = NodeId(1);
    assert_eq!(first.ended(), Some(Ended::TooOld { node, level }));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_meets_an_unknown_command_stops() {
    let region = Region::new(3, 3, brisk).await;
    region.form().await;
    let leader = region.leader().await;
    let follower = (leader + 1) % 3;
    let running = region.nodes[follower].up();
    let index = running.directory.with(|state| state.applied_index()) + 1;
    let mut command = Command::OpenNamespace(namespace("later")).to_wire();
    command.version = 99;
    let term = {
        let metrics = running.consensus.inner.group.raft.metrics();
        metrics.borrow().current_term
    };
    let node = region.nodes[leader].id.0;
    let request = wire::AppendEntriesRequest {
        vote: Some(wire::RaftVote {
            term,
            node,
            committed: true,
        }),
        prev_log_id: None,
        entries: vec![RaftEntry {
            version: 1,
            id: Some(wire::RaftLogId { term, node, index }),
            payload: Some(Payload::Command(command.encode_to_vec().into())),
        }],
        leader_commit: None,
    };
    let channels = &running.consensus.inner.group.channels;
    let to = channels.to(&region.members[follower].address).unwrap();
    let deadline = Instant::now() + Duration::from_secs(5);
    let mut client = network::client(to);
    let answer = tokio::time::timeout_at(deadline, client.append_entries(request));
    assert!(answer.await.unwrap().is_err());
    until("it has ended", || running.consensus.ended().is_some()).await;
    let why = running.consensus.ended();
    assert_eq!(why, Some(Ended::UnknownCommand { index }));
}
