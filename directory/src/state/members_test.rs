//! Nodes that join, leave and are lost: who is a member, who votes, and what becomes of copies.

use super::testing::{Told, command, init, member, name};
use crate::{
    command::{Command, Refusal},
    limits::{FEATURE_BEGIN_FILLS_VOTERS, FEATURE_LEVEL, NODES_MAX, WEIGHT_MAX},
    ring::Ring,
    state::DirectoryState,
    topology::Member,
    words::{NodeId, RingEpoch},
};

/// The members after a story, and what was said last. The region begins as `1v 2v 3v 4 @1`,
/// and nodes 1 to 3 have begun.
fn check(story: &str, members: &str, said: &str) {
    let told = Told::after(story);
    assert_eq!(told.members(), members, "members after {story}");
    assert_eq!(told.said(), said, "what was said last after {story}");
}

const MOVING: &str = "refused: blocks still move to ring epoch 2: \
    wait until `meshctl node list` shows that they have";

#[test]
fn a_node_joins_and_the_ring_before_is_known_until_blocks_have_moved() {
    check("join 5", "1v 2v 3v 4 5 @2 from 1 2 3 4", "epoch 2");
    check("join 5; moved 2", "1v 2v 3v 4 5 @2", "moved to 2");
    check("join 5; moved 1", "1v 2v 3v 4 5 @2 from 1 2 3 4", "");
    check("moved 1", "1v 2v 3v 4 @1", "");
    check("join 5; moved 2; moved 2", "1v 2v 3v 4 5 @2", "");
    check("join 5; join 6", "1v 2v 3v 4 5 @2 from 1 2 3 4", MOVING);
    // The same again, as after a lost answer.
    check("join 5; join 5", "1v 2v 3v 4 5 @2 from 1 2 3 4", "");
    check("join 4", "1v 2v 3v 4 @1", "");
}

#[test]
fn a_node_that_cannot_be_a_member_is_refused() {
    let refused = |change: fn(&mut Member)| {
        let mut told = Told::begin();
        let mut member = member(5);
        change(&mut member);
        told.apply(&Command::JoinNode { member });
        assert_eq!(told.members(), "1v 2v 3v 4 @1");
        told.outcome.refused.unwrap().to_string()
    };
    let said = [
        (
            refused(|it| it.node = NodeId(4)),
            "number 4 belongs to the member at 127.0.0.1:4: use another one",
        ),
        (
            refused(|it| it.address = "127.0.0.1:4".to_owned()),
            "address 127.0.0.1:4 belongs to member 4: use another one",
        ),
        (
            refused(|it| it.weight = WEIGHT_MAX + 1),
            "node 5 has weight 17, expected 1 to 16",
        ),
        (
            refused(|it| it.weight = 0),
            "node 5 has weight 0, expected 1 to 16",
        ),
        (refused(|it| it.address.clear()), "node 5 has no address"),
        (
            refused(|it| it.zone = "z".repeat(257)),
            "node 5 has zone of 257 bytes, at most 256",
        ),
        (refused(|it| it.node = NodeId(0)), "node numbers begin at 1"),
    ];
    for (got, want) in said {
        assert_eq!(got, format!("the node cannot join: {want}"));
    }
    // A member that does not vote does not come to vote by asking again.
    check(
        "join 4 voter",
        "1v 2v 3v 4 @1",
        "refused: the node cannot join: number 4 belongs to the member at 127.0.0.1:4: \
         use another one",
    );
}

#[test]
fn a_region_has_a_bounded_number_of_members() {
    let mut told = Told {
        state: DirectoryState::empty(),
        ..Told::begin()
    };
    let Command::InitRegion {
        region,
        log_incarnation,
        ..
    } = init()
    else {
        unreachable!()
    };
    told.apply(&Command::InitRegion {
        region,
        log_incarnation,
        members: (1..=NODES_MAX as u64).map(member).collect(),
        feature_level: 1,
    });
    assert_eq!(told.outcome.refused, None);
    let member = member(NODES_MAX as u64 + 1);
    told.apply(&Command::JoinNode { member });
    assert!(
        matches!(told.outcome.refused, Some(Refusal::Full { limit, .. }) if limit == NODES_MAX)
    );
}

#[test]
fn as_many_vote_as_are_wanted() {
    // Asking raises what is wanted to the next possible number, and later ones fill it.
    check(
        "join 5 voter; moved 2; join 6; moved 3; join 7",
        "1v 2v 3v 4 5v 6v 7 @4 from 1 2 3 4 5 6",
        "epoch 4",
    );
    check(
        "join 5 voter; moved 2; join 6 voter; moved 3; join 7 voter",
        "1v 2v 3v 4 5v 6v @3",
        "refused: the node cannot join: 5 members vote already: join without voting",
    );
    // Whoever leaves stops being one at once; the first living one takes its place.
    check("leave 2", "1v 2- 3v 4 @2 from 1 2 3 4", "epoch 2");
    check(
        "start 4 1; leave 2",
        "1v 2- 3v 4v @2 from 1 2 3 4",
        "epoch 2",
    );
    check(
        "start 4 1; lose 2",
        "1v 3v 4v @2 from 1 2 3 4",
        "epoch 2, removed 2",
    );
    // When nobody lives to take it, the next one that begins does, once as many are lacking.
    check(
        "leave 2; start 4 1",
        "1v 2- 3v 4v @2 from 1 2 3 4",
        "began 4/1",
    );
    check(
        "lose 2; moved 2; join 5; start 4 1",
        "1v 3v 4 5v @3 from 1 3 4",
        "began 4/2",
    );
    check(
        "dead 3 1; lose 2; moved 2; lose 3; moved 3; start 4 1; join 5; start 5 1",
        "1v 4v 5v @4 from 1 4",
        "began 5/2",
    );
    check(
        "leave 2; start 2 2",
        "1v 2- 3v 4 @2 from 1 2 3 4",
        "began 2/2",
    );
    check("lose 2; join 5", "1v 3v 4 @2 from 1 2 3 4", MOVING);
    check(
        "lose 2; moved 2; join 5",
        "1v 3v 4 5v @3 from 1 3 4",
        "epoch 3",
    );
}

#[test]
fn a_start_fills_the_place_of_a_voter_only_from_its_feature_level_on() {
    let members = |level: u32| {
        let mut formed = init();
        if let Command::InitRegion { feature_level, .. } = &mut formed {
            *feature_level = level;
        }
        let mut told = Told {
            state: DirectoryState::empty(),
            ..Told::begin()
        };
        told.apply(&formed);
        let story = [
            "start 1 1",
            "start 2 1",
            "start 3 1",
            "leave 2",
            "start 4 1",
        ];
        story.iter().for_each(|step| told.apply(&command(step)));
        told.members()
    };
    let before = FEATURE_BEGIN_FILLS_VOTERS - 1;
    assert_eq!(members(before), "1v 2- 3v 4 @2 from 1 2 3 4");
    assert_eq!(
        members(FEATURE_BEGIN_FILLS_VOTERS),
        "1v 2- 3v 4v @2 from 1 2 3 4"
    );
}

#[test]
fn a_node_leaves_the_ring_at_once_and_the_region_when_it_holds_nothing() {
    check("leave 2; leave 2", "1v 2- 3v 4 @2 from 1 2 3 4", "");
    check("leave 2; leave 3", "1v 2- 3v 4 @2 from 1 2 3 4", MOVING);
    check("leave 2; moved 2", "1v 3v 4 @2", "removed 2, moved to 2");
    check(
        "leave 7",
        "1v 2v 3v 4 @1",
        "refused: node 7 is not a member of the region",
    );
    // What it holds has to move first.
    check(
        "put a 10 2/1/1; leave 2; moved 2",
        "1v 2- 3v 4 @2 from 1 2 3 4",
        "",
    );
    check(
        "put a 10 2/1/1; leave 2; put a 10 1/1/1; evict a 2/1/1; moved 2",
        "1v 3v 4 @2",
        "removed 2, moved to 2",
    );
    check("leave 2; join 2", "1v 2- 3v 4 @2 from 1 2 3 4", MOVING);
}

#[test]
fn what_a_lost_node_held_is_repaired() {
    let told = Told::after("put a 10 1/1/1 2/1/1; put b 10 2/1/2; lose 2");
    assert_eq!(told.said(), "epoch 2, removed 2, vanished b");
    assert_eq!(told.there(), "a@10 2: 1/1/1");
    assert_eq!(told.state.under_replicated(None).next(), Some(name(b'a')));
    // Its claims are void.
    check(
        "lose 2; put a 10 2/1/1",
        "1v 3v 4 @2 from 1 2 3 4",
        "Stale, dropped a 2/1/1",
    );
}

#[test]
fn a_node_without_copies_to_move_is_to_be_forgotten() {
    let gone = |node| {
        format!(
            "refused: node {node} is dead or has never begun, and has no copies to move: \
             use `meshctl node leave {node} --forget`"
        )
    };
    check("leave 4", "1v 2v 3v 4 @1", &gone(4));
    check("dead 2 1; leave 2", "1v 2v 3v 4 @1", &gone(2));
    check(
        "dead 2 1; lose 2",
        "1v 3v 4 @2 from 1 2 3 4",
        "epoch 2, removed 2",
    );
}

#[test]
fn the_last_member_stays() {
    let last = "refused: node 1 is the last one that holds blocks: let another one join first";
    let two = "lose 4; moved 2; lose 3; moved 3";
    check(&format!("{two}; lose 2; moved 4; lose 1"), "1v @4", last);
    check(&format!("{two}; lose 2; moved 4; leave 1"), "1v @4", last);
    check(
        &format!("{two}; leave 2; lose 1"),
        "1v 2- @4 from 1 2",
        last,
    );
}

#[test]
fn a_node_may_be_lost_while_blocks_move() {
    // Then no one ring says where blocks were.
    check(
        "join 5; lose 4",
        "1v 2v 3v 5 @3 from ",
        "epoch 3, removed 4",
    );
    check(
        "join 5; lose 5",
        "1v 2v 3v 4 @3 from ",
        "epoch 3, removed 5",
    );
    // One that is leaving is not on the ring any more.
    check("leave 3; lose 3", "1v 2v 4 @2 from 1 2 3 4", "removed 3");
    check("join 5; lose 4; moved 2", "1v 2v 3v 5 @3 from ", "");
    check("join 5; lose 4; moved 3", "1v 2v 3v 5 @3", "moved to 3");
}

#[test]
fn the_rings_of_before_and_now_are_both_known() {
    let nodes = |ring: &Ring| {
        let owned = ring.ownership().into_iter();
        owned.map(|(node, _)| node.0).collect::<Vec<_>>()
    };
    let told = Told::after("leave 2");
    let topology = told.state.topology();
    let (before, now) = (Ring::before(topology).unwrap(), Ring::build(topology));
    assert_eq!(
        (nodes(&before), before.epoch()),
        (vec![1, 2, 3, 4], RingEpoch(1))
    );
    assert_eq!((nodes(&now), now.epoch()), (vec![1, 3, 4], RingEpoch(2)));
    assert_eq!(before.preference(&name(b'a')).len(), 4);
    let told = Told::after("leave 2; moved 2");
    assert!(Ring::before(told.state.topology()).is_none());
    // After two changes any block may be elsewhere.
    let told = Told::after("join 5; lose 4");
    let topology = told.state.topology();
    let (before, now) = (Ring::before(topology).unwrap(), Ring::build(topology));
    assert_eq!(before.moved(&now, 2).arcs(), [(0, u64::MAX)]);
}

#[test]
fn copies_keep_their_nodes_whoever_comes_and_goes() {
    // Node 2's place is free for node 5; copies are listed by node all the same.
    let told = Told::after(
        "put a 10 3/1/1 1/1/1; lose 2; moved 2; join 5; start 5 1; moved 3; put a 10 5/2/1",
    );
    assert_eq!(told.there(), "a@10 2: 1/1/1 3/1/1 5/2/1");
    let told =
        Told::after("put a 10 3/1/1; lose 2; moved 2; join 5; start 5 1; put a 10 5/2/1; raise 10");
    assert_eq!(
        told.said(),
        "raised 10, vanished a, dropped a 5/2/1, dropped a 3/1/1"
    );
}

#[test]
fn a_number_that_comes_back_does_not_own_the_claims_of_before() {
    check(
        "start 2 2; leave 2; moved 2; join 2; start 2 3",
        "1v 2v 3v 4 @3 from 1 3 4",
        "began 2/3",
    );
    check(
        "leave 2; moved 2; join 2; start 2 3; put a 10 2/1/1",
        "1v 2v 3v 4 @3 from 1 3 4",
        "Stale, dropped a 2/1/1",
    );
}

#[test]
fn a_voter_keeps_its_store() {
    let lost = "refused: the Raft store of node 1 is not the one it had: \
        run `meshctl node leave 1 --forget` and join with a new number";
    check("restart 1 2 7; restart 1 3 8", "1v 2v 3v 4 @1", lost);
    check("restart 1 2 7; restart 1 3 7", "1v 2v 3v 4 @1", "began 1/3");
    check("restart 1 2 7; restart 1 2 8", "1v 2v 3v 4 @1", lost);
    // A build that does not say, or has not said before.
    check("restart 1 2 7; restart 1 3 0", "1v 2v 3v 4 @1", "began 1/3");
    check(
        "restart 1 2 7; restart 1 3 0; restart 1 4 8",
        "1v 2v 3v 4 @1",
        lost,
    );
    check("restart 1 2 0; restart 1 3 8", "1v 2v 3v 4 @1", "began 1/3");
    // Nobody counts on the votes of the others.
    check("restart 4 1 7; restart 4 2 8", "1v 2v 3v 4 @1", "began 4/2");
    // It may not have been released yet.
    check(
        "restart 1 2 7; leave 1; restart 1 3 8",
        "1- 2v 3v 4 @2 from 1 2 3 4",
        lost,
    );
}

#[test]
fn a_copy_is_let_go_only_when_enough_others_stay() {
    let check = |story: &str, there: &str, said: &str| {
        let told = Told::after(story);
        assert_eq!(told.there(), there, "what is there after {story}");
        assert_eq!(told.said(), said, "what was said last after {story}");
    };
    check(
        "put a 10 1/1/1 2/1/1 3/1/1; release a 1/1/1",
        "a@10 2: 2/1/1 3/1/1",
        "Accepted, dropped a 1/1/1",
    );
    check(
        "put a 10 1/1/1 2/1/1; release a 1/1/1",
        "a@10 2: 1/1/1 2/1/1",
        "Stale",
    );
    check(
        "put a 10 1/1/1 2/1/1 3/1/1; release a 1/1/9",
        "a@10 2: 1/1/1 2/1/1 3/1/1",
        "Stale",
    );
    // Copies on nodes that leave do not count.
    check(
        "put a 10 1/1/1 2/1/1 3/1/1; leave 3; release a 1/1/1",
        "a@10 2: 1/1/1 2/1/1 3/1/1",
        "Stale",
    );
    check(
        "put a 10 1/1/1 2/1/1 3/1/1; leave 3; release a 3/1/1",
        "a@10 2: 1/1/1 2/1/1",
        "Accepted, dropped a 3/1/1",
    );
    // One node alone cannot have two copies, and then lacks nothing.
    let two = "lose 4; moved 2; lose 3; moved 3; put a 10 1/1/1 2/1/1; leave 2";
    check(
        &format!("{two}; release a 2/1/1"),
        "a@10 1: 1/1/1",
        "Accepted, dropped a 2/1/1",
    );
    check(
        &format!("{two}; release a 1/1/1"),
        "a@10 2: 1/1/1 2/1/1",
        "Stale",
    );
}

#[test]
fn the_feature_level_rises_once_every_member_that_has_begun_knows_it() {
    let after = |story: &str| {
        let told = Told::after(story);
        (told.state.feature_level(), told.said())
    };
    let now = FEATURE_LEVEL;
    let next = now + 1;
    let refused = |node: u64, knows: u32, level: u32| {
        let node = NodeId(node);
        let why = Refusal::LevelUnknown { node, knows, level };
        format!("refused: {why}")
    };
    let nothing = String::new();
    // Nodes 1 to 3 have begun, and know the present level; node 4 has not.
    assert_eq!(
        after(&format!("level {next}")),
        (now, refused(1, now, next))
    );
    let two = format!("knows 1 2 {next}; knows 2 2 {next}");
    assert_eq!(
        after(&format!("{two}; level {next}")),
        (now, refused(3, now, next))
    );
    let risen = format!("{two}; knows 3 2 {next}; level {next}");
    assert_eq!(after(&risen), (next, nothing.clone()));
    // A dead one would come back with what it knew.
    assert_eq!(
        after(&format!("{two}; dead 3 1; level {next}")),
        (now, refused(3, now, next))
    );
    assert_eq!(
        after(&format!("{two}; lose 3; level {next}")),
        (next, nothing.clone())
    );
    // The same again, and there is no way back.
    assert_eq!(
        after(&format!("{risen}; level {next}")),
        (next, nothing.clone())
    );
    assert_eq!(after(&format!("{risen}; level {now}")), (next, nothing));
    // Who knows less than the region, or does not say, does not begin.
    assert_eq!(
        after(&format!("{risen}; knows 4 1 {now}")),
        (next, refused(4, now, next))
    );
    assert_eq!(
        after(&format!("{risen}; knows 3 3 0")),
        (next, refused(3, 0, next))
    );
}
