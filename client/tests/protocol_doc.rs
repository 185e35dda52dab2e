//! `docs/protocol.md` keeps up with the code.

use std::{collections::BTreeMap, fs, path::Path};

use kvmesh_client::Problem;
use kvmesh_directory::limits;
use tonic_types::StatusExt;

fn read(path: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    fs::read_to_string(root.join(path)).expect("the workspace has this file")
}

/// Names of all limits.
fn names(source: &str) -> Vec<&str> {
    let declared = source
        .lines()
        .filter_map(|line| line.strip_prefix("pub const "));
    declared.filter_map(|line| line.split(':').next()).collect()
}

/// Rows of the table of limits: name and value.
fn rows(doc: &str) -> BTreeMap<&str, u64> {
    let rows = doc.lines().filter_map(|line| line.strip_prefix("| `"));
    rows.filter_map(|row| {
        let (name, rest) = row.split_once("` |")?;
        let value = rest.split('|').next()?.trim().replace(',', "");
        Some((name, value.parse().ok()?))
    })
    .collect()
}

#[test]
fn every_limit_is_listed() {
    let (source, doc) = (read("directory/src/limits.rs"), read("docs/protocol.md"));
    let (names, rows) = (names(&source), rows(&doc));
    assert!(names.len() > 20, "the limits were not found: {names:?}");
    let missing: Vec<_> = names
        .iter()
        .filter(|name| !rows.contains_key(*name))
        .collect();
    assert!(
        missing.is_empty(),
        "docs/protocol.md does not list {missing:?}"
    );
    let gone: Vec<_> = rows.keys().filter(|name| !names.contains(name)).collect();
    assert!(
        gone.is_empty(),
        "docs/protocol.md lists {gone:?}, which limits.rs lacks"
    );
}

#[test]
fn the_listed_values_are_the_limits() {
    let doc = read("docs/protocol.md");
    let rows = rows(&doc);
    let values = [
        ("MESSAGE_BYTES_MAX", limits::MESSAGE_BYTES_MAX as u64),
        ("PIECE_BYTES", limits::PIECE_BYTES as u64),
        ("BLOCK_BYTES_MAX", limits::BLOCK_BYTES_MAX),
        ("BLOCK_PIECES_MAX", limits::BLOCK_PIECES_MAX as u64),
        ("RANGES_MAX", limits::RANGES_MAX as u64),
        ("CHAIN_BLOCKS_MAX", limits::CHAIN_BLOCKS_MAX as u64),
        ("LOOKUP_CHAINS_MAX", limits::LOOKUP_CHAINS_MAX as u64),
        ("LOOKUP_HASHES_MAX", limits::LOOKUP_HASHES_MAX as u64),
        ("HASH_WIDTH_MIN", limits::HASH_WIDTH_MIN as u64),
        ("HASH_WIDTH_SHORT", limits::HASH_WIDTH_SHORT as u64),
        ("HASH_WIDTH_MAX", limits::HASH_WIDTH_MAX as u64),
        ("PARTS_MAX", limits::PARTS_MAX.into()),
        (
            "REGION_NAME_BYTES_MAX",
            limits::REGION_NAME_BYTES_MAX as u64,
        ),
        ("TEXT_BYTES_MAX", limits::TEXT_BYTES_MAX as u64),
        ("NAMESPACES_MAX", limits::NAMESPACES_MAX as u64),
        ("REGIONS_MAX", limits::REGIONS_MAX as u64),
        ("LINK_TRANSFERS_MAX", limits::LINK_TRANSFERS_MAX as u64),
        ("LINK_MEASURE_BYTES_MAX", limits::LINK_MEASURE_BYTES_MAX),
        ("HOT_AFTER_MAX", limits::HOT_AFTER_MAX.into()),
        ("NODES_MAX", limits::NODES_MAX as u64),
        ("REPLICAS_MAX", limits::REPLICAS_MAX.into()),
        ("WEIGHT_MAX", limits::WEIGHT_MAX.into()),
        (
            "VIRTUAL_NODES_PER_WEIGHT",
            limits::VIRTUAL_NODES_PER_WEIGHT.into(),
        ),
        ("ENTRY_CHANGES_MAX", limits::ENTRY_CHANGES_MAX as u64),
        ("DELETE_NAMES_MAX", limits::DELETE_NAMES_MAX as u64),
        ("SHARD_ENTRIES_MAX", limits::SHARD_ENTRIES_MAX as u64),
        ("TOMBSTONES_MAX", limits::TOMBSTONES_MAX as u64),
        ("LEASE_MS_MAX", limits::LEASE_MS_MAX),
        ("LEASE_BLOCKS_MAX", limits::LEASE_BLOCKS_MAX as u64),
        ("LEASES_MAX", limits::LEASES_MAX as u64),
        ("LEASED_COPIES_MAX", limits::LEASED_COPIES_MAX as u64),
        ("LEASED_MEMORY_PART", limits::LEASED_MEMORY_PART),
        ("LEASED_NAMESPACE_PART", limits::LEASED_NAMESPACE_PART),
        ("MAPPED_MEMORY_PART", limits::MAPPED_MEMORY_PART),
        (
            "LOCAL_PACKET_BYTES_MAX",
            limits::LOCAL_PACKET_BYTES_MAX as u64,
        ),
        ("LOCAL_BLOCKS_MAX", limits::LOCAL_BLOCKS_MAX as u64),
        ("LOCAL_CLIENTS_MAX", limits::LOCAL_CLIENTS_MAX as u64),
        ("LOCAL_LEASED_PART", limits::LOCAL_LEASED_PART),
        ("LOCAL_CLIENT_PART", limits::LOCAL_CLIENT_PART),
        ("LOCAL_STAGING_PART", limits::LOCAL_STAGING_PART),
        (
            "LOCAL_STAGING_CLIENT_PART",
            limits::LOCAL_STAGING_CLIENT_PART,
        ),
        ("LOCAL_STAGING_BYTES_MAX", limits::LOCAL_STAGING_BYTES_MAX),
        ("LOCAL_PIECES_MAX", limits::LOCAL_PIECES_MAX as u64),
        ("DIGEST_RANGES", limits::DIGEST_RANGES as u64),
        ("FEATURE_LEVEL", limits::FEATURE_LEVEL.into()),
        (
            "FEATURE_BEGIN_FILLS_VOTERS",
            limits::FEATURE_BEGIN_FILLS_VOTERS.into(),
        ),
        ("FEATURE_COSTS", limits::FEATURE_COSTS.into()),
        ("FEATURE_REGIONS", limits::FEATURE_REGIONS.into()),
        ("FEATURE_LOSSY", limits::FEATURE_LOSSY.into()),
        ("PROTOCOL_VERSION", limits::PROTOCOL_VERSION.into()),
    ];
    for (name, value) in values {
        assert_eq!(rows.get(name), Some(&value), "{name} in docs/protocol.md");
    }
    assert_eq!(
        rows.len(),
        values.len(),
        "a limit is listed and not compared here"
    );
}

#[test]
fn every_code_is_listed_with_its_reason() {
    let doc = read("docs/protocol.md");
    let text = || "x".to_owned();
    let problems = [
        Problem::invalid("field", "why"),
        Problem::UnknownNamespace(text()),
        Problem::UnknownLease,
        Problem::UnknownHandle(text()),
        Problem::Gap(text()),
        Problem::DescriptionDiffers {
            name: text(),
            fields: vec![text()],
        },
        Problem::NotInitialised,
        Problem::Exists(text()),
        Problem::NotNow(text()),
        Problem::StaleEpoch {
            current: 2,
            named: 1,
        },
        Problem::unavailable("x"),
        Problem::Exhausted {
            limit: text(),
            retry_after: std::time::Duration::from_secs(1),
        },
        Problem::Overtaken,
        Problem::Corrupt(kvmesh_client::block::BlockError::Empty),
        Problem::OutOfTime("the get"),
        Problem::Denied(text()),
        Problem::Unimplemented(text()),
        Problem::Internal(text()),
    ];
    for problem in problems {
        let status = tonic::Status::from(problem);
        // `InvalidArgument` is written `INVALID_ARGUMENT`.
        let mut code = String::new();
        for letter in format!("{:?}", status.code()).chars() {
            if letter.is_uppercase() && !code.is_empty() {
                code.push('_');
            }
            code.push(letter.to_ascii_uppercase());
        }
        let reason = status.get_details_error_info().unwrap().reason;
        let row = format!("| `{code}` | `{reason}` |");
        assert!(doc.contains(&row), "docs/protocol.md has no row {row}");
    }
}

/// Every call that is on the wire is either built or said not to be.
#[test]
fn every_call_is_listed() {
    let doc = read("docs/protocol.md");
    for file in ["cache", "topology", "feed", "replication"] {
        let source = read(&format!("proto/kvmesh/v1/{file}.proto"));
        let calls = source
            .lines()
            .filter_map(|line| line.trim().strip_prefix("rpc "));
        for call in calls.filter_map(|line| line.split('(').next()) {
            let listed = doc.contains(&format!("`{call}`")) || doc.contains(&format!(".{call}`"));
            assert!(listed, "docs/protocol.md does not speak of {call}");
        }
    }
}
