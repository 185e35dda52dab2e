//! Descriptors as lines of text: `what name` = `how it is on the wire`.

use std::{collections::BTreeMap, fmt::Write};

use prost_types::{
    DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorSet,
    MethodDescriptorProto,
    field_descriptor_proto::{Label, Type},
};

const HEADER: &str = "\
# Everything on the wire. proto/tests/golden.rs compares it with the .proto files and says
# how to add to it. Lines are taken off by hand only: each one is a promise to other versions.
";

type Lines = BTreeMap<String, String>;

/// One entry for each message, field, enum value and method.
pub(crate) fn of(set: &FileDescriptorSet) -> Lines {
    let mut lines = Lines::new();
    for file in &set.file {
        let package = file.package();
        for message in &file.message_type {
            add_message(&mut lines, package, message);
        }
        for values in &file.enum_type {
            add_enum(&mut lines, package, values);
        }
        for service in &file.service {
            let name = format!("{package}.{}", service.name());
            for method in &service.method {
                lines.insert(
                    format!("method {name}.{}", method.name()),
                    signature(method),
                );
            }
        }
    }
    lines
}

fn add_message(lines: &mut Lines, scope: &str, message: &DescriptorProto) {
    let name = format!("{scope}.{}", message.name());
    lines.insert(format!("message {name}"), "message".to_owned());
    for field in &message.field {
        let oneof = field.oneof_index.filter(|_| !field.proto3_optional());
        let oneof = oneof.and_then(|at| message.oneof_decl.get(at as usize));
        let mut wire = form(field);
        if let Some(oneof) = oneof {
            wire.push_str(" of oneof ");
            wire.push_str(oneof.name());
        }
        lines.insert(format!("field {name}.{}", field.name()), wire);
    }
    for nested in &message.nested_type {
        add_message(lines, &name, nested);
    }
    for values in &message.enum_type {
        add_enum(lines, &name, values);
    }
}

fn add_enum(lines: &mut Lines, scope: &str, values: &EnumDescriptorProto) {
    for value in &values.value {
        let name = format!("value {scope}.{}.{}", values.name(), value.name());
        lines.insert(name, value.number().to_string());
    }
}

/// Number, label and type of a field.
fn form(field: &FieldDescriptorProto) -> String {
    let label = match field.label() {
        Label::Repeated => "repeated ",
        _ if field.proto3_optional() => "optional ",
        _ => "",
    };
    let kind = match field.r#type() {
        Type::Message | Type::Enum => field.type_name().trim_start_matches('.').to_owned(),
        // `TYPE_UINT64` is `uint64`.
        scalar => scalar.as_str_name()["TYPE_".len()..].to_lowercase(),
    };
    format!("{} {label}{kind}", field.number())
}

fn signature(method: &MethodDescriptorProto) -> String {
    let side = |streams: bool, name: &str| {
        let stream = if streams { "stream " } else { "" };
        format!("{stream}{}", name.trim_start_matches('.'))
    };
    let asked = side(method.client_streaming(), method.input_type());
    let answered = side(method.server_streaming(), method.output_type());
    format!("({asked}) returns ({answered})")
}

/// The list as a file.
pub(crate) fn text(lines: &Lines) -> String {
    let mut text = HEADER.to_owned();
    for (name, wire) in lines {
        let _ = writeln!(text, "{name} = {wire}");
    }
    text
}

/// The list from a file.
pub(crate) fn parse(text: &str) -> Lines {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let pairs = lines.filter_map(|line| line.split_once(" = "));
    pairs
        .map(|(name, wire)| (name.to_owned(), wire.to_owned()))
        .collect()
}
