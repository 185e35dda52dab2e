//! Settings that change while a node runs, and what the program says of settings.

use std::process::Command;

use kvmesh_proto::v1::AckLevel;

use crate::{
    blocks_test::payload,
    region_test::{Region, until},
};

const BYTES: usize = 60_000;

impl Region {
    async fn store_all(&self, numbers: std::ops::Range<u64>) {
        for number in numbers {
            let bytes = payload(number, BYTES);
            self.put(0, number, &bytes, AckLevel::Memory).await.acked();
        }
    }

    /// How many of these blocks the node has.
    async fn had(&self, numbers: std::ops::Range<u64>) -> usize {
        let numbers: Vec<u64> = numbers.collect();
        self.get_many(0, &numbers).await.0.len()
    }
}

#[tokio::test]
async fn memory_shrinks_and_grows_while_the_node_runs() {
    let region = Region::start_with(1, |settings| settings.memory_bytes = 8 << 20).await;
    region.store_all(0..40).await;
    assert_eq!(region.had(0..40).await, 40);
    region.change(0, |settings| settings.memory_bytes = 1 << 20);
    until(async || region.had(0..40).await <= 17).await;
    until(async || region.stats(0).await.blocks <= 17).await;
    region.store_all(40..60).await;
    assert!(region.had(0..60).await <= 17, "it stays so small");
    region.change(0, |settings| settings.memory_bytes = 8 << 20);
    until(async || {
        region.store_all(60..100).await;
        region.had(60..100).await == 40
    })
    .await;
}

/// Exit code and what was said on both outputs.
fn node(flags: &[&str]) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kvmesh-node"));
    let said = command.args(flags).output().unwrap();
    let text = [said.stdout, said.stderr].concat();
    (said.status.code(), String::from_utf8(text).unwrap())
}

#[test]
fn a_check_of_the_settings_looks_at_directories_and_names() {
    let dir = tempfile::tempdir().unwrap();
    let there = format!("raft_dir={}", dir.path().display());
    let absent = format!("raft_dir={}/absent", dir.path().display());
    let check = |raft_dir: &str, more: &str| {
        let base = ["--check-config", "--set", "region=eu", "--set", "node=1"];
        // However full the machine's disk is.
        let base = [&base[..], &["--set", "raft_reserve=0"]].concat();
        let flags = [&base[..], &["--set", raft_dir, "--set", more]].concat();
        node(&flags)
    };
    let (code, said) = check(&there, "zone=a");
    assert_eq!(code, Some(0), "{said}");
    let own =
        |zone: &str| format!("members=[{{ node = 1, address = '127.0.0.1:1', zone = '{zone}' }}]");
    for (raft_dir, more, words) in [
        (&absent, "zone=a".to_owned(), ["raft_dir", "can write"]),
        (
            &there,
            "join=['no-such-host.invalid:1']".to_owned(),
            ["join[0]", "no-such-host.invalid"],
        ),
        (
            &there,
            "log=info,=,=".to_owned(),
            ["flag --set log", "h2=warn"],
        ),
        (
            &there,
            "tls={certificate='c',key='k',ca='a'}".to_owned(),
            ["c", "read"],
        ),
        (
            &there,
            "suspect_after_ms=10000".to_owned(),
            ["suspect_after_ms", "dead_after_ms"],
        ),
    ] {
        let (code, said) = check(raft_dir, &more);
        assert_eq!(code, Some(64), "{said}");
        for word in words {
            assert!(said.contains(word), "{said:?} does not say {word:?}");
        }
    }
    // Built without code for a device.
    if !cfg!(feature = "gpu") {
        let (code, said) = check(&there, "gpu_bytes=1073741824");
        assert_eq!(code, Some(64), "{said}");
        assert!(
            said.contains("gpu_bytes") && said.contains("feature"),
            "{said}"
        );
    }
    let (code, said) = node(&[
        "--check-config",
        "--set",
        "region=eu",
        "--set",
        "node=1",
        "--set",
        &there,
        "--set",
        "zone=a",
        "--set",
        &own("b"),
    ]);
    assert_eq!(code, Some(64), "{said}");
    assert!(
        said.contains("setting zone") && said.contains("members"),
        "{said}"
    );
}
