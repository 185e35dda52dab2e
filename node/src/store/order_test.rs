use kvmesh_directory::{BlockHash, BlockName, Copy, CopyNumber, Incarnation, NodeId, Part};
use proptest::prelude::*;

use super::*;

/// No lead.
const PLAIN: Leads = [0; CLASSES];

fn id(namespace: u8) -> NamespaceId {
    NamespaceId([namespace; 16])
}

fn rank(namespace: u8, number: u64, touched: u64) -> Rank {
    let mut hash = [0; 32];
    hash[..8].copy_from_slice(&number.to_be_bytes());
    let name = BlockName {
        namespace: id(namespace),
        hash: BlockHash(hash),
        part: Part::default(),
    };
    let copy = Copy {
        node: NodeId(1),
        incarnation: Incarnation(1),
        copy: CopyNumber(number),
    };
    (touched, Reverse(0), CopyKey { name, copy })
}

/// Namespaces and numbers of the copies as they go, to make room for `of`.
fn goes(order: &mut Order, of: u8, bytes: u64, times: usize) -> Vec<(u8, u64)> {
    let mut gone = Vec::new();
    for _ in 0..times {
        let key = order.victim(id(of), bytes, &PLAIN).unwrap();
        let (namespace, number) = (key.name.namespace.0[0], key.copy.copy.0);
        let listed = (0..100).any(|at| order.remove(0, &rank(namespace, number, at), 10));
        assert!(listed);
        gone.push((namespace, number));
    }
    gone
}

fn filled(shares: &[(u8, u64)]) -> Order {
    let mut order = Order::default();
    order.set_shares(shares.iter().map(|(it, share)| (id(*it), *share)).collect());
    for number in 0..4 {
        order.insert(0, rank(1, number, number), 10);
        order.insert(0, rank(2, number, 10 + number), 10);
    }
    order
}

#[test]
fn without_shares_the_least_recent_goes() {
    let mut order = filled(&[]);
    let gone = goes(&mut order, 2, 10, 5);
    assert_eq!(gone, [(1, 0), (1, 1), (1, 2), (1, 3), (2, 0)]);
}

#[test]
fn a_namespace_over_its_share_makes_room_out_of_its_own() {
    let mut order = filled(&[(1, 100), (2, 40)]);
    assert_eq!(goes(&mut order, 2, 10, 1), [(2, 0)]);
    // It fits its share now, and takes turns with everybody.
    assert_eq!(goes(&mut order, 2, 10, 1), [(1, 0)]);
}

#[test]
fn those_over_their_share_give_to_the_others_first() {
    let mut order = filled(&[(1, 100), (2, 25)]);
    let gone = goes(&mut order, 1, 10, 3);
    assert_eq!(gone, [(2, 0), (2, 1), (1, 0)]);
    // A share that was lowered counts from then on.
    order.set_shares([(id(2), 10)].into());
    assert_eq!(goes(&mut order, 1, 10, 1), [(2, 2)]);
}

#[test]
fn a_lead_counts_as_a_later_touch() {
    let mut order = Order::default();
    for (uses, number, touched) in [(0, 1, 5), (1, 2, 3), (3, 3, 1)] {
        order.insert(uses, rank(1, number, touched), 10);
    }
    let check = |leads: Leads, number: u64| {
        let victim = order.victim(id(1), 10, &leads).unwrap();
        assert_eq!(victim.copy.copy.0, number, "with {leads:?}");
    };
    check(PLAIN, 3);
    check([0, 1, 1, 4], 2);
    check([0, 3, 3, 9], 1);
}

proptest! {
    #[test]
    fn the_books_agree(
        steps in prop::collection::vec((0_u8..3, 0_u64..6, 0_u64..4, 0_u8..4, any::<bool>()), 1..80),
        leads in prop::array::uniform4(0_u64..5),
    ) {
        let mut order = Order::default();
        order.set_shares([(id(0), 20), (id(1), 0)].into());
        let mut model: BTreeSet<(u8, Rank)> = BTreeSet::new();
        for (namespace, number, touched, uses, insert) in steps {
            let rank = rank(namespace, number, touched);
            match insert {
                true => { order.insert(uses, rank, 10); model.insert((uses, rank)); }
                false => prop_assert_eq!(order.remove(uses, &rank, 10), model.remove(&(uses, rank))),
            }
            let of = |space: u8| model.iter().filter(move |(_, it)| it.2.name.namespace == id(space));
            for class in 0..CLASSES {
                let of_class = |space| of(space).filter(|(uses, _)| usize::from(*uses) == class);
                let heads = (0..3).filter_map(|space| of_class(space).map(|(_, rank)| *rank).min());
                prop_assert_eq!(&order.heads[class], &heads.collect::<BTreeSet<Rank>>());
            }
            let over = [(0, 20), (1, 0)].into_iter().filter(|(space, share)| of(*space).count() as u64 * 10 > *share);
            let over: BTreeSet<NamespaceId> = over.map(|(space, _)| id(space)).collect();
            prop_assert_eq!(&order.over, &over);
            let gives = |rank: &Rank| over.is_empty() || over.contains(&rank.2.name.namespace);
            let giving = model.iter().filter(|(_, rank)| gives(rank));
            let first = giving.map(|(uses, it)| (it.0 + leads[usize::from(*uses)], it.1, it.2)).min();
            prop_assert_eq!(order.victim(id(2), 0, &leads), first.map(|(_, _, key)| key));
        }
    }
}
