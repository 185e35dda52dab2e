use bytes::Bytes;
use kvmesh_directory::{
    BlockHash, BlockName, Copy, CopyNumber, Incarnation, NamespaceId, NodeId, Part,
};
use proptest::prelude::*;

use super::*;

fn key(number: u64) -> CopyKey {
    let name = BlockName {
        namespace: NamespaceId([7; 16]),
        hash: BlockHash([1; 32]),
        part: Part::default(),
    };
    let copy = Copy {
        node: NodeId(1),
        incarnation: Incarnation(1),
        copy: CopyNumber(number),
    };
    CopyKey { name, copy }
}

fn block() -> Arc<Block> {
    Arc::new(Block::of(&Bytes::from_static(b"bytes"), 0))
}

#[derive(Debug, Clone)]
enum Step {
    Wait(u64),
    /// Writes the oldest that waits to a segment.
    Write(u64),
    Fail,
    Remove(u64),
    Rename(u64, u64),
    /// Moves the first record of a segment to another.
    Move(u64, u64),
    Gone(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let (number, segment) = (0..8_u64, 0..3_u64);
    let step = prop_oneof![
        4 => number.clone().prop_map(Step::Wait),
        4 => segment.clone().prop_map(Step::Write),
        1 => Just(Step::Fail),
        1 => number.clone().prop_map(Step::Remove),
        1 => (number.clone(), number).prop_map(|(old, new)| Step::Rename(old, new)),
        2 => (segment.clone(), segment.clone()).prop_map(|(from, to)| Step::Move(from, to)),
        1 => segment.prop_map(Step::Gone),
    ];
    prop::collection::vec(step, 0..80)
}

proptest! {
    #[test]
    fn the_index_is_its_model(steps in steps()) {
        let mut index = Index::default();
        (0..3).for_each(|segment| index.open(segment, 1_000));
        // Number to its place; none: it waits.
        let mut model: BTreeMap<u64, Option<Place>> = BTreeMap::new();
        let mut tickets: Vec<u64> = Vec::new();
        let mut offset = 0;
        for step in steps {
            offset += 10;
            let place = |segment| Place { segment, offset, bytes: 10 };
            let at = |model: &BTreeMap<u64, Option<Place>>, place: Place| {
                model.iter().find(|(_, at)| **at == Some(place)).map(|(number, _)| *number)
            };
            match step {
                Step::Wait(number) => {
                    let ticket = index.wait(key(number), block());
                    prop_assert_eq!(ticket.is_some(), !model.contains_key(&number));
                    if let Some(ticket) = ticket {
                        model.insert(number, None);
                        tickets.push(ticket);
                    }
                }
                Step::Write(_) | Step::Fail if tickets.is_empty() => {}
                Step::Write(segment) => {
                    let ticket = tickets.remove(0);
                    let waits = index.waiting(ticket).map(|(key, _)| key.copy.copy.0);
                    index.written(ticket, place(segment), LogIncarnation(1));
                    if let Some(number) = waits {
                        prop_assert_eq!(model.insert(number, Some(place(segment))), Some(None));
                    }
                }
                Step::Fail => {
                    let failed = index.failed(tickets.remove(0));
                    if let Some(key) = failed {
                        prop_assert_eq!(model.remove(&key.copy.copy.0), Some(None));
                    }
                }
                Step::Remove(number) => {
                    prop_assert_eq!(index.remove(&key(number)), model.remove(&number).is_some());
                }
                Step::Rename(old, new) => {
                    let can = model.contains_key(&old) && !model.contains_key(&new);
                    prop_assert_eq!(index.rename(&key(old), key(new)), can);
                    if can {
                        let known = model.remove(&old).flatten();
                        model.insert(new, known);
                    }
                }
                Step::Move(from, to) => {
                    let first = index.copies_of(from).first().map(|(_, written)| written.place);
                    if let Some(first) = first {
                        index.moved(first, place(to));
                        if let Some(number) = at(&model, first) {
                            model.insert(number, Some(place(to)));
                        }
                    }
                }
                Step::Gone(segment) => {
                    for gone in index.gone(segment) {
                        let known = model.remove(&gone.copy.copy.0).flatten();
                        prop_assert_eq!(known.map(|place| place.segment), Some(segment));
                    }
                    index.open(segment, 1_000);
                }
            }
            prop_assert_eq!(index.len(), model.len());
            for number in 0..8 {
                let want = model.get(&number);
                match index.get(&key(number)) {
                    None => prop_assert_eq!(want, None),
                    Some(Copied::Waiting(..)) => prop_assert_eq!(want, Some(&None)),
                    Some(Copied::Written(it)) => prop_assert_eq!(want, Some(&Some(it.place))),
                }
            }
            for segment in 0..3 {
                let listed: Vec<Place> = index.copies_of(segment).iter().map(|(_, it)| it.place).collect();
                let mut want: Vec<Place> = model.values().flatten().filter(|it| it.segment == segment).copied().collect();
                want.sort();
                prop_assert_eq!(index.segments()[&segment].live, want.len() as u64 * 10);
                prop_assert_eq!(listed, want);
            }
            let written = model.values().flatten().count() as u64;
            prop_assert_eq!(index.live_bytes(), written * 10);
        }
    }
}
