use std::collections::BTreeMap;

use kvmesh_client::follow::MeshEvent;
use kvmesh_directory::{BlockName, LogIncarnation, view::MeshStep};

use super::*;
use crate::{
    backlog::Backlog,
    mesh::Link,
    testing::{block, namespace},
};

/// `eu`, of which these blocks are shown at position 1.
struct World {
    mesh: Mesh,
    eu: RegionId,
}

impl World {
    fn new(blocks: &[u32]) -> Self {
        let eu: RegionId = "eu".parse().unwrap();
        let link = Link {
            state: kvmesh_directory::PeerState::Online,
            heard_at: None,
            rtt: None,
            bandwidth: 1.0,
            trips: None,
            dollars_per_gb: 0.0,
            gateways: Vec::new(),
            heard: Instant::now(),
        };
        let mesh = Mesh::new(BTreeMap::from([(eu.clone(), link)]));
        let world = Self { mesh, eu };
        world.snapshot(blocks, 1);
        world
    }

    fn take(&self, events: impl IntoIterator<Item = MeshEvent>) {
        let mut backlog = Backlog::default();
        events.into_iter().for_each(|event| backlog.take(event));
        while let Some(change) = backlog.next_free() {
            self.mesh.show(&self.eu, change);
        }
    }

    fn snapshot(&self, blocks: &[u32], index: u64) {
        self.take([
            MeshEvent::SnapshotBegin,
            MeshEvent::Snapshot {
                blocks: blocks.iter().map(|number| (name(*number), 9)).collect(),
                namespaces: Vec::new(),
                tombstones: Vec::new(),
            },
            MeshEvent::SnapshotEnd(at(index)),
        ]);
    }

    fn step(&self, index: u64, appeared: &[u32], vanished: &[u32]) {
        let step = MeshStep {
            appeared: appeared.iter().map(|number| (name(*number), 9)).collect(),
            vanished: vanished.iter().map(|number| name(*number)).collect(),
            ..MeshStep::default()
        };
        self.take([MeshEvent::Step(at(index), step)]);
    }

    fn shown(&self) -> Vec<(Tag, u32)> {
        self.mesh.tags(&self.eu).unwrap().0
    }
}

fn name(number: u32) -> BlockName {
    block(&namespace("m"), number)
}

fn at(index: u64) -> FeedPosition {
    FeedPosition {
        region: "eu".parse().unwrap(),
        log_incarnation: LogIncarnation(1),
        index,
    }
}

fn tags(numbers: &[u32]) -> Vec<(Tag, u32)> {
    let mut tags: Vec<(Tag, u32)> = numbers.iter().map(|n| (name(*n).tag(), 9)).collect();
    tags.sort_unstable();
    tags
}

#[tokio::test]
async fn a_frozen_view_is_had_at_any_later_position() {
    let world = World::new(&[1, 2]);
    let mut frozen = world.mesh.freeze(&world.eu).unwrap();
    for (index, appeared, vanished) in [(3, 3, 1), (5, 4, 2), (8, 5, 3)] {
        world.step(index, &[appeared], &[vanished]);
    }
    let soon = Instant::now();
    for (to, shown) in [
        (1, &[1, 2][..]),
        (2, &[1, 2]),
        (3, &[2, 3]),
        (6, &[3, 4]),
        (8, &[4, 5]),
    ] {
        assert_eq!(frozen.reach(&at(to), soon).await, Ok(()));
        assert_eq!(frozen.view().tags_of(&world.eu), tags(shown), "at {to}");
    }
    assert_eq!(frozen.reach(&at(9), soon).await, Err(Lost::Behind));
    assert_eq!(world.shown(), tags(&[4, 5]));
    world.snapshot(&[7], 9);
    let later = Instant::now() + std::time::Duration::from_secs(20);
    assert_eq!(frozen.reach(&at(10), later).await, Err(Lost::Replaced));
}

#[tokio::test]
async fn later_steps_are_right_about_what_they_speak_of() {
    let world = World::new(&[1, 7]);
    let mut frozen = world.mesh.freeze(&world.eu).unwrap();
    let mut news = world.mesh.subscribe();
    // At position 1 the region had 5 and 6, and not 1 and 7. Then 6 went, and 7 came.
    world.step(2, &[7], &[6]);
    let found = Difference {
        missing: vec![(name(5), 9), (name(6), 9)],
        gone: vec![name(1).tag(), name(7).tag()],
        resized: Vec::new(),
        objects: 0,
    };
    let mended = world.mesh.mend(&mut frozen, found).unwrap();
    assert_eq!(mended.missing, [(name(5), 9)]);
    assert_eq!(mended.gone, [name(1).tag()]);
    assert_eq!(world.shown(), tags(&[5, 7]));
    let News::Step { .. } = &*news.try_recv().unwrap() else {
        panic!("the step comes first");
    };
    let told = news.try_recv().unwrap();
    let News::Mended { position, .. } = &*told else {
        panic!("then the mend: {told:?}");
    };
    assert_eq!(*position, at(2), "it leads nowhere");
    // What was read from the start meanwhile is not touched.
    world.snapshot(&[9], 4);
    let found = Difference {
        gone: vec![name(9).tag()],
        ..Difference::default()
    };
    let refused = world.mesh.mend(&mut frozen, found);
    assert_eq!(refused.unwrap_err(), Lost::Replaced);
    assert_eq!(world.shown(), tags(&[9]));
}
