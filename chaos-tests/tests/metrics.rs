//! Every metric that the code writes has its row in the runbook, and no row is left over.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::{collections::BTreeSet, fs, path::Path};

/// Names of metrics between double quotes, or between backquotes.
fn names(text: &str, quote: char) -> BTreeSet<String> {
    let quoted = text.split(quote);
    let metric = |word: &&str| {
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        word.starts_with("kvmesh_") && word.chars().all(plain)
    };
    quoted.filter(metric).map(str::to_owned).collect()
}

/// Names in the sources of a folder, tests apart.
fn written(folder: &Path, found: &mut BTreeSet<String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if path.is_dir() {
            written(&path, found);
        } else if name.ends_with(".rs") && !name.ends_with("_test.rs") {
            let text = fs::read_to_string(&path).unwrap();
            let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
            found.append(&mut names(code, '"'));
        }
    }
}

#[test]
fn the_runbook_lists_every_metric() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut code = BTreeSet::new();
    for room in ["client", "process", "node", "gateway", "region-sync"] {
        written(&root.join(room).join("src"), &mut code);
    }
    let runbook = fs::read_to_string(root.join("docs/runbook.md")).unwrap();
    let rows = runbook
        .lines()
        .filter(|line| line.starts_with("| `kvmesh_"));
    let listed: BTreeSet<String> = rows.flat_map(|row| names(row, '`')).collect();
    assert_eq!(code.difference(&listed).collect::<Vec<_>>(), [""; 0]);
    assert_eq!(listed.difference(&code).collect::<Vec<_>>(), [""; 0]);
}
