//! What another version of a program would not understand any more.

use std::collections::BTreeMap;

/// One sentence for each line of `golden` that vanished or changed.
pub(crate) fn between(
    golden: &BTreeMap<String, String>,
    current: &BTreeMap<String, String>,
) -> Vec<String> {
    let broken = golden.iter().filter_map(|(name, was)| {
        let Some(is) = current.get(name) else {
            return Some(format!("{name} = {was} is gone or has another name"));
        };
        (is != was).then(|| format!("{name} was {was} and is {is}"))
    });
    broken.collect()
}

mod tests {
    use prost_types::{
        DescriptorProto, EnumDescriptorProto, EnumValueDescriptorProto, FieldDescriptorProto,
        FileDescriptorProto, FileDescriptorSet, MethodDescriptorProto, OneofDescriptorProto,
        ServiceDescriptorProto,
        field_descriptor_proto::{Label, Type},
    };

    use super::between;
    use crate::lines;

    fn field(name: &str, number: i32, label: Label, kind: Type) -> FieldDescriptorProto {
        FieldDescriptorProto {
            name: Some(name.to_owned()),
            number: Some(number),
            label: Some(label as i32),
            r#type: Some(kind as i32),
            ..FieldDescriptorProto::default()
        }
    }

    fn value(name: &str, number: i32) -> EnumValueDescriptorProto {
        EnumValueDescriptorProto {
            name: Some(name.to_owned()),
            number: Some(number),
            options: None,
        }
    }

    /// A package with a message of two fields and a oneof, an enum, and a service.
    fn made_up() -> FileDescriptorProto {
        let chosen = FieldDescriptorProto {
            oneof_index: Some(0),
            ..field("chosen", 3, Label::Optional, Type::String)
        };
        let message = DescriptorProto {
            name: Some("Ask".to_owned()),
            field: vec![
                field("id", 1, Label::Optional, Type::Uint64),
                field("names", 2, Label::Repeated, Type::String),
                chosen,
            ],
            oneof_decl: vec![OneofDescriptorProto {
                name: Some("frame".to_owned()),
                options: None,
            }],
            enum_type: vec![EnumDescriptorProto {
                name: Some("Kind".to_owned()),
                value: vec![value("NONE", 0), value("SOME", 1)],
                ..EnumDescriptorProto::default()
            }],
            ..DescriptorProto::default()
        };
        let method = MethodDescriptorProto {
            name: Some("Do".to_owned()),
            input_type: Some(".p.Ask".to_owned()),
            output_type: Some(".p.Ask".to_owned()),
            server_streaming: Some(true),
            ..MethodDescriptorProto::default()
        };
        FileDescriptorProto {
            package: Some("p".to_owned()),
            message_type: vec![message],
            service: vec![ServiceDescriptorProto {
                name: Some("Shop".to_owned()),
                method: vec![method],
                options: None,
            }],
            ..FileDescriptorProto::default()
        }
    }

    /// What a change of the made-up package breaks.
    fn broken(change: impl FnOnce(&mut FileDescriptorProto)) -> Vec<String> {
        let set = |file| lines::of(&FileDescriptorSet { file: vec![file] });
        let mut changed = made_up();
        change(&mut changed);
        between(&set(made_up()), &set(changed))
    }

    fn ask(file: &mut FileDescriptorProto) -> &mut DescriptorProto {
        &mut file.message_type[0]
    }

    #[test]
    fn the_made_up_package_is_written_as_lines() {
        let set = FileDescriptorSet {
            file: vec![made_up()],
        };
        let text = lines::text(&lines::of(&set));
        let lines: Vec<_> = text.lines().filter(|line| !line.starts_with('#')).collect();
        assert_eq!(
            lines,
            [
                "field p.Ask.chosen = 3 string of oneof frame",
                "field p.Ask.id = 1 uint64",
                "field p.Ask.names = 2 repeated string",
                "message p.Ask = message",
                "method p.Shop.Do = (p.Ask) returns (stream p.Ask)",
                "value p.Ask.Kind.NONE = 0",
                "value p.Ask.Kind.SOME = 1",
            ]
        );
    }

    #[test]
    fn what_is_added_breaks_nothing() {
        let added = broken(|file| {
            ask(file)
                .field
                .push(field("more", 9, Label::Optional, Type::Bytes));
            ask(file).enum_type[0].value.push(value("MORE", 2));
            let mut other = file.message_type[0].clone();
            other.name = Some("Other".to_owned());
            file.message_type.push(other);
            let mut method = file.service[0].method[0].clone();
            method.name = Some("Redo".to_owned());
            file.service[0].method.push(method);
        });
        assert_eq!(added, [""; 0]);
    }

    #[test]
    fn every_kind_of_break_is_found() {
        let one = |found: Vec<String>, want: &str| {
            assert_eq!(found, [want], "one break was made");
        };
        one(
            broken(|file| drop(ask(file).field.remove(0))),
            "field p.Ask.id = 1 uint64 is gone or has another name",
        );
        one(
            broken(|file| ask(file).field[0].number = Some(4)),
            "field p.Ask.id was 1 uint64 and is 4 uint64",
        );
        one(
            broken(|file| ask(file).field[0].r#type = Some(Type::Int64 as i32)),
            "field p.Ask.id was 1 uint64 and is 1 int64",
        );
        one(
            broken(|file| ask(file).field[1].label = Some(Label::Optional as i32)),
            "field p.Ask.names was 2 repeated string and is 2 string",
        );
        one(
            broken(|file| ask(file).field[2].oneof_index = None),
            "field p.Ask.chosen was 3 string of oneof frame and is 3 string",
        );
        one(
            broken(|file| ask(file).field[0].name = Some("no".to_owned())),
            "field p.Ask.id = 1 uint64 is gone or has another name",
        );
        one(
            broken(|file| drop(ask(file).enum_type[0].value.pop())),
            "value p.Ask.Kind.SOME = 1 is gone or has another name",
        );
        one(
            broken(|file| ask(file).enum_type[0].value[1].number = Some(2)),
            "value p.Ask.Kind.SOME was 1 and is 2",
        );
        one(
            broken(|file| drop(file.service[0].method.pop())),
            "method p.Shop.Do = (p.Ask) returns (stream p.Ask) is gone or has another name",
        );
        one(
            broken(|file| file.service[0].method[0].server_streaming = None),
            "method p.Shop.Do was (p.Ask) returns (stream p.Ask) and is (p.Ask) returns (p.Ask)",
        );
        // The message and all that is in it.
        assert_eq!(broken(|file| file.message_type.clear()).len(), 6);
    }
}
