//! Blocks go to other regions of a dev mesh by a namespace's policy.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use crate::support::{Ran, meshctl, text};
use meshctl::dev::mesh::{Mesh, Settings};
use serde_json::Value;
use tempfile::TempDir;
use tokio::time::timeout;

const PATIENCE: Duration = Duration::from_secs(60);
const BLOCKS: u64 = 19;

struct World {
    mesh: Mesh,
    dir: TempDir,
    /// Flags of an operator, where links are under TLS.
    tls: Vec<String>,
}

impl World {
    async fn start() -> Self {
        Self::of(Mesh::start(settings()).await.unwrap(), Vec::new())
    }

    /// All links under mutual TLS.
    async fn start_secured() -> Self {
        let mesh = Mesh::start_secured(settings()).await.unwrap();
        let operator = mesh.secured().unwrap().operator().unwrap();
        let named = [
            ("--tls-cert", operator.tls_cert),
            ("--tls-key", operator.tls_key),
            ("--tls-ca", operator.tls_ca),
        ];
        let flag = |(flag, file): (&str, Option<PathBuf>)| {
            [flag.to_owned(), text(&file.unwrap()).to_owned()]
        };
        Self::of(mesh, named.into_iter().flat_map(flag).collect())
    }

    fn of(mesh: Mesh, tls: Vec<String>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self { mesh, dir, tls }
    }

    async fn run(&self, region: usize, verb: &[&str]) -> Ran {
        let gateway = self.mesh.regions()[region].gateway.as_str();
        let tls = self.tls.iter().map(String::as_str);
        let more = ["-o", "json", "--gateway", gateway].into_iter().chain(tls);
        meshctl(verb.iter().copied().chain(more)).await
    }

    async fn ok(&self, region: usize, verb: &[&str]) -> Value {
        self.run(region, verb).await.ok().json()
    }

    /// Puts a file of 19 blocks, whose bytes begin with `salt`; says where its chain is.
    async fn put(&self, region: usize, salt: u8) -> PathBuf {
        let file = self.dir.path().join(format!("file-{salt}"));
        let chain = self.dir.path().join(format!("chain-{salt}"));
        let byte = |n: u32| ((n * 31) >> 3) as u8 ^ salt;
        fs::write(&file, (0..300_001).map(byte).collect::<Vec<u8>>()).unwrap();
        let (file, out) = (text(&file), text(&chain));
        let head = ["put", file, "--namespace", "notes", "--chain-out", out];
        let verb: Vec<&str> = head
            .iter()
            .chain(&["--block-bytes", "16KiB"])
            .copied()
            .collect();
        let put = self.ok(region, &verb).await;
        assert_eq!(put["blocks"], BLOCKS);
        chain
    }

    async fn local_blocks(&self, region: usize, chain: &Path) -> Value {
        let verb = ["lookup", "--namespace", "notes", "--chain", text(chain)];
        self.ok(region, &verb).await["local_blocks"].clone()
    }

    async fn local_until(&self, region: usize, chain: &Path, want: u64) {
        let looking = async { while self.local_blocks(region, chain).await != want {} };
        let said = format!("region {region} does not have {want} blocks");
        timeout(PATIENCE, looking).await.expect(&said);
    }

    /// Where a get comes from.
    async fn get(&self, region: usize, chain: &Path) -> String {
        let out = chain.with_extension("out");
        let head = ["get", "--namespace", "notes", "--await-fill"];
        let rest = ["--chain", text(chain), "--out", text(&out)];
        let verb: Vec<&str> = head.iter().chain(&rest).copied().collect();
        let got = self.ok(region, &verb).await;
        assert_eq!(got["outcome"], "complete");
        got["sources"][0]["region"].as_str().unwrap().to_owned()
    }

    async fn known_until(&self, region: usize, field: &str, want: Value) {
        let known = async {
            loop {
                let ran = self.run(region, &["namespace", "show", "notes"]).await;
                if ran.code == 0 && ran.json()[field] == want {
                    return;
                }
            }
        };
        timeout(PATIENCE, known).await.unwrap();
    }
}

fn settings() -> Settings {
    Settings {
        regions: 3,
        nodes: 1,
        link_scale: 0.0,
        memory_bytes: 512 << 20,
        data_dir: None,
        first_port: 0,
        return_after: None,
        gateways_map: false,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_put_is_brought_to_the_regions_that_the_policy_names_and_to_no_other() {
    let world = World::start_secured().await;
    let there = world.mesh.regions()[1].id.to_string();
    // Hashes of 64 bytes are known to regions by their canonical forms only.
    let open = [
        "namespace",
        "open",
        "notes",
        "--model",
        "m",
        "--hash-width",
        "64",
    ];
    world.ok(0, &open).await;
    let before = world.put(0, 1).await;
    let set = ["namespace", "set", "notes", "--replication", "push"];
    let refused = world.run(0, &set).await;
    assert_eq!(refused.code, 1, "{refused:?}");
    assert!(refused.err.contains("regions"), "{refused:?}");
    let set: Vec<&str> = set.iter().chain(&["--regions", &there]).copied().collect();
    let set = world.ok(0, &set).await;
    assert_eq!(set["regions"], Value::from(vec![there.clone()]));
    // Of the put before, of one after, and of one in a third region.
    world.local_until(1, &before, BLOCKS).await;
    let after = world.put(0, 2).await;
    world.local_until(1, &after, BLOCKS).await;
    world.known_until(2, "replication", "Push".into()).await;
    let third = world.put(2, 3).await;
    world.local_until(1, &third, BLOCKS).await;
    assert_eq!(world.get(1, &after).await, there);
    for (region, chain) in [(2, &before), (2, &after), (0, &third)] {
        assert_eq!(world.local_blocks(region, chain).await, 0);
    }
    // What is deleted goes there, too, and stays away while other blocks come.
    let delete = ["delete", "--namespace", "notes", "--chain", text(&after)];
    world.ok(0, &delete).await;
    world.local_until(1, &after, 0).await;
    let last = world.put(0, 4).await;
    world.local_until(1, &last, BLOCKS).await;
    assert_eq!(world.local_blocks(1, &after).await, 0);
    timeout(PATIENCE, world.mesh.stop()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_region_that_was_cut_off_has_everything_once_it_is_back() {
    let world = World::start().await;
    let there = world.mesh.regions()[1].id.to_string();
    world
        .ok(0, &["namespace", "open", "notes", "--model", "m"])
        .await;
    let set = [
        "namespace",
        "set",
        "notes",
        "--replication",
        "push",
        "--regions",
    ];
    let set: Vec<&str> = set.iter().copied().chain([there.as_str()]).collect();
    world.ok(0, &set).await;
    world.known_until(1, "replication", "Push".into()).await;
    let first = world.put(0, 1).await;
    world.local_until(1, &first, BLOCKS).await;
    world.mesh.links().cut(1);
    let second = world.put(0, 2).await;
    let third = world.put(0, 3).await;
    world.mesh.links().mend(1);
    world.local_until(1, &second, BLOCKS).await;
    world.local_until(1, &third, BLOCKS).await;
    timeout(PATIENCE, world.mesh.stop()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_wanted_often_enough_is_kept_and_not_before() {
    let world = World::start().await;
    let [here, there] = [0, 1].map(|at: usize| world.mesh.regions()[at].id.to_string());
    world
        .ok(0, &["namespace", "open", "notes", "--model", "m"])
        .await;
    let set = [
        "namespace",
        "set",
        "notes",
        "--replication",
        "hot",
        "--hot-after",
        "3",
    ];
    world.ok(0, &set).await;
    world.known_until(1, "hot_after", 3.into()).await;
    let chain = world.put(0, 1).await;
    for _ in 0..3 {
        assert_eq!(world.get(1, &chain).await, here);
    }
    world.local_until(1, &chain, BLOCKS).await;
    assert_eq!(world.get(1, &chain).await, there);
    assert_eq!(world.local_blocks(2, &chain).await, 0);
    timeout(PATIENCE, world.mesh.stop()).await.unwrap();
}
