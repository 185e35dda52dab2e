//! `meshctl pki`, as a user runs it.

use std::{fs, os::unix::fs::PermissionsExt, path::Path};

use crate::support::{meshctl, text};
use kvmesh_client::tls::{Credentials, Expected, Role, TlsFiles};

async fn issue(dir: &Path, more: &[&str]) -> crate::support::Ran {
    let args = ["pki", "issue", text(dir), "-o", "json"];
    meshctl(args.iter().chain(more)).await
}

fn files(made: &serde_json::Value) -> TlsFiles {
    let file = |name: &str| made[name].as_str().unwrap().into();
    TlsFiles {
        certificate: file("certificate"),
        key: file("key"),
        ca: file("ca"),
    }
}

#[tokio::test]
async fn a_ca_is_made_once_and_its_certificates_are_taken() {
    let dir = tempfile::tempdir().unwrap();
    let (ca, out) = (dir.path().join("ca"), dir.path().join("out"));
    let init = ["pki", "init", text(&ca), "--trust-domain", "test.mesh"];
    meshctl(init).await.ok();
    let again = meshctl(init).await;
    assert_eq!(again.code, 2, "{again:?}");
    let mode = fs::metadata(ca.join("ca-key.pem"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);

    let node = ["--role", "node", "--region", "us-east", "--name", "1"];
    let more = ["--dns", "node-1", "--ip", "10.0.0.1", "--out", text(&out)];
    let made = issue(&ca, &[node, more].concat()).await.ok().json();
    let who = "spiffe://test.mesh/region/us-east/node/1";
    assert_eq!(made["identity"], who);
    assert_eq!(
        made["certificate"],
        text(&out.join("us-east-node-1.pem")),
        "{made}"
    );
    let credentials = Credentials::load(files(&made), "test").unwrap();
    assert_eq!(credentials.identity().to_string(), who);
    credentials.check_own(&Expected::role(Role::Node)).unwrap();
    let error = credentials.check_own(&Expected::role(Role::Gateway));
    assert!(error.unwrap_err().to_string().contains("a gateway"));

    let shown = meshctl([
        "pki",
        "show",
        made["certificate"].as_str().unwrap(),
        "-o",
        "json",
    ]);
    let shown = shown.await.ok().json();
    let shown = &shown[0];
    assert_eq!(
        (&shown["identity"], &shown["state"]),
        (&who.into(), &"valid".into())
    );
    assert_eq!(shown["hosts"], serde_json::json!(["node-1", "10.0.0.1"]));
    let left = shown["days_left"].as_i64().unwrap();
    assert!((89..=90).contains(&left), "{left}");
    let shown = meshctl(["pki", "show", text(&ca.join("ca.pem"))])
        .await
        .ok();
    assert!(shown.out.contains("spiffe://test.mesh"), "{}", shown.out);
}

#[tokio::test]
async fn a_certificate_is_replaced_only_when_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let ca = dir.path();
    meshctl(["pki", "init", text(ca)]).await.ok();
    let alice = ["--role", "operator", "--name", "alice"];
    let made = issue(ca, &alice).await.ok().json();
    let before = fs::read(made["certificate"].as_str().unwrap()).unwrap();
    let again = issue(ca, &alice).await;
    assert_eq!(again.code, 2, "{again:?}");
    assert!(again.err.contains("--renew"), "{again:?}");
    issue(ca, &[&alice[..], &["--renew"]].concat()).await.ok();
    let after = fs::read(made["certificate"].as_str().unwrap()).unwrap();
    assert_ne!(before, after);
    Credentials::load(files(&made), "test").unwrap();
}

#[tokio::test]
async fn what_cannot_be_issued_exits_2_and_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let (ca, empty) = (dir.path().join("ca"), dir.path().join("empty"));
    meshctl(["pki", "init", text(&ca), "--days", "10"])
        .await
        .ok();
    let cases: [(&Path, &[&str], &str); 7] = [
        (&ca, &["--role", "king", "--name", "a"], "operator"),
        (&ca, &["--role", "node", "--name", "1"], "region"),
        (
            &ca,
            &["--role", "operator", "--region", "e", "--name", "a"],
            "no region",
        ),
        (
            &ca,
            &["--role", "node", "--region", "e", "--name", "a"],
            "number",
        ),
        (
            &ca,
            &["--role", "node", "--region", "E", "--name", "1"],
            "a-z",
        ),
        (
            &ca,
            &["--role", "operator", "--name", "a", "--days", "11"],
            "outlive",
        ),
        (&empty, &["--role", "operator", "--name", "a"], "pki init"),
    ];
    for (dir, args, why) in cases {
        let ran = issue(dir, args).await;
        assert_eq!(ran.code, 2, "{args:?}: {ran:?}");
        assert!(ran.err.contains(why), "{args:?}: {ran:?}");
    }
    let none = meshctl(["pki", "show", text(&ca.join("ca-key.pem"))]).await;
    assert_eq!(none.code, 2, "{none:?}");
}
