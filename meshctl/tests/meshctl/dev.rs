//! A dev mesh in this process, operated through the built program.

use std::{fs, time::Duration};

use crate::support::{meshctl, text};
use meshctl::dev::mesh::{Mesh, Settings};
use tokio::time::timeout;

fn settings() -> Settings {
    Settings {
        regions: 3,
        nodes: 3,
        link_scale: 0.0,
        memory_bytes: 512 << 20,
        data_dir: None,
        first_port: 0,
        return_after: None,
        gateways_map: false,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_put_in_one_region_is_read_in_another_and_survives_losses() {
    let mesh = Mesh::start(settings()).await.unwrap();
    let door = |region: usize| mesh.regions()[region].gateway.as_str();
    let dir = tempfile::tempdir().unwrap();
    let (file, chain) = (dir.path().join("file"), dir.path().join("chain"));
    let bytes: Vec<u8> = (0..300_001_u32).map(|n| ((n * 31) >> 3) as u8).collect();
    fs::write(&file, &bytes).unwrap();

    // Nobody knows the namespace yet: the mesh says no, and what to do.
    let put = [
        "put",
        text(&file),
        "--namespace",
        "notes",
        "--block-bytes",
        "16KiB",
        "--chain-out",
        text(&chain),
        "-o",
        "json",
        "--gateway",
    ];
    let ran = meshctl(put.iter().chain([&door(0)])).await;
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.err.contains("namespace open"), "{ran:?}");

    let open = ["namespace", "open", "notes", "--model", "m", "--gateway"];
    for region in 0..2 {
        meshctl(open.iter().chain([&door(region)])).await.ok();
    }
    let put = meshctl(put.iter().chain([&door(0)])).await.ok().json();
    assert_eq!(
        (&put["blocks"], &put["copies_min"]),
        (&19.into(), &2.into())
    );

    // At once: the chain file says for what the other region must wait.
    let far = get(door(1), &chain, &["--await-fill"]).await;
    assert_eq!(far["sources"][0]["region"], "us-east");
    assert_eq!(far["bytes"], bytes.len());
    let out = chain.with_extension("out");
    assert_eq!(fs::read(&out).unwrap(), bytes);

    look_until(door(1), &chain, "local_blocks", 19).await;
    what_is_held_is_renewed_and_let_go(door(1), &chain).await;
    mesh.kill_node(1, 0).await;
    let near = get(door(1), &chain, &[]).await;
    assert_eq!(near["sources"][0]["region"], "eu-west");
    mesh.links().cut(0);
    get(door(1), &chain, &[]).await;
    assert_eq!(fs::read(&out).unwrap(), bytes);

    operators_see_the_region(door(1)).await;
    timeout(Duration::from_secs(15), mesh.stop()).await.unwrap();
}

async fn get(gateway: &str, chain: &std::path::Path, more: &[&str]) -> serde_json::Value {
    let out = chain.with_extension("out");
    let get = [
        "get",
        "--namespace",
        "notes",
        "--chain",
        text(chain),
        "--out",
        text(&out),
        "-o",
        "json",
        "--gateway",
        gateway,
    ];
    let got = meshctl(get.iter().chain(more)).await.ok().json();
    assert_eq!(got["outcome"], "complete");
    assert_eq!(got["hashes_verified"], true);
    assert_eq!(got["sources"].as_array().unwrap().len(), 1, "{got}");
    got
}

/// Looks a chain up until a count of it is as it should be.
async fn look_until(gateway: &str, chain: &std::path::Path, count: &str, want: u64) {
    let look = [
        "lookup",
        "--namespace",
        "notes",
        "--chain",
        text(chain),
        "-o",
        "json",
        "--gateway",
        gateway,
    ];
    let looking = async { while meshctl(look).await.ok().json()[count] != want {} };
    timeout(Duration::from_secs(20), looking).await.unwrap();
}

async fn what_is_held_is_renewed_and_let_go(gateway: &str, chain: &std::path::Path) {
    let ask = async |verb: &[&str]| {
        let more = ["--namespace", "notes", "-o", "json", "--gateway", gateway];
        meshctl(verb.iter().chain(&more)).await
    };
    let look = ["lookup", "--chain", text(chain), "--hold", "1m"];
    let found = ask(&look).await.ok().json();
    assert_eq!(found["leased_blocks"], 19, "{found}");
    let lease = found["lease"].as_str().unwrap();
    let renew = ["lease", "renew", lease, "--hold", "2m"];
    let renewed = ask(&renew).await.ok().json();
    assert_eq!(
        (&renewed["blocks"], &renewed["hold_ms"], &renewed["partial"]),
        (&19.into(), &120_000.into(), &false.into())
    );
    let release = ["lease", "release", lease];
    assert_eq!(ask(&release).await.ok().json()["blocks"], 19);
    assert_eq!(ask(&release).await.ok().json()["blocks"], 0);
    let gone = ask(&renew).await;
    assert_eq!(gone.code, 1, "{gone:?}");
    assert!(gone.err.contains("has ended"), "{gone:?}");
    assert_eq!(ask(&["lease", "release", "xy"]).await.code, 2);
}

async fn operators_see_the_region(gateway: &str) {
    let ask = async |verb: &[&str]| {
        let more = ["-o", "json", "--gateway", gateway];
        meshctl(verb.iter().chain(&more)).await.ok().json()
    };
    let regions = ask(&["region", "list"]).await;
    assert_eq!(regions.as_array().unwrap().len(), 3);
    assert_eq!(
        (&regions[0]["region"], &regions[0]["local"]),
        (&"eu-west".into(), &true.into())
    );
    let shown = ask(&["topology", "show"]).await;
    let shares = shown["nodes"].as_array().unwrap().iter();
    let sum: f64 = shares.map(|node| node["ownership"].as_f64().unwrap()).sum();
    assert!((sum - 1.0).abs() < 1e-6, "{shown}");
    assert_eq!(ask(&["node", "list"]).await.as_array().unwrap().len(), 3);
    assert_eq!(ask(&["namespace", "list"]).await[0]["name"], "notes");
    let stats = ask(&["stats"]).await;
    assert_eq!(
        (&stats["role"], &stats["blocks"]),
        (&"gateway".into(), &19.into())
    );
    // The other form, for people.
    let tables = [
        "region list",
        "topology show",
        "node list",
        "namespace list",
        "stats",
    ];
    for verb in tables {
        let ran = meshctl(verb.split(' ').chain(["--gateway", gateway]))
            .await
            .ok();
        assert!(ran.out.lines().count() > 2, "{ran:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_data_directory_brings_the_regions_back() {
    let dir = tempfile::tempdir().unwrap();
    let settings = Settings {
        regions: 2,
        nodes: 1,
        data_dir: Some(dir.path().to_owned()),
        ..settings()
    };
    let mut gateways = Vec::new();
    for name in ["one", "two"] {
        let mesh = Mesh::start(settings.clone()).await.unwrap();
        gateways.push(mesh.regions()[0].gateway.clone());
        let gateway = gateways[0].as_str();
        let open = [
            "namespace",
            "open",
            name,
            "--model",
            name,
            "--gateway",
            gateway,
        ];
        meshctl(open).await.ok();
        let list = meshctl(["namespace", "list", "-o", "json", "--gateway", gateway]).await;
        assert_eq!(list.ok().json().as_array().unwrap().len(), gateways.len());
        mesh.stop().await;
    }
    assert_eq!(gateways[0], gateways[1], "committed members name the ports");
}
