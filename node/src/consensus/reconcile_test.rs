use super::{Change, Seen, Wanted, next};

/// `members` has a `+` behind those that are to vote and a `?` behind those that have not
/// begun; `group` a `+` behind voters, `.` behind those that lag, and the leader first.
fn case(group: &str, members: &str) -> String {
    let number = |word: &str| {
        word.trim_end_matches(['+', '?', '.'])
            .parse::<u64>()
            .unwrap()
    };
    let mut seen = Seen::default();
    for (at, word) in group.split(' ').enumerate() {
        let node = number(word);
        seen.nodes.insert(node);
        if at == 0 {
            seen.me = node;
        }
        if word.contains('+') {
            seen.voters.insert(node);
        }
        if !word.contains('.') {
            seen.caught_up.insert(node);
        }
    }
    let mut wanted = Wanted::default();
    for word in members.split(' ') {
        let node = number(word);
        wanted.members.insert(node, format!("host{node}"));
        if word.contains('+') {
            wanted.voters.insert(node);
        }
        if !word.contains('?') {
            wanted.begun.insert(node);
        }
    }
    match next(&seen, &wanted) {
        None => "nothing".to_owned(),
        Some(Change::Follow(node, address)) => format!("follow {node} {address}"),
        Some(Change::Vote { voters, keep }) => {
            let voters: Vec<_> = voters.iter().map(u64::to_string).collect();
            format!(
                "vote {} {}",
                voters.join(" "),
                if keep { "keep" } else { "drop" }
            )
        }
        Some(Change::Remove(node)) => format!("remove {node}"),
    }
}

#[test]
fn the_group_becomes_what_the_topology_says_step_by_step() {
    for (group, members, change) in [
        ("1+ 2+ 3+", "1+ 2+ 3+", "nothing"),
        ("1+", "1+ 2", "follow 2 host2"),
        ("1+ 2", "1+ 2", "nothing"),
        ("1+ 2", "1+ 2+ 3+", "follow 3 host3"),
        ("1+ 2 3", "1+ 2+ 3+", "vote 1 2 keep"),
        ("1+ 2. 3", "1+ 2+ 3+", "vote 1 3 keep"),
        ("1+ 2 3", "1+ 2+? 3+?", "nothing"),
        // A voter that goes waits for its replacement, and then follows while it is a member.
        ("1+ 2+ 3+ 4.", "1+ 2 3+ 4+", "nothing"),
        ("1+ 2+ 3+ 4", "1+ 2 3+ 4+", "vote 1 2 3 4 keep"),
        ("1+ 2+ 3+ 4+", "1+ 2 3+ 4+", "vote 1 3 4 keep"),
        ("1+ 2 3+ 4+", "1+ 3+ 4+", "remove 2"),
        // One that was forgotten goes at once, unless it leaves too few.
        ("1+ 2+ 3+", "1+ 3+", "vote 1 3 drop"),
        ("1+ 2+ 3+ 4.", "1+ 3+ 4+", "nothing"),
        // The leader is the last to go.
        ("1+ 2+ 3+ 4+", "3+ 4+", "vote 1 3 4 drop"),
        ("1+ 3+ 4+", "3+ 4+", "vote 3 4 drop"),
        ("1+", "1", "nothing"),
    ] {
        assert_eq!(case(group, members), change, "{group} -> {members}");
    }
}

#[test]
fn a_change_that_was_left_halfway_is_finished_first() {
    let seen = Seen {
        me: 1,
        joint: true,
        voters: [1, 2].into(),
        nodes: [1, 2].into(),
        ..Seen::default()
    };
    let wanted = Wanted {
        members: [(1, "a".to_owned())].into(),
        voters: [1].into(),
        ..Wanted::default()
    };
    let voters = [1, 2].into();
    assert_eq!(
        next(&seen, &wanted),
        Some(Change::Vote { voters, keep: true })
    );
}
