use kvmesh_client::follow::MeshEvent;
use kvmesh_directory::{FeedPosition, LogIncarnation, state::Tombstone, view::MeshStep};

use crate::{
    backlog::{Backlog, Change, Tags},
    testing::{block, deletion, namespace},
};

fn at(index: u64) -> FeedPosition {
    FeedPosition {
        region: "eu".parse().unwrap(),
        log_incarnation: LogIncarnation(9),
        index,
    }
}

fn appeared(index: u64) -> MeshEvent {
    let step = MeshStep {
        appeared: vec![(block(&namespace("m"), index as u32), 1)],
        ..MeshStep::default()
    };
    MeshEvent::Step(at(index), step)
}

fn deleted(index: u64, names: u32) -> MeshEvent {
    let numbers: Vec<u32> = (0..names).collect();
    let step = MeshStep {
        deletes: vec![deletion(&namespace("m"), &numbers, index)],
        ..MeshStep::default()
    };
    MeshEvent::Step(at(index), step)
}

fn indexes(changes: impl IntoIterator<Item = Change>) -> Vec<u64> {
    changes
        .into_iter()
        .map(|change| change.position.index)
        .collect()
}

fn free(backlog: &mut Backlog) -> Vec<u64> {
    indexes(std::iter::from_fn(|| backlog.next_free()))
}

#[test]
fn nothing_passes_effects_that_are_not_committed() {
    let mut backlog = Backlog::default();
    for event in [appeared(1), deleted(2, 1), appeared(3), deleted(4, 1)] {
        backlog.take(event);
    }
    assert_eq!(free(&mut backlog), [1]);
    let batch = backlog.next_batch().unwrap();
    assert_eq!((batch.position.index, batch.effects.deletes.len()), (4, 2));
    backlog.take(appeared(5));
    assert_eq!(indexes(backlog.committed(&batch)), [2, 3, 4]);
    assert_eq!(free(&mut backlog), [5]);
    assert_eq!(backlog.next_batch(), None);
}

#[test]
fn a_batch_is_about_one_entry() {
    let mut backlog = Backlog::default();
    for index in 1..=5 {
        backlog.take(deleted(index, 2_000));
    }
    let batch = backlog.next_batch().unwrap();
    assert_eq!(indexes(backlog.committed(&batch)), [1, 2]);
    // One that is larger alone is a batch nevertheless.
    let mut backlog = Backlog::default();
    backlog.take(deleted(1, 10_000));
    assert_eq!(backlog.next_batch().unwrap().position, at(1));
}

#[test]
fn heartbeats_that_wait_are_one() {
    let mut backlog = Backlog::default();
    backlog.take(deleted(1, 1));
    for index in 2..100 {
        backlog.take(MeshEvent::Heartbeat(at(index)));
    }
    let batch = backlog.next_batch().unwrap();
    assert_eq!(batch.position.index, 99);
    assert_eq!(indexes(backlog.committed(&batch)), [1, 99]);
}

#[test]
fn a_snapshot_counts_when_it_is_whole() {
    let model = namespace("m");
    let part = |number: u32| MeshEvent::Snapshot {
        blocks: vec![(block(&model, number), number)],
        namespaces: vec![],
        tombstones: vec![],
    };
    let mut backlog = Backlog::default();
    backlog.take(MeshEvent::SnapshotBegin);
    backlog.take(part(1));
    assert!(free(&mut backlog).is_empty());
    // Cut off: another one begins.
    backlog.take(MeshEvent::SnapshotBegin);
    backlog.take(part(2));
    backlog.take(part(3));
    backlog.take(MeshEvent::SnapshotEnd(at(7)));
    let whole = backlog.next_free().unwrap();
    let tags = [2, 3].map(|number| (block(&model, number).tag(), number));
    assert_eq!(whole.tags, Tags::Whole(tags.to_vec()));
}

#[test]
fn the_tombstones_of_a_snapshot_are_effects() {
    let model = namespace("m");
    let tombstone = |number, hlc| {
        let hlc = kvmesh_directory::Hlc(hlc);
        (block(&model, number), Tombstone { hlc, index: 1 })
    };
    let mut backlog = Backlog::default();
    backlog.take(MeshEvent::SnapshotBegin);
    backlog.take(MeshEvent::Snapshot {
        blocks: vec![],
        namespaces: vec![],
        tombstones: vec![tombstone(1, 20), tombstone(2, 30), tombstone(3, 20)],
    });
    backlog.take(MeshEvent::SnapshotEnd(at(7)));
    assert!(free(&mut backlog).is_empty());
    let batch = backlog.next_batch().unwrap();
    let want = [deletion(&model, &[1, 3], 20), deletion(&model, &[2], 30)];
    assert_eq!(batch.effects.deletes, want);
}

#[test]
fn a_full_backlog_says_so() {
    let mut backlog = Backlog::default();
    for index in 0..300 {
        backlog.take(deleted(index, 4_096));
    }
    assert!(backlog.is_full());
    while let Some(batch) = backlog.next_batch() {
        backlog.committed(&batch);
    }
    assert!(!backlog.is_full());
}
