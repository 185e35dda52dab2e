//! Exit codes, and what goes to which stream, without a mesh.

use crate::support::meshctl;

#[tokio::test]
async fn wrong_usage_exits_2_and_says_so_on_standard_error() {
    let calls: [&[&str]; 7] = [
        &["frobnicate"],
        &["put"],
        &["dev", "--nodes", "2"],
        &["dev", "--link-scale", "9"],
        &["stats", "--gateway", "no address"],
        &[
            "get",
            "--namespace",
            "n",
            "--chain",
            "/nowhere",
            "--out",
            "x",
        ],
        &["replay", "/nowhere"],
    ];
    for call in calls {
        let ran = meshctl(call).await;
        assert_eq!(ran.code, 2, "{call:?}: {ran:?}");
        assert!(ran.out.is_empty() && !ran.err.is_empty(), "{ran:?}");
    }
}

#[tokio::test]
async fn nobody_there_exits_69_and_says_what_to_do() {
    let calls: [&[&str]; 4] = [
        &["stats", "--gateway", "127.0.0.1:1", "-o", "json"],
        &["health", "127.0.0.1:1"],
        &["region", "init", "--node", "127.0.0.1:1"],
        &[
            "namespace",
            "open",
            "n",
            "--model",
            "m",
            "--gateway",
            "127.0.0.1:1",
        ],
    ];
    for call in calls {
        let ran = meshctl(call).await;
        assert_eq!(ran.code, 69, "{call:?}: {ran:?}");
        assert!(ran.err.contains("meshctl dev"), "{ran:?}");
        assert!(ran.out.is_empty(), "{ran:?}");
    }
}

#[tokio::test]
async fn help_is_worth_reading() {
    let ran = meshctl(["--help"]).await.ok();
    for word in ["dev --demo", "replay", "69", "Examples", "127.0.0.1:7400"] {
        assert!(ran.out.contains(word), "{word} is missing in {}", ran.out);
    }
}
