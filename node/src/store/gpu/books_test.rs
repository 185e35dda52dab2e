//! The books against a model: any order of copies that come, are read, renamed and let go.

use kvmesh_directory::{
    BlockHash, BlockName, Checksum, Copy, CopyNumber, Hlc, Incarnation, NamespaceId, NodeId, Part,
};
use proptest::prelude::*;

use super::*;

const MAX: u64 = 1_000;

fn key(number: u64) -> CopyKey {
    let name = BlockName {
        namespace: NamespaceId([1; 16]),
        hash: BlockHash([0; 32]),
        part: Part::default(),
    };
    let copy = Copy {
        node: NodeId(1),
        incarnation: Incarnation(1),
        copy: CopyNumber(number),
    };
    CopyKey { name, copy }
}

fn brief(bytes: u64) -> Brief {
    Brief {
        bytes,
        depth: 0,
        checksum: Checksum([0; 16]),
        put_hlc: Hlc(1),
        transcoded: None,
    }
}

#[derive(Debug, Clone)]
enum Step {
    Begin(u64, u64),
    Arrive,
    Fail,
    Remove(u64),
    Rename(u64, u64),
    Warm(u64, u64),
    Read(u64),
    DoneReading,
    Leave,
    Clear,
}

fn step() -> impl Strategy<Value = Step> {
    let key = 0..12u64;
    prop_oneof![
        6 => (key.clone(), 1..400u64).prop_map(|(key, bytes)| Step::Begin(key, bytes)),
        5 => Just(Step::Arrive),
        1 => Just(Step::Fail),
        3 => key.clone().prop_map(Step::Remove),
        2 => (key.clone(), 20..40u64).prop_map(|(old, new)| Step::Rename(old, new)),
        3 => (key.clone(), 0..200u64).prop_map(|(key, heat)| Step::Warm(key, heat)),
        2 => key.prop_map(Step::Read),
        2 => Just(Step::DoneReading),
        3 => Just(Step::Leave),
        1 => Just(Step::Clear),
    ]
}

/// What is known of a copy: its bytes and, once it is here, its heat.
type Model = BTreeMap<CopyKey, (u64, Option<Heat>)>;

proptest! {
    #[test]
    fn the_books_are_their_model(steps in prop::collection::vec(step(), 1..200)) {
        let budget = Arc::new(Budget::new(MAX));
        let mut books: Books<Room> = Books::default();
        let mut model = Model::new();
        let mut under_way: Vec<(u64, Room)> = Vec::new();
        let mut readers: Vec<Arc<Room>> = Vec::new();
        let mut left_behind: Vec<Arc<Room>> = Vec::new();
        for step in steps {
            match step {
                Step::Begin(number, bytes) => {
                    let fits = budget.used() + bytes <= MAX;
                    prop_assert_eq!(budget.fits(bytes), fits);
                    let room = budget.take(bytes);
                    prop_assert_eq!(room.is_some(), fits);
                    let Some(room) = room else { continue };
                    let ticket = books.expect(key(number), brief(bytes));
                    prop_assert_eq!(ticket.is_some(), !model.contains_key(&key(number)));
                    if let Some(ticket) = ticket {
                        model.insert(key(number), (bytes, None));
                        under_way.push((ticket, room));
                    }
                }
                Step::Arrive | Step::Fail if under_way.is_empty() => {}
                Step::Arrive => {
                    let (ticket, room) = under_way.remove(0);
                    let of = books.coming.get(&ticket).copied();
                    books.arrived(ticket, room);
                    if let Some(known) = of.and_then(|key| model.get_mut(&key)) {
                        known.1 = Some(Heat::default());
                    }
                }
                Step::Fail => {
                    let (ticket, _room) = under_way.remove(0);
                    let of = books.coming.get(&ticket).copied();
                    books.failed(ticket);
                    of.and_then(|key| model.remove(&key));
                }
                Step::Remove(number) => {
                    let gone = model.remove(&key(number));
                    let was_here = gone.is_some_and(|(_, heat)| heat.is_some());
                    prop_assert_eq!(books.remove(&key(number)), was_here);
                }
                Step::Rename(old, new) => {
                    if model.contains_key(&key(new)) {
                        continue; // Numbers are new.
                    }
                    let known = model.remove(&key(old));
                    let renamed = books.rename(&key(old), key(new));
                    prop_assert_eq!(renamed, known.map(|(bytes, _)| brief(bytes)));
                    known.and_then(|known| model.insert(key(new), known));
                }
                Step::Warm(number, heat) => {
                    books.warm(&key(number), Heat(heat));
                    if let Some((_, Some(known))) = model.get_mut(&key(number)) {
                        *known = Heat(heat);
                    }
                }
                Step::Read(number) => readers.extend(books.get(&key(number)).cloned()),
                Step::DoneReading => drop(readers.pop()),
                Step::Leave => drop(books.leaving()),
                Step::Clear => {
                    let here = model.iter().filter(|(_, (_, heat))| heat.is_some());
                    let mut want: Vec<CopyKey> = here.map(|(key, _)| *key).collect();
                    let mut cleared = books.clear();
                    cleared.sort();
                    want.sort();
                    prop_assert_eq!(cleared, want);
                    model.retain(|_, (_, heat)| heat.is_none());
                }
            }
            // What is here, under way, read or leaving: each once.
            left_behind.extend(books.leaving());
            let mut counted: BTreeMap<*const Room, u64> = BTreeMap::new();
            let here = model.keys().filter_map(|key| books.get(key));
            for room in here.chain(&readers).chain(&left_behind) {
                counted.insert(Arc::as_ptr(room), room.bytes);
            }
            let moving: u64 = under_way.iter().map(|(_, room)| room.bytes).sum();
            prop_assert_eq!(budget.used(), counted.values().sum::<u64>() + moving);
            prop_assert!(budget.used() <= MAX);
            books.leaving.append(&mut left_behind);
            let here = model.iter().filter_map(|(key, (_, heat))| Some(((*heat)?, *key)));
            prop_assert_eq!(books.len(), here.clone().count());
            prop_assert_eq!(books.coldest(), here.min());
            let listed = (0..40).filter(|number| books.is_listed(&key(*number)));
            prop_assert_eq!(listed.count(), model.len());
        }
        drop((books, under_way, readers));
        prop_assert_eq!(budget.used(), 0);
    }
}

#[test]
fn who_is_read_by_turns_with_another_does_not_push_it_out() {
    let (older, later) = (Heat(100), Heat(100 + USE_SECONDS));
    assert!(!later.displaces(older) && !older.displaces(later));
    assert!(Heat(101 + USE_SECONDS).displaces(older));
}
