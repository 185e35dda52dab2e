//! What is written is read back, and equal words make equal bytes.

use std::fmt::Debug;

use kvmesh_directory::{Command, Description, FeedPosition, Namespace, Outcome, Part, Tag};
use kvmesh_proto::v1 as wire;
use proptest::{collection::vec, prelude::*};
use prost::Message;

use super::{FromWire, ToWire, WireError, arbitrary_test as arbitrary, chain, mesh, parts};

/// Through bytes and back; written twice, the bytes are the same.
fn round_trip<T>(word: &T)
where
    T: ToWire + FromWire<Wire = <T as ToWire>::Wire> + PartialEq + Debug,
    <T as ToWire>::Wire: Message + Default,
{
    let bytes = word.to_wire().encode_to_vec();
    assert_eq!(bytes, word.to_wire().encode_to_vec(), "bytes of {word:?}");
    let raw = <T as ToWire>::Wire::decode(&bytes[..]).unwrap();
    let read = T::from_wire(raw).unwrap();
    assert_eq!(read, *word);
    assert_eq!(
        read.to_wire().encode_to_vec(),
        bytes,
        "bytes of {word:?} read back"
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn commands_round_trip(command in arbitrary::command()) {
        round_trip(&command);
    }

    #[test]
    fn outcomes_round_trip(outcome in arbitrary::outcome()) {
        round_trip(&outcome);
    }

    #[test]
    fn snapshot_records_round_trip(
        head in arbitrary::head(),
        entry in (arbitrary::name(), arbitrary::entry()),
        tombstone in (arbitrary::name(), arbitrary::tombstone()),
    ) {
        round_trip(&head);
        round_trip(&entry);
        round_trip(&tombstone);
    }

    #[test]
    fn mesh_steps_round_trip(step in (arbitrary::position(), arbitrary::mesh_step())) {
        round_trip(&step);
    }

    #[test]
    fn tags_round_trip(tags in vec(any::<(u64, u32)>(), 0..50)) {
        let pairs: Vec<(Tag, u32)> = tags.iter().map(|(tag, bytes)| (Tag(*tag), *bytes)).collect();
        let alone: Vec<Tag> = pairs.iter().map(|(tag, _)| *tag).collect();
        prop_assert_eq!(mesh::unpack_appeared(&mesh::pack_appeared(&pairs)).unwrap(), pairs);
        prop_assert_eq!(mesh::unpack_vanished(&mesh::pack_vanished(&alone)).unwrap(), alone);
    }

    /// Whatever bytes come, reading them ends with a word or an error, never a panic.
    #[test]
    fn any_bytes_are_read_or_refused(bytes in vec(any::<u8>(), 0..200)) {
        if let Ok(raw) = wire::Command::decode(&bytes[..]) {
            let _ = Command::from_wire(raw);
        }
        if let Ok(raw) = wire::SnapshotChunk::decode(&bytes[..]) {
            let _ = super::snapshot::Assembler::new().push(raw);
        }
    }
}

/// The bytes on disk of one command: whoever changes them breaks every stored log.
#[test]
fn the_stored_form_is_frozen() {
    let command = Command::BeginIncarnation {
        node: kvmesh_directory::NodeId(3),
        nonce: 300,
        store: 0,
        level: 0,
    };
    let bytes = command.to_wire().encode_to_vec();
    assert_eq!(bytes, [8, 1, 26, 5, 8, 3, 16, 172, 2]);
}

#[test]
fn a_later_format_is_refused() {
    let mut raw = Command::Blocks(Vec::new()).to_wire();
    raw.version = 2;
    let error = Command::from_wire(raw).unwrap_err();
    let want = WireError::Version {
        what: "a command",
        got: 2,
        known: 1,
    };
    assert_eq!(error, want);
    let chunk = wire::SnapshotChunk {
        version: 2,
        ..Default::default()
    };
    let error = super::snapshot::Assembler::new().push(chunk).unwrap_err();
    assert!(
        matches!(error, WireError::Version { got: 2, .. }),
        "{error}"
    );
}

fn missing<T: FromWire + Debug>(raw: T::Wire) -> &'static str {
    match T::from_wire(raw).unwrap_err() {
        WireError::Missing(field) => field,
        other => panic!("{other}"),
    }
}

#[test]
fn what_is_missing_is_named() {
    assert_eq!(missing::<Command>(wire::Command::default()), "version");
    let versioned = wire::Command {
        version: 1,
        kind: None,
    };
    assert_eq!(missing::<Command>(versioned), "kind");
    let opening = wire::command::Kind::OpenNamespace(wire::OpenNamespace::default());
    let opening = wire::Command {
        version: 1,
        kind: Some(opening),
    };
    assert_eq!(missing::<Command>(opening), "namespace");
    assert_eq!(
        missing::<FeedPosition>(wire::FeedPosition::default()),
        "position.region"
    );
    let outcome = wire::Outcome {
        changes: vec![0],
        ..Default::default()
    };
    assert_eq!(missing::<Outcome>(outcome), "outcome");
}

fn plain() -> Description {
    Description {
        model: "llama".to_owned(),
        dtype: "bf16".to_owned(),
        layout: String::new(),
        block_tokens: 16,
        hash_width: 16,
        short_hashes: false,
        shard_count: 2,
        group_count: 1,
        tenant: String::new(),
        salt: Vec::new(),
        residency: Vec::new(),
    }
}

#[test]
fn an_id_that_is_not_the_descriptions_is_refused() {
    let mut raw = Namespace {
        id: plain().id(),
        name: "llama".to_owned(),
        description: plain(),
        policy: kvmesh_directory::Policy::default(),
        generation: kvmesh_directory::Hlc(0),
        policy_hlc: kvmesh_directory::Hlc(0),
        policy_region: "eu-west".parse().unwrap(),
    }
    .to_wire();
    raw.description.as_mut().unwrap().dtype = "f16".to_owned();
    let error = Namespace::from_wire(raw).unwrap_err();
    assert!(
        matches!(error, WireError::Field { field: "id", .. }),
        "{error}"
    );
}

#[test]
fn residency_is_a_set() {
    let mut raw = plain().to_wire();
    raw.residency = vec!["us-east".into(), "eu-west".into(), "us-east".into()];
    let read = Description::from_wire(raw).unwrap();
    let names: Vec<&str> = read
        .residency
        .iter()
        .map(|region| region.as_str())
        .collect();
    assert_eq!(names, ["eu-west", "us-east"]);
}

fn wire_chain(bytes: usize, width: u32) -> wire::Chain {
    wire::Chain {
        hashes: vec![7; bytes].into(),
        width,
    }
}

#[test]
fn chains_are_read_whole_or_not_at_all() {
    assert_eq!(chain(&wire_chain(48, 16), 16).unwrap().len(), 3);
    for (bytes, width, expected, field) in [
        (0, 16, 16, "chain.hashes"),
        (40, 16, 16, "chain.hashes"),
        (48, 16, 32, "chain.width"),
        (48, 0, 16, "chain.width"),
        (16 * 65_537, 16, 16, "chain.hashes"),
    ] {
        let error = chain(&wire_chain(bytes, width), expected).unwrap_err();
        assert!(
            matches!(error, WireError::Field { field: got, .. } if got == field),
            "{error}"
        );
    }
}

#[test]
fn no_parts_named_is_the_first_part() {
    let part = |shard, group| Part { shard, group };
    assert_eq!(parts(&[], &plain()).unwrap(), [part(0, 0)]);
    let named = [
        part(1, 0).to_wire(),
        part(0, 0).to_wire(),
        part(1, 0).to_wire(),
    ];
    assert_eq!(parts(&named, &plain()).unwrap(), [part(0, 0), part(1, 0)]);
    assert!(parts(&[part(0, 1).to_wire()], &plain()).is_err());
    let huge = wire::Part {
        shard: 65_536,
        group: 0,
    };
    assert!(parts(&[huge], &plain()).is_err());
}
