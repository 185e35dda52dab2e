//! `meshctl drill`, as an operator runs it. How soon clients are served elsewhere is judged by
//! the drill itself, not here: this machine may be busy.

use std::time::Duration;

use crate::support::{Ran, meshctl};
use tokio::time::timeout;

const DRILL: [&str; 4] = ["drill", "run", "region-loss", "--region"];
const BOUND: Duration = Duration::from_secs(600);

async fn drill(region: &str, more: &[&str]) -> Ran {
    let args = DRILL.iter().chain([&region]).chain(more);
    timeout(BOUND, meshctl(args)).await.unwrap()
}

#[tokio::test]
async fn a_region_is_lost_under_load_and_comes_back() {
    let small = [
        "--regions",
        "2",
        "--nodes",
        "1",
        "--link-scale",
        "0",
        "--clients",
        "1",
        "--chains",
        "4",
        "--bytes-per-block",
        "1KiB",
        "--return-after",
        "2",
        "--hold",
        "12",
        "--redirect-max",
        "60",
        "--equal-max",
        "60",
        "-o",
        "json",
    ];
    let ran = drill("us-east", &small).await;
    assert!(ran.err.contains("only us-east has"), "{ran:?}");
    let report = ran.ok().json();
    assert_eq!(report["ok"], true, "{report}");
    let promises = report["promises"].as_array().unwrap();
    assert!(promises.iter().all(|promise| promise["held"] == true));
    // Of the chains that were put in the region, some are read by nobody else.
    let namespaces = report["safe_point"]["namespaces"].as_array().unwrap();
    assert_eq!(namespaces.len(), 2, "{report}");
    for namespace in namespaces {
        let counts = ["alone_blocks", "blocks"].map(|key| namespace[key].as_u64().unwrap());
        assert!(0 < counts[0] && counts[0] < counts[1], "{report}");
        assert!(namespace["newest_copied_s"].is_f64(), "{report}");
    }
    assert_eq!(report["others"], serde_json::json!(["eu-west"]));
    // The clients of the other region lost nothing, and were measured in calm times, too.
    let clients = &report["others_clients"];
    assert!(clients["cut_off"]["seconds"].as_f64().unwrap() >= 12.0);
    for phase in ["calm", "cut_off"] {
        let calls = &clients[phase]["calls"];
        assert!(calls["gets"].as_u64().unwrap() > 0, "{clients}");
        assert_eq!((&calls["missed"], &calls["failed"]), (&0.into(), &0.into()));
    }
    // Both regions were compared, twice at least, and nothing had to be mended.
    let pairs = report["back"]["equal"]["pairs"].as_array().unwrap();
    let by: Vec<_> = pairs.iter().map(|pair| &pair["by"]).collect();
    assert_eq!(by, ["us-east", "eu-west"], "{report}");
    for pair in pairs {
        assert!(pair["comparisons"].as_u64().unwrap() >= 2, "{pair}");
        assert_eq!(pair["mended_blocks"], 0, "{pair}");
    }
    for name in ["available", "equal", "deleted"] {
        assert!(promises.iter().any(|promise| promise["name"] == name));
    }
    std::fs::remove_file(report["log"].as_str().unwrap()).unwrap();
}

#[tokio::test]
async fn what_cannot_be_drilled_is_refused_with_what_to_do() {
    let unknown = drill("mars", &["--regions", "2"]).await;
    assert_eq!(unknown.code, 2, "{unknown:?}");
    assert!(unknown.err.contains("us-east, eu-west"), "{unknown:?}");
    let alone = drill("us-east", &["--regions", "1"]).await;
    assert_eq!(alone.code, 2, "{alone:?}");
    assert!(alone.err.contains("--regions"), "{alone:?}");
    let named = drill("us-east", &["--gateway", "127.0.0.1:1"]).await;
    assert_eq!(named.code, 2, "{named:?}");
    assert!(named.err.contains("--fence and --mend"), "{named:?}");
    let few = drill("us-east", &["--regions", "2", "--p99-more-max", "0.1"]).await;
    assert_eq!(few.code, 2, "{few:?}");
    assert!(few.err.contains("--clients"), "{few:?}");
    let half = drill("us-east", &["--fence", "true"]).await;
    assert_eq!(half.code, 2, "{half:?}");
    let hooks = ["--fence", "true", "--mend", "true"];
    let nowhere = [&hooks[..], &["--gateway", "127.0.0.1:1,127.0.0.1:2"]].concat();
    let unreachable = drill("us-east", &nowhere).await;
    assert_eq!(unreachable.code, 69, "{unreachable:?}");
}
