use std::sync::Arc;

use kvmesh_directory::{
    BlockHash, BlockName, ChangeKind, ChangeOutcome, Copy, CopyNumber, Incarnation, NamespaceId,
    NodeId, Part as BlockPart,
};
use tokio::sync::Semaphore;

use super::*;

fn submission(count: usize, tag: u8) -> (Submission, oneshot::Receiver<Committed>) {
    let copy = Copy {
        node: NodeId(1),
        incarnation: Incarnation(1),
        copy: CopyNumber(1),
    };
    let name = BlockName {
        namespace: NamespaceId([1; 16]),
        hash: BlockHash([tag; 32]),
        part: BlockPart::default(),
    };
    let kind = ChangeKind::Evict(copy);
    let (reply, answer) = oneshot::channel();
    let room = Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap();
    let submission = Submission {
        changes: vec![BlockChange { name, kind }; count],
        reply,
        _room: room,
    };
    (submission, answer)
}

fn notice(sequence: u64, outcomes: usize) -> Notice {
    Notice {
        sequence,
        outcomes: vec![ChangeOutcome::Accepted; outcomes],
        index: 9,
        ..Notice::plain(false)
    }
}

#[tokio::test]
async fn small_submissions_share_a_flight_and_each_gets_its_answer() {
    let (queue, mut waiting) = mpsc::channel(8);
    let mut flights = Flights::default();
    let (first, first_answer) = submission(2, 1);
    let (second, second_answer) = submission(3, 2);
    let (large, large_answer) = submission(ENTRY_CHANGES_MAX, 3);
    queue.try_send(second).ok();
    queue.try_send(large).ok();
    let now = Instant::now();

    let (sequence, changes) = flights.take_off(now, Some(first), &mut waiting).unwrap();
    assert_eq!((sequence, changes.len()), (1, 5));
    assert!(flights.holds());
    let (sequence, changes) = flights.take_off(now, None, &mut waiting).unwrap();
    assert_eq!((sequence, changes.len()), (2, ENTRY_CHANGES_MAX));
    assert!(flights.take_off(now, None, &mut waiting).is_none());

    assert_eq!(flights.land(notice(1, 5)), Some(now));
    assert_eq!(first_answer.await.unwrap().unwrap().1.len(), 2);
    assert_eq!(second_answer.await.unwrap().unwrap().1.len(), 3);
    flights.land(notice(2, 0));
    assert_eq!(large_answer.await.unwrap(), Err(ProposeError::Overloaded));
    assert_eq!(flights.land(notice(2, 0)), None);
}

#[tokio::test]
async fn what_nobody_waits_for_is_not_sent_again() {
    let (_queue, mut waiting) = mpsc::channel(1);
    let mut flights = Flights::default();
    let (kept, answer) = submission(1, 1);
    let (gone, _) = submission(1, 2);
    flights.take_off(Instant::now(), Some(kept), &mut waiting);
    flights.take_off(Instant::now(), Some(gone), &mut waiting);
    let again = flights.again(Instant::now());
    assert_eq!(again.iter().map(|(at, _)| *at).collect::<Vec<_>>(), [1]);
    flights.land(notice(1, 0));
    let promise = answer.await.unwrap();
    assert_eq!(promise, Err(ProposeError::NoLeader), "it may be committed");
}
