//! Made-up histories: a violation of each kind is found, and what may be is not one.

use super::{Rule, judge};
use crate::{
    content::{Content, Name},
    history::{History, Kind, Loss, Op, PutTold},
    rpc::Opening,
    trace::Mark,
};

const NAME: Name = Name {
    namespace: 0,
    chain: 0,
    index: 0,
};
const C: Content = Content(1);
const ACKED: PutTold = PutTold::Acked {
    copies: 2,
    existed: false,
};

fn op(region: usize, begun: u64, ended: u64, kind: Kind) -> Op {
    Op {
        client: format!("client of {region}"),
        region,
        begun: Mark(begun),
        ended: (ended > 0).then_some(Mark(ended)),
        kind,
    }
}

fn put(region: usize, begun: u64, ended: u64, told: PutTold) -> Op {
    let (name, content) = (NAME, C);
    let kind = Kind::Put {
        name,
        content,
        told,
    };
    op(region, begun, ended, kind)
}

fn delete(region: usize, begun: u64, ended: u64, acked: bool) -> Op {
    let names = vec![NAME];
    op(region, begun, ended, Kind::Delete { names, acked })
}

fn get(region: usize, begun: u64, content: Result<Content, String>, settled: bool) -> Op {
    let got = vec![(NAME, content, "there".to_owned())];
    op(region, begun, begun + 1, Kind::Get { got, settled })
}

fn rules(ops: Vec<Op>) -> Vec<Rule> {
    let history = History {
        ops,
        ..History::default()
    };
    let found = judge(&history);
    found.into_iter().map(|violation| violation.rule).collect()
}

#[test]
fn bytes_that_nobody_put_are_found() {
    let wrong = Err("torn".to_owned());
    assert_eq!(rules(vec![get(0, 5, wrong, false)]), [Rule::Bytes]);
    assert_eq!(rules(vec![get(0, 5, Ok(C), false)]), [Rule::Bytes]);
    let early = vec![get(0, 1, Ok(C), false), put(0, 5, 6, ACKED)];
    assert_eq!(rules(early), [Rule::Bytes]);
    let meanwhile = vec![put(0, 1, 9, ACKED), get(0, 5, Ok(C), false)];
    assert_eq!(rules(meanwhile), []);
}

#[test]
fn a_refused_block_that_is_served_is_found() {
    let told = |told| rules(vec![put(0, 1, 2, told), get(0, 5, Ok(C), false)]);
    assert_eq!(told(PutTold::Refused), [Rule::Refused]);
    assert_eq!(told(PutTold::Unknown), []);
    assert_eq!(told(ACKED), []);
    let again = vec![
        put(0, 1, 2, PutTold::Refused),
        put(0, 3, 4, PutTold::Unknown),
        get(0, 5, Ok(C), false),
    ];
    assert_eq!(rules(again), []);
}

#[test]
fn a_deleted_block_that_comes_back_is_found() {
    let story = |deleting: Op, getting: Op| {
        let putting = put(0, 1, 2, ACKED);
        rules(vec![putting, deleting, getting])
    };
    let after = || get(0, 7, Ok(C), false);
    assert_eq!(story(delete(0, 3, 4, true), after()), [Rule::Deleted]);
    assert_eq!(story(delete(0, 3, 4, false), after()), []);
    assert_eq!(story(delete(0, 3, 8, true), after()), []);
    // Another region's delete may be on its way, until everything has settled.
    assert_eq!(story(delete(1, 3, 4, true), after()), []);
    let settled = get(0, 7, Ok(C), true);
    assert_eq!(story(delete(1, 3, 4, true), settled), [Rule::Deleted]);
}

#[test]
fn a_put_by_a_past_ring_that_is_taken_is_found() {
    let story = |told, lost: &[(usize, usize, u64)]| {
        let kind = Kind::Straggle { node: 1, told };
        let loss = |(region, node, at): &(usize, usize, u64)| Loss {
            region: *region,
            node: *node,
            at: Mark(*at),
        };
        let history = History {
            ops: vec![op(0, 5, 8, kind)],
            losses: lost.iter().map(loss).collect(),
            ..History::default()
        };
        judge(&history).len()
    };
    assert_eq!(story(Opening::Taken, &[]), 1);
    assert_eq!(story(Opening::Refused, &[]), 0);
    assert_eq!(story(Opening::Unknown, &[]), 0);
    // A node that began anew in between may not have caught up; another one did not.
    assert_eq!(story(Opening::Taken, &[(0, 1, 6)]), 0);
    assert_eq!(story(Opening::Taken, &[(0, 1, 4), (0, 1, 9)]), 1);
    assert_eq!(story(Opening::Taken, &[(0, 0, 6), (1, 1, 6)]), 1);
}

#[test]
fn what_may_have_been_put_after_a_delete_may_be_there() {
    let story = |told, ended| {
        let ops = vec![
            put(0, 1, ended, told),
            delete(0, 3, 4, true),
            get(0, 7, Ok(C), true),
        ];
        rules(ops)
    };
    assert_eq!(story(ACKED, 2), [Rule::Deleted]);
    assert_eq!(story(ACKED, 5), []);
    assert_eq!(story(PutTold::Unknown, 2), []);
    assert_eq!(story(PutTold::Unknown, 0), []);
}

/// A put in region 0, then losses of its nodes (node, mark) and marks at which it was whole.
fn lost(losses: &[(usize, u64)], whole: &[u64], more: Vec<Op>) -> Vec<Rule> {
    let mut ops = vec![put(0, 10, 11, ACKED)];
    ops.extend(more);
    let loss = |(node, at): &(usize, u64)| Loss {
        region: 0,
        node: *node,
        at: Mark(*at),
    };
    let history = History {
        ops,
        losses: losses.iter().map(loss).collect(),
        whole: whole.iter().map(|at| (0, Mark(*at))).collect(),
        present: vec![Default::default(); 2],
    };
    let found = judge(&history);
    found.into_iter().map(|violation| violation.rule).collect()
}

#[test]
fn an_acknowledged_block_that_one_loss_takes_is_found() {
    assert_eq!(lost(&[], &[], vec![]), [Rule::Durable]);
    assert_eq!(lost(&[(0, 20)], &[], vec![]), [Rule::Durable]);
    assert_eq!(lost(&[(0, 20), (0, 30)], &[], vec![]), [Rule::Durable]);
    assert_eq!(lost(&[(0, 20), (1, 30)], &[], vec![]), []);
    assert_eq!(lost(&[(0, 5), (1, 30)], &[], vec![]), [Rule::Durable]);
    // Two losses, and between them everything was whole again.
    assert_eq!(lost(&[(0, 20), (1, 30)], &[25], vec![]), [Rule::Durable]);
    assert_eq!(lost(&[(0, 20), (1, 30)], &[15], vec![]), []);
    let deleted = delete(1, 12, 13, true);
    assert_eq!(lost(&[], &[], vec![deleted]), []);
    let deleted_before = || delete(1, 2, 3, true);
    assert_eq!(lost(&[], &[], vec![deleted_before()]), [Rule::Durable]);
    // A put that found a block that another region had deleted: only the put before counts.
    let existed = PutTold::Acked {
        copies: 2,
        existed: true,
    };
    let found = vec![deleted_before(), put(0, 12, 13, existed)];
    assert_eq!(lost(&[], &[], found), [Rule::Durable]);
}

#[test]
fn who_does_not_find_what_was_put_is_told() {
    let looked = |begun, present| {
        let found = vec![(NAME, present)];
        op(0, begun, begun + 1, Kind::Lookup { found })
    };
    let story = |putting: Op, looking: Op, more: Vec<Op>, lost: &[u64]| {
        let mut ops = vec![putting, looking];
        ops.extend(more);
        let loss = |at: &u64| Loss {
            region: 0,
            node: 1,
            at: Mark(*at),
        };
        let history = History {
            ops,
            losses: lost.iter().map(loss).collect(),
            ..History::default()
        };
        judge(&history).len()
    };
    let acked = || put(0, 1, 2, ACKED);
    assert_eq!(story(acked(), looked(5, true), vec![], &[]), 0);
    assert_eq!(story(acked(), looked(5, false), vec![], &[]), 1);
    let none = op(0, 5, 6, Kind::Lookup { found: vec![] });
    assert_eq!(story(acked(), none, vec![], &[]), 0, "no view shows it");
    let unknown = put(0, 1, 2, PutTold::Unknown);
    assert_eq!(story(unknown, looked(5, false), vec![], &[]), 0);
    assert_eq!(story(put(0, 1, 7, ACKED), looked(5, false), vec![], &[]), 0);
    let others = Op {
        client: "another".to_owned(),
        ..acked()
    };
    assert_eq!(story(others, looked(5, false), vec![], &[]), 0);
    let deleted = |at| vec![delete(1, at, at + 1, true)];
    assert_eq!(
        story(put(0, 4, 5, ACKED), looked(6, false), deleted(1), &[]),
        1
    );
    assert_eq!(story(acked(), looked(6, false), deleted(3), &[]), 0);
    assert_eq!(story(acked(), looked(5, false), vec![], &[3]), 0);
}
