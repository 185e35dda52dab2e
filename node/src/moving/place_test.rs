use kvmesh_directory::{Checksum, Copy, CopyNumber, Hlc, Incarnation};

use super::*;

fn nodes(text: &str) -> Vec<NodeId> {
    let numbers = text.split_whitespace();
    numbers.map(|it| NodeId(it.parse().unwrap())).collect()
}

/// Members as `node`, with `!` for one that is dead, `?` for one that has never begun and `-` for one that is leaving; how many
/// were on the ring before; the block's holders and how many it wants of two replicas; the
/// preference lists of before and now.
fn check(
    members: &str,
    before: usize,
    (held, wanted): (&str, u32),
    rings: (&str, &str),
    want: &str,
) {
    let word = |mark: char| {
        let marked = members.split_whitespace().filter(|it| it.ends_with(mark));
        let numbers = marked.map(|it| NodeId(it.trim_end_matches(mark).parse().unwrap()));
        numbers.collect::<BTreeSet<NodeId>>()
    };
    let (dead, new, leaving) = (word('!'), word('?'), word('-'));
    let all = nodes(&members.replace(['!', '?', '-'], " "));
    let members = Members {
        alive: all
            .iter()
            .copied()
            .filter(|it| !dead.contains(it) && !new.contains(it))
            .collect(),
        new,
        staying: all.len() - leaving.len(),
        leaving,
        before,
    };
    let copy = |node| Copy {
        node,
        incarnation: Incarnation(1),
        copy: CopyNumber(1),
    };
    let entry = Entry {
        put_hlc: Hlc(1),
        checksum: Checksum([0; 16]),
        bytes: 1,
        depth: 0,
        wanted,
        holders: nodes(held).into_iter().map(copy).collect(),
    };
    let list = |nodes: Vec<NodeId>| {
        let words: Vec<String> = nodes.iter().map(NodeId::to_string).collect();
        words.join(" ")
    };
    let got = match members.next(&entry, 2, &nodes(rings.0), &nodes(rings.1)) {
        Next::InPlace => "in place".to_owned(),
        Next::Waits => "waits".to_owned(),
        Next::Copy { by, to, replicas } => format!("{by} to {} of {replicas}", list(to)),
        Next::Release(going) => format!("release {}", list(going)),
    };
    assert_eq!(got, want, "{held} wanted {wanted}");
}

#[test]
fn a_block_goes_to_its_new_owners_and_then_from_the_old_ones() {
    let rings = ("1 2 3", "4 1 2 3");
    check("1 2 3 4", 3, ("1 2", 2), rings, "1 to 4 of 2");
    check("1 2 3 4", 3, ("1 2 4", 2), rings, "release 2");
    check("1 2 3 4", 3, ("1 4", 2), rings, "in place");
    // The first of before is gone: the next one copies.
    check("1! 2 3 4", 3, ("2 3", 2), rings, "2 to 4 of 2");
    // Dead owners do not count, and nobody lets go what would then be missed.
    check("1 2 3 4!", 3, ("1 2", 2), rings, "in place");
    check("1! 2 3 4", 3, ("2 3 4", 2), rings, "release 2");
    // One that has not begun yet is waited for.
    check("1 2 3 4?", 3, ("1 2", 2), rings, "waits");
    // What was lost is repaired first.
    check("1 2 3 4", 3, ("1", 2), rings, "waits");
}

#[test]
fn what_was_evicted_stays_evicted_and_what_nodes_lacked_for_is_made() {
    check("1 2 3 4", 3, ("1", 1), ("1 2 3", "4 1 2 3"), "1 to 4 of 1");
    check("1 2 3 4", 3, ("1 4", 1), ("1 2 3", "4 1 2 3"), "release 1");
    check("1 2", 1, ("1", 1), ("1", "1 2"), "1 to 2 of 2");
    check("1 2 3", 2, ("1", 1), ("1 2", "1 3 2"), "in place");
}

#[test]
fn a_leaving_node_lets_go_only_what_the_others_have() {
    let rings = ("3 1 2", "1 2");
    check("1 2 3-", 3, ("1 3", 2), rings, "3 to 2 of 2");
    check("1 2 3-", 3, ("1 2 3", 2), rings, "release 3");
    check("1 2! 3-", 3, ("1 3", 2), rings, "waits");
    check("1 2 3-", 3, ("3", 2), rings, "waits");
    // One node alone cannot have two copies.
    check("1 3-", 2, ("1 3", 2), ("3 1", "1"), "release 3");
}

#[test]
fn where_it_was_need_not_be_known() {
    check("1 2 3", 0, ("1", 1), ("", "2 1 3"), "1 to 2 of 1");
    check("1 2 3", 0, ("1 2", 1), ("", "2 1 3"), "release 1");
}
