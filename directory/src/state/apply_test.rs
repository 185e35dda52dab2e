//! Each rule of `apply`: what happened, what is there, what was said last.

use super::testing::{
    Told, claim, copy, delete, init, member, name, namespace, position, region, start,
};
use crate::{
    command::{ChangeOutcome, Command, Refusal},
    state::{DirectoryState, Stats, TombstoneFloor},
    topology::Member,
    words::{BlockName, Hlc, LogIncarnation, NodeId},
};

fn check(story: &str, there: &str, said: &str) {
    let told = Told::after(story);
    assert_eq!(told.there(), there, "what is there after {story}");
    assert_eq!(told.said(), said, "what was said last after {story}");
}

#[test]
fn a_claim_makes_a_block_and_more_copies_join_it() {
    check(
        "put a 10 1/1/1",
        "a@10 2: 1/1/1",
        "Accepted, appeared a, claimed a 1/1/1",
    );
    check(
        "put a 10 1/1/1; put a 10 1/1/1",
        "a@10 2: 1/1/1",
        "Accepted",
    );
    check(
        "put a 10 2/1/1; put a 12 1/1/5",
        "a@10 2: 1/1/5 2/1/1",
        "Accepted, claimed a 1/1/5",
    );
    check(
        "put a 10 1/1/1 2/1/1 3/1/1",
        "a@10 2: 1/1/1 2/1/1 3/1/1",
        "Accepted, appeared a, claimed a 1/1/1, claimed a 2/1/1, claimed a 3/1/1",
    );
}

#[test]
fn a_node_has_one_copy_and_the_newest_counts() {
    check(
        "put a 10 1/1/1; put a 10 1/1/2",
        "a@10 2: 1/1/2",
        "Accepted, claimed a 1/1/2, dropped a 1/1/1",
    );
    check(
        "put a 10 1/1/2; put a 10 1/1/1",
        "a@10 2: 1/1/2",
        "Stale, dropped a 1/1/1",
    );
}

#[test]
fn only_current_copies_are_claimed_and_the_others_are_dropped() {
    check("put a 10 1/9/1", "", "Stale, dropped a 1/9/1");
    check("put a 10 4/0/1", "", "Stale, dropped a 4/0/1"); // never started
    check("put a 10 77/1/1", "", "Stale, dropped a 77/1/1"); // no member
    check("dead 1 1; put a 10 1/1/1", "", "Stale, dropped a 1/1/1");
    check(
        "put a 10 1/0/1 2/1/1",
        "a@10 2: 2/1/1",
        "Accepted, appeared a, dropped a 1/0/1, claimed a 2/1/1",
    );
}

#[test]
fn the_first_content_of_a_name_wins() {
    check(
        "put a 10 1/1/1; put a* 9 2/1/1",
        "a@10 2: 1/1/1",
        "Conflict, dropped a 2/1/1",
    );
    // A claim that names a committed copy does not undo it.
    check(
        "put a 10 1/1/1; put a* 9 1/1/1",
        "a@10 2: 1/1/1",
        "Conflict",
    );
    // Once the first is gone, another may come.
    check(
        "put a 10 1/1/1; evict a 1/1/1; put a* 9 2/1/1",
        "a@9 2: 2/1/1",
        "Accepted, appeared a, claimed a 2/1/1",
    );
}

#[test]
fn what_is_evicted_is_not_wanted_back_and_what_is_lost_is() {
    check(
        "put a 10 1/1/1 2/1/1; evict a 1/1/1",
        "a@10 1: 2/1/1",
        "Accepted",
    );
    check(
        "put a 10 1/1/1 2/1/1; retract a 1/1/1",
        "a@10 2: 2/1/1",
        "Accepted",
    );
    check("put a 10 1/1/1; evict a 1/1/1", "", "Accepted, vanished a");
    check(
        "put a 10 1/1/1; retract a 1/1/1",
        "",
        "Accepted, vanished a",
    );
    // One copy too many goes without lowering what is wanted.
    check(
        "put a 10 1/1/1 2/1/1 3/1/1; evict a 3/1/1",
        "a@10 2: 1/1/1 2/1/1",
        "Accepted",
    );
    // Repaired after a loss, then evicted.
    check(
        "put a 10 1/1/1 2/1/1; retract a 2/1/1; put a 10 3/1/1; evict a 1/1/1",
        "a@10 1: 3/1/1",
        "Accepted",
    );
}

#[test]
fn an_eviction_removes_only_the_copy_that_it_names() {
    check("put a 10 1/1/2; evict a 1/1/1", "a@10 2: 1/1/2", "Stale");
    check("put a 10 1/1/2; evict a 2/1/2", "a@10 2: 1/1/2", "Stale");
    check("put a 10 1/1/2; retract a 1/9/2", "a@10 2: 1/1/2", "Stale");
    check("evict a 1/1/1", "", "Stale");
    check(
        "put a 10 2/1/1; start 1 2; retract a 1/1/1",
        "a@10 2: 2/1/1",
        "Stale",
    );
}

#[test]
fn a_start_loses_what_the_node_had_before() {
    check("start 4 5", "", "began 4/1");
    check("start 1 2", "", "began 1/2");
    check(
        "put a 10 1/1/1; put b 10 1/1/2 2/1/2; put c 9 2/1/3; start 1 2",
        "b@10 2: 2/1/2; c@9 2: 2/1/3",
        "began 1/2, vanished a",
    );
    // The same start asks again.
    check("put a 10 1/1/1; start 1 1", "a@10 2: 1/1/1", "");
}

#[test]
fn a_dead_node_loses_its_copies_and_returns_with_a_new_incarnation() {
    check("put a 10 1/1/1 2/1/1; dead 1 1", "a@10 2: 2/1/1", "died 1");
    check("put a 10 1/1/1; dead 1 1", "", "died 1, vanished a");
    check("put a 10 1/1/1; dead 1 0", "a@10 2: 1/1/1", "");
    check("dead 1 1; dead 1 1", "", "");
    check("dead 1 1; start 1 1", "", "began 1/2");
    check(
        "dead 9 1",
        "",
        "refused: node 9 is not a member of the region",
    );
    let told = Told::after("dead 1 1; start 1 1");
    assert_eq!(told.outcome.incarnation.map(|i| i.0), Some(2));
    let record = *told.state.node(NodeId(1)).unwrap();
    assert!(record.alive && record.incarnation.0 == 2);
}

#[test]
fn deleted_names_stay_deleted_for_older_puts() {
    check(
        "put a 10 1/1/1 2/1/1; delete 10 a",
        "",
        "vanished a, dropped a 1/1/1, dropped a 2/1/1, deleted a at 10",
    );
    check(
        "delete 10 a; put a 10 1/1/1",
        "",
        "Deleted, dropped a 1/1/1",
    );
    check(
        "delete 10 a; put a 11 1/1/1",
        "a@11 2: 1/1/1",
        "Accepted, appeared a, claimed a 1/1/1",
    );
    check(
        "put a 10 1/1/1; delete 9 a b",
        "a@10 2: 1/1/1",
        "deleted ab at 9",
    );
    // An older claim of a block that is there is refused, and the block stays.
    check(
        "delete 10 a; put a 11 1/1/1; put a 10 2/1/1",
        "a@11 2: 1/1/1",
        "Deleted, dropped a 2/1/1",
    );
    let told = Told::after("put a 10 1/1/1; put b 10 1/1/2; put c 99 1/1/3; delete 50 a b c d");
    assert_eq!(told.outcome.deleted, 2);
    assert_eq!(told.state.hlc_max(), Hlc(99));
}

#[test]
fn a_repeated_or_older_delete_says_nothing() {
    check("delete 10 a; delete 10 a", "", "");
    check("delete 10 a; delete 9 a b", "", "deleted b at 9");
    let told = Told::after("delete 10 a; delete 9 a");
    assert_eq!(told.state.tombstone(&name(b'a')).unwrap().hlc, Hlc(10));
}

#[test]
fn a_raise_makes_older_blocks_invisible() {
    check(
        "put a 10 1/1/1; put b 11 1/1/2; raise 10",
        "b@11 2: 1/1/2",
        "raised 10, vanished a, dropped a 1/1/1",
    );
    check("raise 10; put a 10 1/1/1", "", "Deleted, dropped a 1/1/1");
    check("raise 10; raise 9", "", "");
}

#[test]
fn dropped_tombstones_raise_the_floor() {
    let told = Told::after("delete 10 a; delete 30 b; delete 20 c; forget 20");
    assert_eq!(told.said(), "");
    assert_eq!(
        told.state.floor(),
        TombstoneFloor {
            index: 8,
            hlc: Hlc(20)
        }
    );
    let left: Vec<_> = told.state.tombstones().map(|(name, _)| name).collect();
    assert_eq!(left, [name(b'b')]);
    check(
        "delete 10 a; forget 10; put a 5 1/1/1",
        "a@5 2: 1/1/1",
        "Accepted, appeared a, claimed a 1/1/1",
    );
}

#[test]
fn a_full_table_of_tombstones_forgets_the_oldest() {
    let mut told = Told::begin();
    told.state.tombstones =
        crate::state::tombstones::Tombstones::with_max(TombstoneFloor::default(), 32);
    for hlc in 1..=32 {
        told.apply(&Command::Delete(delete(100 + hlc, &[hlc as u8])));
    }
    assert_eq!(
        (told.state.stats().tombstones, told.state.floor().index),
        (32, 0)
    );
    // Older than all: forgotten at once, and so it is no news.
    told.apply(&Command::Delete(delete(50, &[77, 78, 79])));
    assert_eq!(
        (told.said().as_str(), told.state.stats().tombstones),
        ("", 30)
    );
    assert_eq!(told.state.floor().hlc, Hlc(102));
    assert!(told.state.tombstone(&name(3)).is_some());
}

#[test]
fn nothing_comes_before_the_region() {
    let mut state = DirectoryState::empty();
    let (outcome, events) = state.apply(1, &Command::Blocks(vec![]));
    assert_eq!(
        (outcome.refused, events.len()),
        (Some(Refusal::NotInitialised), 0)
    );
    assert_eq!((state.applied_index(), state.position()), (1, None));
    assert_eq!(state.apply(2, &init()).0.refused, None);
    assert_eq!(state.position(), Some(position("here", 7, 2)));
    let again = state.apply(3, &init()).0.refused;
    assert_eq!(again, Some(Refusal::Initialised(region("here"))));
    assert_eq!(state.topology().epoch.0, 1);
    let nodes: Vec<_> = state
        .nodes()
        .map(|record| (record.node.0, record.alive))
        .collect();
    assert_eq!(nodes, [(1, false), (2, false), (3, false), (4, false)]);
}

#[test]
fn members_that_cannot_form_a_region_are_refused() {
    let refused = |change: fn(&mut Vec<Member>)| {
        let mut members: Vec<_> = [1, 2, 3].map(member).to_vec();
        change(&mut members);
        let command = Command::InitRegion {
            region: region("here"),
            log_incarnation: LogIncarnation(7),
            members,
            feature_level: 1,
        };
        let mut state = DirectoryState::empty();
        match state.apply(1, &command).0.refused {
            Some(Refusal::Members(why)) => why,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(refused(|m| m[1].node = NodeId(1)), "node 1 is listed twice");
    assert_eq!(
        refused(|m| m[1].address = m[0].address.clone()),
        "address 127.0.0.1:1 is listed twice"
    );
    assert_eq!(
        refused(|m| m[0].weight = 0),
        "node 1 has weight 0, expected 1 to 16"
    );
    assert_eq!(
        refused(|m| m[0].weight = 17),
        "node 1 has weight 17, expected 1 to 16"
    );
    assert_eq!(
        refused(|m| m[0].voter = false),
        "2 voters, expected 1, 3 or 5"
    );
    assert_eq!(refused(|m| m.clear()), "0 voters, expected 1, 3 or 5");
    assert_eq!(refused(|m| m[0].address.clear()), "node 1 has no address");
}

#[test]
fn blocks_of_an_unknown_namespace_are_refused() {
    let mut told = Told::begin();
    let mut change = claim(name(b'a'), "a", 10, vec![copy(1, 1, 1)]);
    change.name.namespace = namespace("unknown", "").id;
    told.apply(&Command::Blocks(vec![
        change,
        claim(name(b'b'), "b", 10, vec![copy(1, 1, 2)]),
    ]));
    assert_eq!(
        told.outcome.changes,
        [ChangeOutcome::UnknownNamespace, ChangeOutcome::Accepted]
    );
    let mut unknown = delete(9, b"a");
    unknown.namespace = namespace("unknown", "").id;
    let id = unknown.namespace;
    told.apply(&Command::Delete(unknown));
    assert_eq!(told.outcome.refused, Some(Refusal::UnknownNamespace(id)));
}

#[test]
fn counts_and_the_list_of_blocks_that_lack_copies_follow() {
    let told = Told::after(
        "put a 10 1/1/1 2/1/1; put b 10 1/1/2; put c 10 3/1/1 2/1/2; dead 3 1; delete 4 z",
    );
    let expected = Stats {
        blocks: 3,
        copies: 4,
        bytes: 300,
        under_replicated: 2,
        tombstones: 1,
        namespaces: 1,
    };
    assert_eq!(told.state.stats(), expected);
    let lacking =
        |after: Option<&BlockName>| told.state.under_replicated(after).collect::<Vec<_>>();
    assert_eq!(lacking(None), [name(b'b'), name(b'c')]);
    assert_eq!(lacking(Some(&name(b'b'))), [name(b'c')]);
    assert_eq!(lacking(Some(&name(b'a'))), [name(b'b'), name(b'c')]);
    assert!(told.state.entry(&name(b'a')).is_some() && told.state.entry(&name(b'z')).is_none());
}

#[test]
fn a_block_has_at_most_twice_the_copies_that_can_be_wanted() {
    let mut told = Told {
        state: DirectoryState::empty(),
        ..Told::begin()
    };
    let members = (1..=20).map(member).collect();
    told.apply(&Command::InitRegion {
        region: region("here"),
        log_incarnation: LogIncarnation(7),
        members,
        feature_level: 1,
    });
    (1..=20).for_each(|node| told.apply(&start(node, 1)));
    told.apply(&Command::OpenNamespace(namespace("m", "ns")));
    let copies = (1..=20).map(|node| copy(node, 1, 1)).collect();
    told.apply(&Command::Blocks(vec![claim(name(b'a'), "a", 10, copies)]));
    assert_eq!(told.state.entry(&name(b'a')).unwrap().holders.len(), 16);
    assert_eq!(told.events.len(), 1 + 20);
}

#[test]
fn no_more_copies_are_wanted_than_there_are_members() {
    let mut told = Told {
        state: DirectoryState::empty(),
        ..Told::begin()
    };
    told.apply(&Command::InitRegion {
        region: region("here"),
        log_incarnation: LogIncarnation(7),
        members: vec![member(1)],
        feature_level: 1,
    });
    told.apply(&start(1, 1));
    told.apply(&Command::OpenNamespace(namespace("m", "ns")));
    let copies = vec![copy(1, 1, 1)];
    told.apply(&Command::Blocks(vec![claim(name(b'a'), "a", 10, copies)]));
    assert_eq!(told.there(), "a@10 1: 1/1/1");
    assert_eq!(told.state.stats().under_replicated, 0);
}
