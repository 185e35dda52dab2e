use kvmesh_directory::{
    Command, DirectoryState, FeedPosition, Hlc, LogIncarnation, Member, Namespace, NodeId,
    limits::DELETE_NAMES_MAX, state::Tombstone,
};

use crate::{
    effects::{Effects, plan},
    testing::{block, deletion, namespace, put},
};

fn at(index: u64) -> FeedPosition {
    FeedPosition {
        region: "eu".parse().unwrap(),
        log_incarnation: LogIncarnation(9),
        index,
    }
}

/// The region `us` after these commands.
fn home(commands: Vec<Command>) -> DirectoryState {
    let mut state = DirectoryState::empty();
    let init = Command::InitRegion {
        region: "us".parse().unwrap(),
        log_incarnation: LogIncarnation(1),
        members: vec![Member {
            node: NodeId(1),
            address: "127.0.0.1:1".to_owned(),
            zone: String::new(),
            weight: 1,
            voter: true,
        }],
        feature_level: 1,
    };
    let node = NodeId(1);
    let begin = Command::BeginIncarnation {
        node,
        nonce: 1,
        store: 0,
        level: kvmesh_directory::limits::FEATURE_LEVEL,
    };
    apply(&mut state, [init, begin].into_iter().chain(commands));
    state
}

fn apply(state: &mut DirectoryState, commands: impl IntoIterator<Item = Command>) {
    for command in commands {
        let (outcome, _) = state.apply(state.applied_index() + 1, &command);
        assert_eq!(outcome.refused, None, "{command:?}");
    }
}

fn deletes(model: &Namespace, numbers: &[u32], hlc: u64) -> Effects {
    Effects {
        deletes: vec![deletion(model, numbers, hlc)],
        ..Effects::default()
    }
}

#[test]
fn what_is_not_newer_is_not_proposed() {
    let model = namespace("m");
    let mut state = home(vec![
        Command::OpenNamespace(model.clone()),
        Command::Delete(deletion(&model, &[1], 20)),
    ]);
    let same = Effects {
        namespaces: vec![model.clone()],
        ..deletes(&model, &[1], 20)
    };
    assert_eq!(plan(&same, &at(5), &state), []);
    // Of two names one is new.
    let commands = plan(&deletes(&model, &[1, 2], 20), &at(5), &state);
    let want = deletion(&model, &[2], 20);
    assert!(
        matches!(&commands[..], [Command::RemoteEffects { deletes, .. }] if *deletes == [want])
    );
    apply(&mut state, commands);
    assert_eq!(
        plan(&deletes(&model, &[3], 30), &at(5), &state),
        [],
        "covered"
    );
    assert_eq!(plan(&deletes(&model, &[3], 30), &at(6), &state).len(), 1);
}

#[test]
fn a_later_policy_and_a_higher_generation_are_newer() {
    let model = namespace("m");
    let state = home(vec![Command::OpenNamespace(model.clone())]);
    let mut later = model.clone();
    later.policy_hlc = Hlc(2);
    let mut raised = model.clone();
    raised.generation = Hlc(2);
    let mut earlier = model.clone();
    earlier.policy_hlc = Hlc(0);
    for (theirs, commands) in [(later, 1), (raised, 1), (earlier, 0)] {
        let effects = Effects {
            namespaces: vec![theirs],
            ..Effects::default()
        };
        assert_eq!(plan(&effects, &at(1), &state).len(), commands);
    }
    let raises = |hlc| Effects {
        raises: vec![(model.id, Hlc(hlc))],
        ..Effects::default()
    };
    assert_eq!(plan(&raises(0), &at(1), &state), []);
    assert_eq!(plan(&raises(3), &at(1), &state).len(), 1);
}

#[test]
fn what_is_about_an_unknown_namespace_is_left_out() {
    let (model, other) = (namespace("m"), namespace("other"));
    let state = home(vec![]);
    assert_eq!(plan(&deletes(&model, &[1], 20), &at(1), &state), []);
    let opened = Effects {
        namespaces: vec![other],
        ..deletes(&model, &[1], 20)
    };
    let commands = plan(&opened, &at(1), &state);
    assert!(
        matches!(&commands[..], [Command::RemoteEffects { deletes, .. }] if deletes.is_empty())
    );
}

#[test]
fn forgotten_tombstones_do_not_come_back_unless_the_block_is_there() {
    let model = namespace("m");
    let state = home(vec![
        Command::OpenNamespace(model.clone()),
        Command::Delete(deletion(&model, &[1, 2], 20)),
        Command::DropTombstones { up_to: Hlc(20) },
        put(&model, 2, 15),
    ]);
    let commands = plan(&deletes(&model, &[1, 2], 20), &at(1), &state);
    let want = deletion(&model, &[2], 20);
    assert!(
        matches!(&commands[..], [Command::RemoteEffects { deletes, .. }] if *deletes == [want])
    );
}

#[test]
fn more_than_an_entry_goes_ahead_without_the_position() {
    let (model, taken) = (namespace("m"), namespace("taken"));
    let mut mine = namespace("mine");
    mine.name = "m".to_owned();
    let mut state = home(vec![Command::OpenNamespace(mine)]);
    let names = 2 * DELETE_NAMES_MAX as u32 + 5;
    let tombstones = (0..names).map(|number| {
        let hlc = Hlc(20 + u64::from(number % 3));
        (block(&model, number), Tombstone { hlc, index: 1 })
    });
    let effects = Effects::of_snapshot(vec![model.clone(), taken], tombstones.collect());
    let commands = plan(&effects, &at(7), &state);
    let positions = commands
        .iter()
        .filter(|c| matches!(c, Command::RemoteEffects { .. }));
    assert_eq!(positions.count(), 1);
    assert!(matches!(
        commands.last(),
        Some(Command::RemoteEffects { .. })
    ));
    for command in &commands {
        let names = match command {
            Command::Delete(deletion) => deletion.keys.len(),
            Command::RemoteEffects { deletes, .. } => deletes.iter().map(|d| d.keys.len()).sum(),
            _ => 0,
        };
        assert!(names <= DELETE_NAMES_MAX);
    }
    // Also where another namespace has the alias, and also when it was half done before.
    apply(&mut state, commands[..3].to_vec());
    let rest = plan(&effects, &at(7), &state);
    apply(&mut state, rest);
    assert_eq!(state.stats().tombstones, u64::from(names));
    assert_eq!(state.stats().namespaces, 3);
    assert_eq!(state.remote_position(&at(7).region), Some(&at(7)));
    assert_eq!(plan(&effects, &at(7), &state), []);
}
