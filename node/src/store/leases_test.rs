//! Leases over a ledger, on made-up instants.

use kvmesh_directory::{
    BlockHash, BlockName, Checksum, Copy, CopyNumber, Hlc, Incarnation, NodeId, Part,
};

use super::*;
use crate::store::{
    Usage,
    ledger::{Admission, COPY_OVERHEAD_BYTES},
};

const COST: u64 = 1_000;
const ONE: NamespaceId = NamespaceId([1; 16]);
const OTHER: NamespaceId = NamespaceId([2; 16]);
const LEASE: LeaseId = LeaseId([9; 16]);

fn copy(number: u8) -> CopyKey {
    copy_of(ONE, number)
}

fn copy_of(namespace: NamespaceId, number: u8) -> CopyKey {
    let name = BlockName {
        namespace,
        hash: BlockHash([number; 32]),
        part: Part::default(),
    };
    let copy = Copy {
        node: NodeId(1),
        incarnation: Incarnation(1),
        copy: CopyNumber(number.into()),
    };
    CopyKey { name, copy }
}

struct Desk {
    ledger: Ledger,
    leases: Leases,
    begun: Instant,
}

impl Desk {
    /// A budget of so many copies, and copies 1 to `held` in it, the first the least recent.
    fn new(max: u64, held: u8) -> Self {
        let mut desk = Self {
            ledger: Ledger::new(max * COST),
            leases: Leases::default(),
            begun: Instant::now(),
        };
        for number in 1..=held {
            assert_eq!(desk.admit(number), vec![]);
        }
        desk
    }

    fn admit(&mut self, number: u8) -> Vec<CopyKey> {
        self.admit_as(ONE, number)
    }

    fn admit_as(&mut self, namespace: NamespaceId, number: u8) -> Vec<CopyKey> {
        let copy = copy_of(namespace, number);
        let admission = Admission {
            bytes: COST - COPY_OVERHEAD_BYTES,
            depth: 0,
            checksum: Checksum([1; 16]),
            put_hlc: Hlc(1),
            transcoded: None,
            touched: number.into(),
            since: self.begun,
        };
        let evicted = self.ledger.admit(copy, admission).unwrap();
        assert!(self.ledger.claim(copy, Hlc(1)));
        evicted
    }

    fn at(&self, ms: u64) -> Instant {
        self.begun + Duration::from_millis(ms)
    }

    fn take(&mut self, namespace: NamespaceId, numbers: &[u8], until_ms: u64) -> Granted {
        let wished: Vec<_> = numbers.iter().map(|it| Some(copy(*it))).collect();
        let until = self.at(until_ms);
        self.leases
            .take(&mut self.ledger, (namespace, LEASE), &wished, until)
    }

    fn pinned(&self) -> (u64, u64) {
        let Usage {
            pinned,
            pinned_bytes,
            ..
        } = self.ledger.usage();
        (pinned, pinned_bytes)
    }
}

#[tokio::test(start_paused = true)]
async fn a_leased_copy_outlives_the_pressure_until_its_time_is_up() {
    let mut desk = Desk::new(16, 16);
    assert_eq!(desk.take(ONE, &[1, 2], 100).missing, [0; 0]);
    assert_eq!(desk.admit(17), vec![copy(3)], "the least recent are leased");
    let now = desk.at(99);
    desk.leases.expire(&mut desk.ledger, now);
    assert_eq!(desk.admit(18), vec![copy(4)]);
    let hold = Duration::from_millis(100);
    let renewed = desk.leases.renew(&desk.ledger, (ONE, LEASE), now, hold);
    assert_eq!(renewed, Some(2));
    let (then, end) = (desk.at(198), desk.at(199));
    desk.leases.expire(&mut desk.ledger, then);
    assert_eq!(desk.admit(19), vec![copy(5)]);
    let too_late = desk.leases.renew(&desk.ledger, (ONE, LEASE), end, hold);
    assert_eq!(too_late, None, "it has ended, though nobody swept yet");
    desk.leases.expire(&mut desk.ledger, end);
    assert_eq!(desk.admit(20), vec![copy(1)]);
    assert_eq!((desk.pinned(), desk.leases.count()), ((0, 0), 0));
}

#[tokio::test(start_paused = true)]
async fn a_quarter_of_the_memory_may_be_leased_and_half_of_that_by_one_namespace() {
    let mut desk = Desk::new(16, 16);
    let granted = desk.take(ONE, &[1, 2, 3], 100);
    assert_eq!((granted.copies, granted.missing), (2, vec![2]));
    assert!(granted.limit.unwrap().contains("namespace's part"));
    assert_eq!(desk.pinned(), (2, 2 * COST));
    // What is leased already costs nothing more; what is not here costs nothing.
    let granted = desk.take(OTHER, &[1, 77], 100);
    assert_eq!((granted.missing, granted.limit), (vec![1], None));
    // The other half is for others.
    for number in 21..=23 {
        desk.admit_as(OTHER, number);
    }
    let mut lease = |namespace, number: u8| {
        let key = (namespace, LeaseId([number; 16]));
        let wished = [Some(copy_of(namespace, number))];
        let until = desk.begun + Duration::from_millis(100);
        desk.leases.take(&mut desk.ledger, key, &wished, until)
    };
    assert_eq!(lease(OTHER, 21).copies, 1);
    assert_eq!(lease(OTHER, 22).copies, 1);
    let full = lease(OTHER, 23);
    assert_eq!(full.copies, 0);
    assert_eq!(full.limit, Some("the memory for leased blocks of a node"));
    for number in [21, 22] {
        let key = (OTHER, LeaseId([number; 16]));
        assert_eq!(desk.leases.release(&mut desk.ledger, key), 1);
    }
    // Two hold copy 1: it stays until both have let go.
    assert_eq!(desk.leases.release(&mut desk.ledger, (ONE, LEASE)), 2);
    assert_eq!(desk.pinned(), (1, COST));
    assert_eq!(desk.leases.release(&mut desk.ledger, (OTHER, LEASE)), 1);
    assert_eq!(desk.leases.release(&mut desk.ledger, (OTHER, LEASE)), 0);
    assert_eq!(desk.pinned(), (0, 0));
    assert_eq!(desk.admit(24), vec![copy(1)]);
    assert!(
        desk.leases.by_namespace.is_empty(),
        "nothing is left behind"
    );
}

#[tokio::test(start_paused = true)]
async fn a_lease_belongs_to_its_namespace() {
    let mut desk = Desk::new(8, 8);
    desk.take(ONE, &[1], 100);
    let (now, hold) = (desk.begun, Duration::from_secs(1));
    let other = desk.leases.renew(&desk.ledger, (OTHER, LEASE), now, hold);
    assert_eq!(other, None);
    assert_eq!(desk.leases.release(&mut desk.ledger, (OTHER, LEASE)), 0);
    assert_eq!(desk.pinned(), (1, COST));
}

#[tokio::test(start_paused = true)]
async fn what_is_let_go_on_purpose_goes_and_a_renumbered_copy_stays_leased() {
    let mut desk = Desk::new(16, 8);
    desk.take(ONE, &[1, 2], 100);
    assert!(desk.ledger.remove(copy(1)).is_some(), "it was deleted");
    assert_eq!(desk.pinned(), (1, COST));
    desk.leases.renumbered(copy(2), copy(100));
    let now = desk.begun;
    assert_eq!(desk.ledger.renumber(copy(2), copy(100), now), Some(Hlc(1)));
    assert!(desk.ledger.claim(copy(100), Hlc(1)));
    let hold = Duration::from_secs(1);
    let renewed = desk.leases.renew(&desk.ledger, (ONE, LEASE), now, hold);
    assert_eq!(renewed, Some(1));
    desk.leases.release(&mut desk.ledger, (ONE, LEASE));
    assert_eq!(desk.pinned(), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn leases_are_bounded_in_number_for_all_and_for_each_namespace() {
    let mut desk = Desk::new(8, 1);
    let wished = [Some(copy(1))];
    let until = desk.at(100);
    let mut take = |namespace, number: usize| {
        let key = (namespace, LeaseId((number as u128).to_be_bytes()));
        desk.leases.take(&mut desk.ledger, key, &wished, until)
    };
    for number in 0..LEASES_MAX / 2 {
        assert_eq!(take(ONE, number).copies, 1);
    }
    let granted = take(ONE, LEASES_MAX);
    assert_eq!((granted.copies, granted.missing), (0, vec![0]));
    assert!(granted.limit.unwrap().contains("namespace's part"));
    assert_eq!(take(ONE, 0).copies, 1, "one that exists goes on");
    for number in 0..LEASES_MAX / 2 {
        assert_eq!(take(OTHER, number).copies, 1);
    }
    let granted = take(NamespaceId([3; 16]), 1);
    assert_eq!((granted.copies, granted.missing), (0, vec![0]));
    assert_eq!(granted.limit, Some("the number of leases of a node"));
}

#[tokio::test(start_paused = true)]
async fn no_lease_keeps_a_copy_that_is_to_go_for_longer() {
    let mut desk = Desk::new(32, 8);
    desk.take(ONE, &[1, 2], 100);
    desk.leases.set_going([copy(2), copy(3)].into());
    let (now, hold) = (desk.at(50), Duration::from_secs(1));
    let refused = desk.leases.renew(&desk.ledger, (ONE, LEASE), now, hold);
    assert_eq!(refused, None, "it covers copy 2");
    // Named again with further copies it gets those that stay, and no later end.
    assert_eq!(desk.take(ONE, &[1, 3, 4], 10_000).missing, [1]);
    let (before, end) = (desk.at(99), desk.at(100));
    desk.leases.expire(&mut desk.ledger, before);
    assert_eq!(desk.pinned(), (3, 3 * COST), "its time is not up yet");
    desk.leases.expire(&mut desk.ledger, end);
    assert_eq!((desk.pinned(), desk.leases.count()), ((0, 0), 0));
    // Nothing is to go any more.
    desk.leases.set_going(BTreeSet::new());
    assert_eq!(desk.take(ONE, &[2, 3], 200).missing, [0; 0]);
    let renewed = desk.leases.renew(&desk.ledger, (ONE, LEASE), end, hold);
    assert_eq!(renewed, Some(2));
}
