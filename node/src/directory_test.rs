use super::*;

#[test]
fn the_tail_reaches_back_so_far_and_no_further() {
    let directory = SharedDirectory::default();
    assert_eq!(directory.steps_after(0, 10).unwrap().len(), 0);
    for index in 0..=10 {
        directory.apply(index, None);
    }
    let indexes = |after, max| -> Option<Vec<u64>> {
        let steps = directory.steps_after(after, max)?;
        Some(steps.iter().map(|step| step.index).collect())
    };
    assert_eq!(indexes(7, 10), Some(vec![8, 9, 10]));
    assert_eq!(indexes(0, 2), Some(vec![1, 2]));
    assert_eq!(indexes(10, 2), Some(Vec::new()));
    assert_eq!(indexes(99, 2), Some(Vec::new()), "ahead: nothing yet");
    assert_eq!(*directory.applied().borrow(), 10);

    directory.install(directory.freeze());
    assert_eq!(indexes(7, 10), None, "a snapshot is needed");
    directory.apply(11, None);
    assert_eq!(indexes(10, 10), Some(vec![11]));
    assert_eq!(indexes(9, 10), None);
}

#[test]
fn the_tail_is_bounded() {
    let directory = SharedDirectory::default();
    for index in 0..TAIL_ENTRIES_MAX as u64 + 10 {
        directory.apply(index, None);
    }
    let held = |directory: &SharedDirectory| directory.inner.read().unwrap().tail.len();
    assert_eq!(held(&directory), TAIL_ENTRIES_MAX);

    let heavy = |index| Step {
        index,
        command: None,
        events: vec![Event::NodeDied(kvmesh_directory::NodeId(1)); TAIL_EVENTS_MAX / 2],
    };
    let mut inner = directory.inner.write().unwrap();
    for index in 0..4 {
        inner.push(heavy(index));
    }
    assert_eq!(inner.tail.len(), 2);
    assert_eq!(inner.tail_events, TAIL_EVENTS_MAX);
}
