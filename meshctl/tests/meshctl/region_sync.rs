//! What a region knows of another one is compared and read again, as an operator orders it.

use std::{fs, path::PathBuf, time::Duration};

use crate::support::{Ran, meshctl, text};
use meshctl::dev::mesh::{Mesh, Settings};
use serde_json::Value;
use tokio::time::timeout;

const PATIENCE: Duration = Duration::from_secs(60);
const BLOCKS: u64 = 19;

/// Two regions under mutual TLS; the second one fetches from the first.
struct World {
    mesh: Mesh,
    dir: tempfile::TempDir,
    tls: Vec<String>,
}

impl World {
    async fn start() -> Self {
        let settings = Settings {
            regions: 2,
            nodes: 1,
            link_scale: 0.0,
            memory_bytes: 256 << 20,
            data_dir: None,
            first_port: 0,
            return_after: None,
            gateways_map: false,
        };
        let mesh = Mesh::start_secured(settings).await.unwrap();
        let operator = mesh.secured().unwrap().operator().unwrap();
        let named = [
            ("--tls-cert", operator.tls_cert),
            ("--tls-key", operator.tls_key),
            ("--tls-ca", operator.tls_ca),
        ];
        let flag = |(flag, file): (&str, Option<PathBuf>)| {
            [flag.to_owned(), text(&file.unwrap()).to_owned()]
        };
        Self {
            mesh,
            dir: tempfile::tempdir().unwrap(),
            tls: named.into_iter().flat_map(flag).collect(),
        }
    }

    async fn run(&self, verb: &[&str]) -> Ran {
        let tls = self.tls.iter().map(String::as_str);
        meshctl(verb.iter().copied().chain(tls)).await
    }

    /// In one of the regions.
    async fn ok(&self, region: usize, verb: &[&str]) -> Value {
        let gateway = self.mesh.regions()[region].gateway.as_str();
        let more = ["-o", "json", "--gateway", gateway];
        self.run(&[verb, &more].concat()).await.ok().json()
    }

    /// By the region-sync of the second region.
    async fn sync(&self, flags: &[&str]) -> Ran {
        let address = self.mesh.regions()[1].region_sync.as_str();
        let head = ["region", "sync", "--region-sync", address];
        self.run(&[&head[..], flags].concat()).await
    }

    async fn synced(&self, flags: &[&str]) -> Value {
        let flags = [&["--peer", "us-east", "-o", "json"], flags].concat();
        self.sync(&flags).await.ok().json()
    }

    /// Puts a file in the first region, and waits until the second one knows its blocks.
    async fn put(&self) -> PathBuf {
        let [file, chain] = ["file", "chain"].map(|name| self.dir.path().join(name));
        let byte = |n: u32| ((n * 31) >> 3) as u8;
        fs::write(&file, (0..300_001).map(byte).collect::<Vec<u8>>()).unwrap();
        self.ok(0, &["namespace", "open", "notes", "--model", "m"])
            .await;
        let put = ["put", text(&file), "--namespace", "notes"];
        let rest = ["--chain-out", text(&chain), "--block-bytes", "16KiB"];
        self.ok(0, &[put, rest].concat()).await;
        let known = async {
            loop {
                let regions = self.ok(1, &["region", "list"]).await;
                let regions = regions.as_array().unwrap().clone();
                if regions
                    .iter()
                    .any(|region| region["region"] == "us-east" && region["blocks"] == BLOCKS)
                {
                    return;
                }
            }
        };
        timeout(PATIENCE, known).await.unwrap();
        chain
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_known_of_a_region_is_compared_and_read_again() {
    let world = World::start().await;
    let chain = world.put().await;
    let compared = world.synced(&[]).await;
    assert_eq!(compared["region"], "eu-west");
    assert_eq!(compared["how"], "compare");
    assert_eq!(compared["blocks"], BLOCKS);
    for kind in ["ranges", "missing", "gone", "resized", "objects"] {
        assert_eq!(compared[kind], 0, "{compared}");
    }
    let table = world.sync(&["--peer", "us-east"]).await.ok();
    assert!(
        table.out.contains("knows what region us-east has"),
        "{table:?}"
    );
    assert!(table.err.is_empty(), "nothing is destroyed: {table:?}");

    let flags = ["--peer", "us-east", "--from-zero", "-o", "json"];
    let zero = world.sync(&flags).await.ok();
    assert!(
        zero.err.contains("no context, region eu-west") && zero.err.contains("us-east is read"),
        "{zero:?}"
    );
    let zero = zero.json();
    assert_eq!(
        (&zero["how"], &zero["blocks"]),
        (&"from_zero".into(), &BLOCKS.into())
    );

    let index = zero["position"]
        .as_str()
        .unwrap()
        .rsplit_once('@')
        .unwrap()
        .1;
    let log = zero["log"].as_str().unwrap();
    for since in [index.to_owned(), format!("{log}/{index}"), "3".to_owned()] {
        let again = world.synced(&["--since", &since]).await;
        assert_eq!(
            (&again["how"], &again["blocks"]),
            (&"since".into(), &BLOCKS.into())
        );
    }
    let out = world.dir.path().join("copy");
    let get = ["get", "--namespace", "notes", "--chain", text(&chain)];
    let got = world
        .ok(1, &[&get[..], &["--out", text(&out)]].concat())
        .await;
    assert_eq!(got["sources"][0]["region"], "us-east");
    timeout(PATIENCE, world.mesh.stop()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_synchronised_says_what_to_do() {
    let world = World::start().await;
    for flags in [
        &["--peer", "us-east", "--since", "1", "--from-zero"][..],
        &["--peer", "us-east", "--since", "x"],
        &["--peer", "US"],
        &[],
    ] {
        let wrong = world.sync(flags).await;
        assert_eq!(wrong.code, 2, "{wrong:?}");
    }
    for (flags, said) in [
        (&["--peer", "ap-south"][..], "us-east"),
        (&["--peer", "us-east", "--since", "9999999"], "earlier"),
        (&["--peer", "us-east", "--since", "7/1"], "--from-zero"),
    ] {
        let refused = world.sync(flags).await;
        assert_eq!(refused.code, 1, "{refused:?}");
        assert!(refused.err.contains(said), "{refused:?}");
        assert!(refused.out.is_empty(), "{refused:?}");
    }
    let nobody = [
        "region",
        "sync",
        "--peer",
        "us-east",
        "--region-sync",
        "127.0.0.1:1",
    ];
    assert_eq!(meshctl(nobody).await.code, 69);
    timeout(PATIENCE, world.mesh.stop()).await.unwrap();
}
