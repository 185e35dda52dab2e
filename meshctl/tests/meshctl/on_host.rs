//! `put` and `get` of who is on a node's host.

use std::fs;

use crate::support::{meshctl, text};
use meshctl::dev::mesh::{Mesh, Settings};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_goes_and_comes_through_the_memory_of_nodes_on_this_host() {
    let mesh = Mesh::start(Settings {
        regions: 1,
        nodes: 3,
        link_scale: 0.0,
        memory_bytes: 256 << 20,
        data_dir: None,
        first_port: 0,
        return_after: None,
        gateways_map: false,
    });
    let mesh = mesh.await.unwrap();
    let region = &mesh.regions()[0];
    let dir = tempfile::tempdir().unwrap();
    let (file, chain, out) = (
        dir.path().join("file"),
        dir.path().join("chain"),
        dir.path().join("out"),
    );
    let bytes: Vec<u8> = (0..300_001_u32).map(|n| ((n * 31) >> 3) as u8).collect();
    fs::write(&file, &bytes).unwrap();
    let door = ["--namespace", "notes", "--gateway", &region.gateway];
    let local = ["--local", text(&region.local), "-o", "json"];

    let open = ["namespace", "open", "notes", "--model", "m", "--gateway"];
    meshctl(open.iter().chain([&&*region.gateway])).await.ok();
    let put = [
        "put",
        text(&file),
        "--block-bytes",
        "16KiB",
        "--chain-out",
        text(&chain),
    ];
    let put = meshctl(put.iter().chain(&door).chain(&local)).await;
    let put = put.ok().json();
    let get = ["get", "--chain", text(&chain), "--out", text(&out)];
    let got = meshctl(get.iter().chain(&door).chain(&local)).await;
    let got = got.ok().json();
    assert_eq!(fs::read(&out).unwrap(), bytes);
    for done in [put, got] {
        let way = |way: &str| done["ways"][way].as_u64().unwrap();
        // One that is late goes another way.
        assert!(way("mapped") > 9, "{done}");
        assert_eq!(way("mapped") + way("node") + way("gateway"), 19, "{done}");
    }
    let got = meshctl(get.iter().chain(&door).chain(&["-o", "json"])).await;
    assert!(got.ok().json()["ways"].is_null());
    mesh.stop().await;
}
