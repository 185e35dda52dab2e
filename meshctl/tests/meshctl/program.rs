//! `meshctl dev`, its tour and `meshctl replay`, as a user runs them.

use std::{fmt::Write, fs, time::Duration};

use crate::support::{command, meshctl, text};
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::Command,
    time::timeout,
};

#[tokio::test]
async fn the_tour_keeps_its_promises() {
    let tour = ["dev", "--demo", "--link-scale", "0.5", "-o", "json"];
    let toured = timeout(Duration::from_secs(60), meshctl(tour))
        .await
        .unwrap();
    let toured = toured.ok().json();
    assert_eq!(toured["ok"], true);
    let rows = toured["rows"].as_array().unwrap();
    assert_eq!(rows.len(), 6);
    assert!(rows.iter().all(|row| row["verified"] != false));
    assert_eq!(toured["next"].as_array().unwrap().len(), 3);
    let log = toured["log"].as_str().unwrap();
    assert!(
        fs::read_to_string(log)
            .unwrap()
            .contains("the mesh is ready")
    );
    fs::remove_file(log).unwrap();
}

#[tokio::test]
async fn a_tour_that_cannot_be_set_up_exits_2() {
    let ran = meshctl(["dev", "--demo", "--regions", "1", "--nodes", "1"]).await;
    assert_eq!(ran.code, 2, "{ran:?}");
}

#[tokio::test]
async fn a_mesh_says_where_it_is_and_ends_when_told() {
    let dev = [
        "dev",
        "--regions",
        "2",
        "--nodes",
        "1",
        "--link-scale",
        "0",
        "-o",
        "json",
    ];
    let mut child = command(dev).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut said = String::new();
    let ready = async {
        while let Some(line) = lines.next_line().await.unwrap() {
            said.push_str(&line);
            if line == "}" {
                break;
            }
        }
    };
    timeout(Duration::from_secs(30), ready).await.unwrap();
    let said: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(said["regions"][1]["region"], "eu-west");
    let gateway = said["regions"][0]["gateway"].as_str().unwrap();
    meshctl(["stats", "--gateway", gateway]).await.ok();
    let health = meshctl(["health", gateway, "-o", "json"]).await.ok().json();
    assert_eq!(health["status"], "SERVING");
    let control = said["control"].as_str().unwrap().to_owned();
    let link = async |args: &[&str]| {
        let head = ["dev", "link", "-o", "json", "--control", control.as_str()];
        meshctl(head.iter().chain(args)).await
    };
    let changed = [
        "us-east",
        "eu-west",
        "--rtt-ms",
        "70",
        "--bandwidth",
        "1MiB",
    ];
    let links = link(&changed).await.ok().json();
    assert_eq!(links[0]["rtt_ms"], 70.0);
    assert_eq!(links, link(&[]).await.ok().json());
    assert_eq!(link(&["us-east", "mars"]).await.code, 2);
    assert_eq!(link(&["--down"]).await.code, 2);
    let measured = async {
        loop {
            let list = ["region", "list", "-o", "json", "--gateway", gateway];
            let regions = meshctl(list).await.ok().json();
            if regions[1]["rtt_ms"].as_f64().unwrap() >= 70.0 {
                return;
            }
        }
    };
    let within = Duration::from_secs(30);
    timeout(within, measured)
        .await
        .expect("the mesh measures it");
    let pid = child.id().unwrap().to_string();
    Command::new("kill").arg(pid).status().await.unwrap();
    let ended = timeout(Duration::from_secs(15), child.wait())
        .await
        .unwrap();
    assert_eq!(ended.unwrap().code(), Some(0));
    let gone = link(&[]).await;
    assert_eq!(gone.code, 2, "{gone:?}");
}

/// Conversations that grow turn by turn, all on one system prompt of two blocks.
fn trace(conversations: u32, turns: u32) -> (String, u64, u64) {
    let (mut text, mut references, mut misses) = (String::new(), 0, 2);
    for turn in 1..=turns {
        for conversation in 0..conversations {
            let own = (0..turn * 2).map(|at| 1_000 * (conversation + 1) + at);
            let ids: Vec<u32> = [0, 1].into_iter().chain(own).collect();
            references += ids.len() as u64;
            misses += 2;
            writeln!(text, "{{\"hash_ids\": {ids:?}}}").unwrap();
        }
    }
    (text, references, references - misses)
}

#[tokio::test]
async fn a_settled_replay_finds_exactly_what_was_put() {
    let dir = tempfile::tempdir().unwrap();
    let (path, assigned) = (dir.path().join("trace"), dir.path().join("assigned"));
    let (lines, references, bound) = trace(6, 4);
    fs::write(&path, lines).unwrap();
    let replay = [
        "replay",
        text(&path),
        "--regions",
        "2",
        "--nodes",
        "1",
        "--link-scale",
        "0",
        "--sticky",
        "0.7",
        "--bytes-per-block",
        "4KiB",
        "--seed",
        "7",
        "--assignment-out",
        text(&assigned),
        "--remote-hits-min",
        "1",
        "--wan-bytes-max",
        "1",
        "-o",
        "json",
    ];
    let ran = timeout(Duration::from_secs(80), meshctl(replay))
        .await
        .unwrap();
    let report = ran.ok().json();
    let blocks = &report["blocks"];
    let count = |name: &str| blocks[name].as_u64().unwrap();
    assert_eq!(report["ok"], true);
    assert_eq!((count("references"), count("bound")), (references, bound));
    assert_eq!(count("local_hits") + count("remote_hits"), bound);
    assert_eq!(count("misses"), references - bound);
    assert_eq!(count("remote_hits"), count("expected_remote"));
    assert!(count("remote_hits") > 0, "{report}");
    assert_eq!(count("wrong"), 0);
    let rows = report["ideal"]["regions"].as_array().unwrap();
    let sum = |name: &str| -> u64 { rows.iter().map(|row| row[name].as_u64().unwrap()).sum() };
    assert_eq!(count("expected_remote") * 4_096, sum("fetched_bytes"));
    assert_eq!(count("remote_hits"), sum("remote_hits"));
    let assigned = fs::read_to_string(&assigned).unwrap();
    assert_eq!(assigned.lines().count(), 24);
    let first: Value = serde_json::from_str(assigned.lines().next().unwrap()).unwrap();
    assert_eq!(first["request"], 0);
}

#[tokio::test]
async fn paces_that_do_not_settle_verify_every_byte_and_keep_the_traces_times() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("trace");
    let (lines, references, _) = trace(5, 3);
    let timed = lines.lines().enumerate().map(|(at, line)| {
        let ms = at * 100;
        format!("{{\"timestamp\": {ms}, {}\n", &line[1..])
    });
    fs::write(&path, timed.collect::<String>()).unwrap();
    let replay = async |pace: &[&str]| {
        let head = [
            "replay",
            text(&path),
            "--regions",
            "2",
            "--nodes",
            "1",
            "-o",
            "json",
        ];
        let small = ["--link-scale", "0", "--bytes-per-block", "4KiB", "--pace"];
        let ran = meshctl(head.iter().chain(&small).chain(pace));
        timeout(Duration::from_secs(80), ran).await.unwrap()
    };
    let bar = replay(&["settled", "--wan-bytes-max", "0.5"]).await;
    assert_eq!(bar.code, 1, "{bar:?}");
    for pace in [&["fast", "--clients", "8"][..], &["trace", "--speed", "2"]] {
        let report = replay(pace).await.ok().json();
        let blocks = &report["blocks"];
        assert_eq!(blocks["wrong"], 0);
        assert_eq!(blocks["references"], references);
        assert_eq!(report["pace"], pace[0]);
        if pace[0] == "trace" {
            // Fifteen requests, 50 ms apart.
            assert!(report["wall_s"].as_f64().unwrap() >= 0.7, "{report}");
            assert_eq!(report["latency_ms"]["late"]["count"], 15);
        }
    }
    fs::write(&path, lines).unwrap();
    let untimed = replay(&["trace"]).await;
    assert_eq!(untimed.code, 2);
    assert!(untimed.err.contains("--pace"), "{untimed:?}");
}
