//! The house rules as tests: which crate may use which, which file may use what, and how
//! long files may be. Every rule is a function from files to violations, and is shown to
//! find a made-up violation.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Crates by floor; a crate may use crates of lower floors only.
const FLOORS: &[&[&str]] = &[
    &["kvmesh-proto", "kvmesh-directory"],
    &["kvmesh-client"],
    &["kvmesh-process"],
    &["kvmesh-node", "kvmesh-gateway", "kvmesh-region-sync"],
    &["meshctl"],
    &["chaos-tests", "kvmesh-sim"],
];

const LINES_MAX: usize = 500;
/// Longer files: path, lines at most, reason.
const LONG_FILES: &[(&str, usize, &str)] = &[];

/// A word that only some files may use.
struct Fence {
    word: &'static str,
    /// Beginnings of paths; after a `*`, any part of them.
    inside: &'static [&'static str],
}

const FENCES: &[Fence] = &[
    Fence {
        word: "openraft::",
        inside: &["node/src/consensus/"],
    },
    Fence {
        word: "sled::",
        inside: &["*_sled.rs"],
    },
    Fence {
        word: "kvmesh_proto",
        inside: &[
            // Pieces leave and come without tonic's copies.
            "client/src/bulk/",
            "client/src/convert/",
            "client/src/follow/",
            // Raft's RPCs; its log and snapshots are messages as well.
            "node/src/consensus/",
            // The descriptors, for reflection.
            "process/src/server",
            "*/rpc/",
            "*/rpc.rs",
            // Tests that stand in for a caller or a neighbour.
            "*_test.rs",
            "*/tests/",
        ],
    },
    Fence {
        word: "candle_core",
        inside: &["node/src/store/gpu/candle.rs"],
    },
    Fence {
        word: "rustls::",
        inside: &["*/tls"],
    },
    // The memory-mapping module: where a node writes, and where a client reads.
    Fence {
        word: "unsafe",
        inside: &["node/src/store/arena/map.rs", "client/src/local/map.rs"],
    },
    Fence {
        word: "std::env::var",
        inside: &["process/src/settings/"],
    },
];

/// A file of the repository: its path from the root, and what it says.
struct File {
    path: String,
    text: String,
}

impl File {
    fn new(path: &str, text: &str) -> Self {
        let (path, text) = (path.into(), text.into());
        Self { path, text }
    }

    /// Numbered lines without comments.
    fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        let lines = self.text.lines().enumerate();
        lines.map(|(at, line)| (at + 1, line.split("//").next().unwrap_or_default()))
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// All files of ours whose name ends like this.
fn files(end: &str) -> Vec<File> {
    fn walk(dir: &Path, end: &str, found: &mut Vec<PathBuf>) {
        let entries = fs::read_dir(dir)
            .unwrap()
            .map(|entry| entry.unwrap().path());
        for path in entries {
            let name = path.file_name().unwrap().to_str().unwrap();
            if path.is_dir() && !name.starts_with('.') && name != "target" {
                walk(&path, end, found);
            } else if path.is_file() && name.ends_with(end) {
                found.push(path);
            }
        }
    }
    let root = root();
    let mut found = Vec::new();
    walk(&root, end, &mut found);
    found.sort();
    let file = |path: PathBuf| {
        let inside = path.strip_prefix(&root).unwrap().to_str().unwrap();
        File::new(inside, &fs::read_to_string(&path).unwrap())
    };
    found.into_iter().map(file).collect()
}

fn floor(name: &str) -> Option<usize> {
    FLOORS.iter().position(|crates| crates.contains(&name))
}

/// Crate dependencies, also of tests and builds, that do not point down.
fn wrong_arrows(manifests: &[File]) -> Vec<String> {
    let mut wrong = Vec::new();
    for file in manifests {
        let manifest: toml::Table = file.text.parse().unwrap();
        let Some(package) = manifest.get("package") else {
            continue;
        };
        let from = package["name"].as_str().unwrap();
        let Some(from_floor) = floor(from) else {
            wrong.push(format!("{}: crate {from} has no floor", file.path));
            continue;
        };
        let kinds = ["dependencies", "dev-dependencies", "build-dependencies"];
        let used = kinds
            .iter()
            .filter_map(|kind| manifest.get(*kind)?.as_table());
        for to in used.flat_map(|table| table.keys()) {
            if floor(to).is_some_and(|to_floor| to_floor >= from_floor) {
                wrong.push(format!("{from} must not depend on {to}"));
            }
        }
    }
    wrong
}

/// Crates that do not take the workspace's lints.
fn without_lints(manifests: &[File]) -> Vec<String> {
    let takes = |file: &&File| {
        let manifest: toml::Table = file.text.parse().unwrap();
        let lints = manifest
            .get("lints")
            .and_then(|lints| lints.get("workspace"));
        manifest.contains_key("package") && lints.and_then(toml::Value::as_bool) != Some(true)
    };
    let crates = manifests.iter().filter(takes);
    crates.map(|file| file.path.clone()).collect()
}

/// Whether a line has a word, not only as the end of a longer one.
fn has_word(line: &str, word: &str) -> bool {
    let within = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut found = line.match_indices(word);
    found.any(|(at, _)| !line[..at].ends_with(within))
}

/// Uses of a word outside of its fence.
fn outside_fences(files: &[File], fences: &[Fence]) -> Vec<String> {
    let inside = |fence: &Fence, path: &str| {
        fence
            .inside
            .iter()
            .any(|place| match place.strip_prefix('*') {
                Some(part) => path.contains(part),
                None => path.starts_with(place),
            })
    };
    let mut outside = Vec::new();
    for file in files
        .iter()
        .filter(|file| file.path != "chaos-tests/tests/house.rs")
    {
        for fence in fences.iter().filter(|fence| !inside(fence, &file.path)) {
            let uses = file.code().filter(|(_, line)| has_word(line, fence.word));
            outside.extend(uses.map(|(at, _)| format!("{}:{at}: {}", file.path, fence.word)));
        }
    }
    outside
}

/// Files that are longer than they may be, and exceptions that nobody needs.
fn too_long(files: &[File], exceptions: &[(&str, usize, &str)]) -> Vec<String> {
    let limit = |path: &str| {
        let exception = exceptions.iter().find(|(long, ..)| *long == path);
        exception.map_or(LINES_MAX, |&(_, lines, _)| lines)
    };
    let mut wrong = Vec::new();
    for file in files {
        let lines = file.text.lines().count();
        if lines > limit(&file.path) {
            wrong.push(format!("{} has {lines} lines: split it", file.path));
        }
    }
    for (path, ..) in exceptions {
        let file = files.iter().find(|file| file.path == *path);
        if file.is_none_or(|file| file.text.lines().count() <= LINES_MAX) {
            wrong.push(format!("{path} needs no exception"));
        }
    }
    wrong
}

/// Waits of a fixed time in tests; they poll for a condition with a bound instead.
fn sleeping_tests(files: &[File]) -> Vec<String> {
    let mut sleeping = Vec::new();
    for file in files {
        let whole = file.path.contains("/tests/") || file.path.ends_with("_test.rs");
        let mark = "#[cfg(test)]\nmod tests {";
        let tests = file.text.find(mark);
        let tests = tests.map(|at| file.text[..at].lines().count());
        let from = if whole {
            0
        } else {
            tests.unwrap_or(usize::MAX)
        };
        let call = ["sleep", "("].concat();
        let sleeps = file
            .code()
            .filter(|(at, line)| *at > from && line.contains(&call));
        sleeping.extend(sleeps.map(|(at, _)| format!("{}:{at} sleeps", file.path)));
    }
    sleeping
}

/// Paths in backquotes that a page names and that do not exist. A word with a slash is a
/// path when it ends like a file of ours or like a folder.
fn missing_paths(page: &str, exists: impl Fn(&str) -> bool) -> Vec<String> {
    let quoted = page.split('`').skip(1).step_by(2);
    let path = |word: &&str| {
        let plain = |c: char| c.is_ascii_alphanumeric() || "/._-".contains(c);
        let ends = [".rs", ".md", ".toml", ".proto", "/"];
        let begins = word.starts_with(|c: char| c.is_ascii_alphabetic());
        begins
            && word.contains('/')
            && word.chars().all(plain)
            && ends.iter().any(|end| word.ends_with(end))
    };
    let paths = quoted.filter(path).filter(|path| !exists(path));
    paths.map(str::to_owned).collect()
}

#[test]
fn arrows_point_down() {
    assert_eq!(wrong_arrows(&files("Cargo.toml")), [""; 0]);
    let up = "[package]\nname = \"kvmesh-client\"\n[dev-dependencies]\nmeshctl.workspace = true";
    let across = "[package]\nname = \"kvmesh-node\"\n[dependencies]\nkvmesh-gateway = \"1\"";
    let strange = "[package]\nname = \"utils\"";
    let wrong = [up, across, strange].map(|text| File::new("Cargo.toml", text));
    assert_eq!(wrong_arrows(&wrong).len(), 3);
}

#[test]
fn every_crate_takes_the_lints() {
    assert_eq!(without_lints(&files("Cargo.toml")), [""; 0]);
    let bare = File::new("x/Cargo.toml", "[package]\nname = \"x\"");
    assert_eq!(without_lints(&[bare]), ["x/Cargo.toml"]);
}

#[test]
fn nothing_is_used_outside_its_fence() {
    assert_eq!(outside_fences(&files(".rs"), FENCES), [""; 0]);
    let made_up = [
        File::new("node/src/store.rs", "use openraft::Raft;"),
        File::new("node/src/consensus/log.rs", "\nlet db = sled::open();"),
        File::new("node/src/consensus/log.rs", "use log_sled::Disk;"),
        File::new("gateway/src/read.rs", "use kvmesh_proto::v1; // why"),
        File::new("node/src/store/gpu/mod.rs", "use candle_core::Tensor;"),
        File::new("node/src/fine.rs", "// openraft and kvmesh_proto do this"),
    ];
    let outside = outside_fences(&made_up, FENCES);
    assert_eq!(
        outside,
        [
            "node/src/store.rs:1: openraft::",
            "node/src/consensus/log.rs:2: sled::",
            "gateway/src/read.rs:1: kvmesh_proto",
            "node/src/store/gpu/mod.rs:1: candle_core",
        ]
    );
}

#[test]
fn no_file_is_too_long() {
    assert_eq!(too_long(&files(".rs"), LONG_FILES), [""; 0]);
    let long = [File::new("a.rs", &"\n".repeat(LINES_MAX + 1))];
    assert_eq!(too_long(&long, &[]).len(), 1);
    assert_eq!(
        too_long(&long, &[("a.rs", LINES_MAX + 1, "a table")]),
        [""; 0]
    );
    assert_eq!(too_long(&[], &[("a.rs", LINES_MAX + 1, "gone")]).len(), 1);
}

#[test]
fn no_test_sleeps() {
    assert_eq!(sleeping_tests(&files(".rs")), [""; 0]);
    let made_up = [
        File::new("a/tests/b.rs", &["time::sleep", "(d).await;"].concat()),
        File::new(
            "a/src/c.rs",
            &["sleep", "(a);\n#[cfg(test)]\nmod tests {\nsleep", "(b);"].concat(),
        ),
        File::new("a/src/d.rs", &["sleep", "(a);"].concat()),
    ];
    assert_eq!(
        sleeping_tests(&made_up),
        ["a/tests/b.rs:1 sleeps", "a/src/c.rs:4 sleeps"]
    );
}

#[test]
fn paths_that_the_pages_name_exist() {
    let root = root();
    for page in ["docs/architecture.md", "README.md"] {
        let text = fs::read_to_string(root.join(page)).unwrap_or_default();
        let missing = missing_paths(&text, |path| root.join(path).exists());
        assert_eq!(missing, [""; 0], "in {page}");
    }
    let page = "see `src/a.rs`, `b/`, `c.rs`, `Ring::build` and `us-east`";
    assert_eq!(missing_paths(page, |path| path == "b/"), ["src/a.rs"]);
}
