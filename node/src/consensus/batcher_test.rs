use kvmesh_directory::{
    BlockHash, BlockName, ChangeKind, Copy, CopyNumber, Incarnation, NamespaceId, NodeId, Outcome,
    Part,
};

use super::*;

fn changes(count: usize) -> Vec<BlockChange> {
    let copy = Copy {
        node: NodeId(1),
        incarnation: Incarnation(1),
        copy: CopyNumber(1),
    };
    let name = BlockName {
        namespace: NamespaceId([1; 16]),
        hash: BlockHash([2; 32]),
        part: Part::default(),
    };
    let kind = ChangeKind::Evict(copy);
    vec![BlockChange { name, kind }; count]
}

#[tokio::test]
async fn batches_fill_an_entry_and_what_does_not_fit_is_held_in_order() {
    let (batcher, mut waiting) = Batcher::new();
    let mut answers = Vec::new();
    for count in [100, 100, 100, 7] {
        answers.push(batcher.submit(changes(count)).unwrap());
    }
    let first = waiting.recv().await.unwrap();
    let (gathered, batches, held) = gather(first, &mut waiting);
    assert_eq!((gathered.len(), batches.len()), (200, 2));
    let (gathered, rest, held) = gather(held.unwrap(), &mut waiting);
    assert_eq!((gathered.len(), rest.len()), (107, 2));
    assert!(held.is_none());

    let outcome = Outcome {
        changes: vec![ChangeOutcome::Accepted; 200],
        ..Outcome::default()
    };
    answer_all(batches, Ok((7, outcome)));
    answer_all(rest, Err(ProposeError::NotLeader));
    let mut answers = answers.into_iter();
    for _ in 0..2 {
        let (index, outcomes) = answers.next().unwrap().await.unwrap().unwrap();
        assert_eq!((index, outcomes.len()), (7, 100));
    }
    let refused = answers.next().unwrap().await.unwrap();
    assert_eq!(refused, Err(ProposeError::NotLeader));
}

#[tokio::test]
async fn too_many_waiting_changes_are_refused_and_room_comes_back() {
    let (batcher, mut waiting) = Batcher::new();
    for _ in 0..WAITING_CHANGES_MAX / ENTRY_CHANGES_MAX {
        batcher.submit(changes(ENTRY_CHANGES_MAX)).unwrap();
    }
    assert_eq!(
        batcher.submit(changes(1)).err(),
        Some(ProposeError::Overloaded)
    );
    drop(waiting.recv().await);
    assert!(batcher.submit(changes(ENTRY_CHANGES_MAX)).is_ok());
    drop(waiting);
    assert_eq!(
        batcher.submit(changes(1)).err(),
        Some(ProposeError::Stopped),
        "a leader that ends is not overloaded: the next one is asked"
    );
}
