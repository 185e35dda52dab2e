//! The entry that is written by hand is what `consensus.proto` says.

use kvmesh_proto::{
    raft_entry::{Payload, RaftEntry},
    v1::{Command, DropTombstones, RaftLogId, RaftMembership, command::Kind},
};
use prost::Message;
use prost_types::FileDescriptorSet;

/// As it would be generated.
#[derive(Clone, PartialEq, prost::Message)]
struct Generated {
    #[prost(uint32, tag = "1")]
    version: u32,
    #[prost(message, optional, tag = "2")]
    id: Option<RaftLogId>,
    #[prost(oneof = "Whole", tags = "3, 4")]
    payload: Option<Whole>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum Whole {
    #[prost(message, boxed, tag = "3")]
    Command(Box<Command>),
    #[prost(message, tag = "4")]
    Membership(RaftMembership),
}

#[test]
fn its_fields_are_those_of_the_file() {
    let set = FileDescriptorSet::decode(kvmesh_proto::FILE_DESCRIPTOR_SET).unwrap();
    let messages = set.file.iter().flat_map(|file| &file.message_type);
    let fields: Vec<(i32, String)> = messages
        .filter(|message| message.name() == "RaftEntry")
        .flat_map(|message| &message.field)
        .map(|field| {
            (
                field.number(),
                format!("{} {}", field.name(), field.type_name()),
            )
        })
        .collect();
    let expected = [
        (1, "version "),
        (2, "id .kvmesh.v1.RaftLogId"),
        (3, "command .kvmesh.v1.Command"),
        (4, "membership .kvmesh.v1.RaftMembership"),
    ];
    assert_eq!(
        fields,
        expected.map(|(number, text)| (number, text.to_owned()))
    );
}

#[test]
fn its_bytes_are_those_of_a_generated_one() {
    let id = Some(RaftLogId {
        term: 3,
        node: 2,
        index: 700,
    });
    let command = Command {
        version: 1,
        kind: Some(Kind::DropTombstones(DropTombstones { up_to_hlc: 99 })),
    };
    let membership = RaftMembership::default();
    let raw = command.encode_to_vec().into();
    for (ours, generated) in [
        (None, None),
        (
            Some(Payload::Command(raw)),
            Some(Whole::Command(Box::new(command))),
        ),
        (
            Some(Payload::Membership(membership.clone())),
            Some(Whole::Membership(membership)),
        ),
    ] {
        let (ours, generated) = (
            RaftEntry {
                version: 1,
                id,
                payload: ours,
            },
            Generated {
                version: 1,
                id,
                payload: generated,
            },
        );
        assert_eq!(ours.encode_to_vec(), generated.encode_to_vec());
        assert_eq!(
            RaftEntry::decode(&generated.encode_to_vec()[..]).unwrap(),
            ours
        );
    }
}
