//! Contexts and completions, as an operator uses them.

use crate::support::{Ran, command, text};
use meshctl::dev::mesh::{Mesh, Settings};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_context_says_whom_to_ask_and_is_named_before_anything_is_destroyed() {
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
    let mesh = Mesh::start(settings).await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("contexts.toml");
    let run = async |args: &[&str]| {
        let mut command = command(args);
        let output = command.env("KVMESH_CONTEXTS", text(&file)).output();
        let output = output.await.unwrap();
        Ran {
            code: output.status.code().unwrap_or(-1),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    };
    let refused = run(&["context", "set", "east"]).await;
    assert_eq!(refused.code, 2, "{refused:?}");
    for (name, region) in [("east", 0), ("west", 1)] {
        let gateway = mesh.regions()[region].gateway.as_str();
        run(&["context", "set", name, "--gateway", gateway])
            .await
            .ok();
    }
    let listed = run(&["context", "list", "-o", "json"]).await.ok().json();
    assert_eq!(listed[0]["name"], "east");
    assert_eq!(
        (&listed[0]["current"], &listed[1]["current"]),
        (&true.into(), &false.into())
    );

    let region = async |args: &[&str]| {
        let head = ["stats", "-o", "json"];
        let stats = run(&[&head[..], args].concat()).await.ok().json();
        stats["region"].as_str().unwrap().to_owned()
    };
    assert_eq!(region(&[]).await, "us-east");
    assert_eq!(region(&["--context", "west"]).await, "eu-west");
    run(&["context", "use", "west"]).await.ok();
    assert_eq!(region(&[]).await, "eu-west");
    let east = mesh.regions()[0].gateway.as_str();
    assert_eq!(region(&["--gateway", east]).await, "us-east");

    run(&["namespace", "open", "notes", "--model", "m"])
        .await
        .ok();
    let raised = run(&["namespace", "raise", "notes", "--yes"]).await.ok();
    assert!(
        raised.err.contains("context west, region eu-west"),
        "{raised:?}"
    );
    run(&["context", "remove", "west"]).await.ok();
    let unknown = run(&["stats", "--context", "west"]).await;
    assert_eq!(unknown.code, 2);
    assert!(unknown.err.contains("there are east"), "{unknown:?}");
    mesh.stop().await;
}

#[tokio::test]
async fn every_shell_gets_completions_that_know_the_verbs() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = crate::support::meshctl(["completions", shell])
            .await
            .ok()
            .out;
        assert!(
            script.contains("prefetch") && script.contains("namespace"),
            "{shell}"
        );
    }
}
