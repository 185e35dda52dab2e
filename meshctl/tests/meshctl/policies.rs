//! Policies and raises travel between the regions of a dev mesh.

use std::{fs, time::Duration};

use crate::support::{meshctl, text};
use meshctl::dev::mesh::{Mesh, Settings};
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    time::timeout,
};

const PATIENCE: Duration = Duration::from_secs(30);

async fn mesh() -> Mesh {
    let settings = Settings {
        regions: 3,
        nodes: 1,
        link_scale: 0.0,
        memory_bytes: 256 << 20,
        data_dir: None,
        first_port: 0,
        return_after: None,
        gateways_map: false,
    };
    Mesh::start(settings).await.unwrap()
}

fn door(mesh: &Mesh, region: usize) -> &str {
    &mesh.regions()[region].gateway
}

async fn namespace(verb: &[&str], gateway: &str) -> Value {
    let head = ["namespace", "-o", "json", "--gateway", gateway];
    meshctl(head.iter().chain(verb)).await.ok().json()
}

/// Asks a region until the namespace's field is as it should be.
async fn shown_until(gateway: &str, field: &str, want: Value) {
    let shown = async {
        loop {
            let verb = ["namespace", "show", "notes", "-o", "json"];
            let ran = meshctl(verb.iter().chain(&["--gateway", gateway])).await;
            // A region that was just cut off may not know it yet.
            if ran.code == 0 && ran.json()[field] == want {
                return;
            }
        }
    };
    let said = format!("{field} is not {want} at {gateway}");
    timeout(PATIENCE, shown).await.expect(&said);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_policy_set_in_one_region_is_seen_in_all_and_the_last_writer_wins() {
    let mesh = mesh().await;
    namespace(&["open", "notes", "--model", "m"], door(&mesh, 0)).await;
    let set = ["set", "notes", "--ttl", "60", "--fallback", "never"];
    let more = [
        "--replicas",
        "1",
        "--quota",
        "250",
        "--prefill-rate",
        "9000",
    ];
    let set: Vec<&str> = set.iter().chain(&more).copied().collect();
    let answer = namespace(&set, door(&mesh, 0)).await;
    assert_eq!(
        (&answer["ttl_ms"], &answer["fallback"]),
        (&60_000.into(), &"Never".into())
    );
    for region in 0..3 {
        shown_until(door(&mesh, region), "ttl_ms", 60_000.into()).await;
        shown_until(door(&mesh, region), "policy_region", "us-east".into()).await;
    }

    // Both sides write while they do not hear of each other; the later one stands.
    mesh.links().cut(1);
    namespace(&["set", "notes", "--ttl", "70"], door(&mesh, 0)).await;
    shown_until(door(&mesh, 2), "ttl_ms", 70_000.into()).await;
    let later = namespace(&["set", "notes", "--ttl", "80"], door(&mesh, 1)).await;
    assert_eq!(later["quota_permille"], 250, "what is not named stays");
    shown_until(door(&mesh, 0), "ttl_ms", 70_000.into()).await;
    mesh.links().mend(1);
    for region in 0..3 {
        shown_until(door(&mesh, region), "ttl_ms", 80_000.into()).await;
        shown_until(door(&mesh, region), "policy_region", "eu-west".into()).await;
    }
    timeout(PATIENCE, mesh.stop()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_raise_empties_a_namespace_in_every_region() {
    let mesh = mesh().await;
    let dir = tempfile::tempdir().unwrap();
    let (file, chain) = (dir.path().join("file"), dir.path().join("chain"));
    fs::write(&file, vec![7; 100_000]).unwrap();
    for region in 0..2 {
        namespace(&["open", "notes", "--model", "m"], door(&mesh, region)).await;
        let put = ["put", text(&file), "--namespace", "notes", "--chain-out"];
        let more = [text(&chain), "--gateway", door(&mesh, region)];
        meshctl(put.iter().chain(&more)).await.ok();
    }
    let raise = ["namespace", "raise", "notes", "--gateway", door(&mesh, 0)];
    let refused = meshctl(raise).await;
    assert_eq!(refused.code, 2, "{refused:?}");
    assert!(
        refused.err.contains("--yes") && refused.err.contains("us-east"),
        "{refused:?}"
    );
    shown_until(door(&mesh, 0), "generation_ms", 0.into()).await;

    meshctl(raise.iter().chain(&["--yes"])).await.ok();
    let blocks = async |region: usize| {
        let stats = ["stats", "-o", "json", "--gateway", door(&mesh, region)];
        meshctl(stats).await.ok().json()["blocks"].clone()
    };
    assert_eq!(blocks(0).await, 0, "at once in the region that raised");
    let emptied = async { while blocks(1).await != 0 {} };
    timeout(PATIENCE, emptied).await.unwrap();
    timeout(PATIENCE, mesh.stop()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_prefetch_brings_a_chain_and_a_watch_tells_of_it() {
    let mesh = mesh().await;
    let dir = tempfile::tempdir().unwrap();
    let (file, chain) = (dir.path().join("file"), dir.path().join("chain"));
    fs::write(&file, vec![7; 100_000]).unwrap();
    for region in 0..2 {
        namespace(&["open", "notes", "--model", "m"], door(&mesh, region)).await;
    }
    let put = [
        "put",
        text(&file),
        "--namespace",
        "notes",
        "--block-bytes",
        "16KiB",
    ];
    let more = ["--chain-out", text(&chain), "--gateway", door(&mesh, 0)];
    meshctl(put.iter().chain(&more)).await.ok();

    let prefetch = ["prefetch", "--namespace", "notes", "--chain", text(&chain)];
    let more = ["-o", "json", "--gateway", door(&mesh, 1)];
    let done = meshctl(prefetch.iter().chain(&more)).await.ok().json();
    assert_eq!(
        (&done["end"], &done["done_blocks"]),
        (&"complete".into(), &7.into())
    );
    let stats = ["stats", "-o", "json", "--gateway", door(&mesh, 1)];
    assert_eq!(meshctl(stats).await.ok().json()["blocks"], 7);
    let again = meshctl(prefetch.iter().chain(&more)).await.ok().json();
    assert_eq!(again["total_blocks"], 0, "it is here already");

    let watch = ["watch", "notes", "-o", "json", "--gateway", door(&mesh, 1)];
    let mut watch = crate::support::command(watch).spawn().unwrap();
    let mut lines = BufReader::new(watch.stdout.take().unwrap()).lines();
    // When the watch has begun is not known: one of these puts comes after it.
    let told = async {
        for content in 1_u32.. {
            fs::write(&file, content.to_be_bytes()).unwrap();
            let put = ["put", text(&file), "--namespace", "notes", "--gateway"];
            let put = meshctl(put.iter().chain(&[door(&mesh, 1)])).await.ok().out;
            if let Ok(line) = timeout(Duration::from_millis(200), lines.next_line()).await {
                return (put, line.unwrap().unwrap());
            }
        }
        unreachable!("the numbers do not end")
    };
    let (put, line) = timeout(PATIENCE, told).await.unwrap();
    let told: Value = serde_json::from_str(&line).unwrap();
    assert_eq!(told["change"], "appeared");
    assert!(put.contains(told["hash"].as_str().unwrap()), "{put} {line}");
    watch.kill().await.unwrap();
    timeout(PATIENCE, mesh.stop()).await.unwrap();
}
