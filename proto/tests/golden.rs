//! The wire stays what it was: `proto/golden.txt` lists every message, field, enum value and
//! method, one a line, and nothing on that list may vanish or change.
//!
//! What is new passes, and is put on the list by
//! `cargo test -p kvmesh-proto --test golden -- --ignored`. That only adds. To break the wire
//! on purpose, edit the list by hand, so that a review sees it.

#[path = "golden/breaks.rs"]
mod breaks;
#[path = "golden/lines.rs"]
mod lines;

use std::{collections::BTreeMap, fs, path::PathBuf};

use prost::Message;
use prost_types::FileDescriptorSet;

fn list() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("golden.txt")
}

fn golden() -> BTreeMap<String, String> {
    lines::parse(&fs::read_to_string(list()).expect("proto/golden.txt can be read"))
}

fn current() -> BTreeMap<String, String> {
    let set = FileDescriptorSet::decode(kvmesh_proto::FILE_DESCRIPTOR_SET);
    lines::of(&set.expect("the build wrote descriptors"))
}

#[test]
fn nothing_on_the_wire_vanished_or_changed() {
    let (golden, current) = (golden(), current());
    assert!(golden.len() > 300, "proto/golden.txt is not whole");
    let broken = breaks::between(&golden, &current);
    assert!(
        broken.is_empty(),
        "programs of an earlier version would not understand this one:\n  {}\n\
         keep names, numbers and types, and add new fields instead. If the break is meant, \
         change these lines of proto/golden.txt by hand",
        broken.join("\n  ")
    );
    let new = current.keys().filter(|name| !golden.contains_key(*name));
    for name in new {
        println!(
            "new: {name}; put it on the list: cargo test -p kvmesh-proto --test golden -- --ignored"
        );
    }
}

#[test]
#[ignore = "writes proto/golden.txt: adds what is new to the list"]
fn add_what_is_new() {
    let (golden, mut whole) = (golden(), current());
    // What broke stays on the list: only a hand takes it off.
    whole.extend(golden);
    fs::write(list(), lines::text(&whole)).expect("proto/golden.txt can be written");
}

/// The list is as this program writes it: sorted, without duplicates.
#[test]
fn the_list_is_in_order() {
    let text = fs::read_to_string(list()).unwrap();
    assert_eq!(lines::text(&lines::parse(&text)), text);
}
