//! `meshctl bench`, as a user runs it: on a region of its own, beside a bare copy over TCP.
#![allow(clippy::unwrap_used, reason = "a test ends with the first surprise")]

mod support;

use serde_json::Value;
use support::meshctl;

const SHORT: [&str; 14] = [
    "bench",
    "--bytes",
    "100KiB",
    "--batch",
    "3",
    "--connections",
    "2",
    "--working-set",
    "2MiB",
    "--seconds",
    "0.1",
    "--warm-up",
    "0",
    "--rounds=2",
];

fn with<'a>(more: &[&'a str]) -> Vec<&'a str> {
    [&SHORT[..], more].concat()
}

fn number(of: &Value) -> f64 {
    of.as_f64().unwrap()
}

#[tokio::test]
async fn gets_and_puts_are_compared_with_a_bare_copy() {
    for (work, second) in [("get", "node"), ("put", "tcp")] {
        let more = [
            "--work",
            work,
            "--against",
            "tcp",
            "--against",
            second,
            "-o",
            "json",
        ];
        let report = meshctl(with(&more)).await.ok().json();
        let results = report["results"].as_array().unwrap();
        let names = results.iter().map(|it| it["name"].as_str().unwrap());
        let names: Vec<_> = names.collect();
        assert_eq!(names[..2], ["gateway", "bare TCP"]);
        assert_eq!(names.len(), 3);
        for result in results {
            let (calls, gb) = (number(&result["calls_per_s"]), number(&result["gb_per_s"]));
            let of_calls = calls * 3.0 * 102_400.0 / 1e9;
            assert!(calls > 0.0 && (gb - of_calls).abs() < 1e-6, "{result}");
            assert!(number(&result["latency_ms"]["p50"]) > 0.0);
        }
        assert!(results[0]["ours_is"].is_null());
        assert!(number(&results[1]["ours_is"]) > 0.0);
    }
}

#[tokio::test]
async fn lookups_mixed_with_puts_begin_when_they_are_due() {
    let more = [
        "--work", "lookup", "--puts", "20", "--rate", "50", "-o", "json",
    ];
    let report = meshctl(with(&more)).await.ok().json();
    let ours = &report["results"][0];
    assert_eq!(ours["name"], "gateway");
    // Two rounds of a tenth of a second.
    assert!(number(&ours["latency_ms"]["count"]) <= 10.0, "{ours}");
    assert!(ours["gb_per_s"].is_null());
}

#[tokio::test]
async fn a_bound_that_is_not_kept_and_a_peer_that_is_not_there_are_said() {
    let ran = meshctl(with(&["--against", "tcp", "--min-ratio", "1000"])).await;
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.err.contains("of bare TCP, under 1000"), "{ran:?}");
    for (peer, says) in [
        (
            "redis://127.0.0.1:1",
            "redis at 127.0.0.1:1 does not answer",
        ),
        (
            "memcached://127.0.0.1:1",
            "memcached at 127.0.0.1:1 does not answer",
        ),
    ] {
        let ran = meshctl(with(&["--against", peer])).await;
        assert_eq!(ran.code, 1, "{ran:?}");
        assert!(ran.err.contains(says), "{ran:?}");
    }
    for cannot in [
        ["--work=lookup", "--against=tcp"],
        ["--work=put", "--direct"],
        ["--node=127.0.0.1:1", "--puts=0"],
    ] {
        let ran = meshctl(with(&cannot)).await;
        assert_eq!(ran.code, 2, "{ran:?}");
    }
}
