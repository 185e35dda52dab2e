//! `meshctl bench`, as a user runs it: on a region of its own, beside a bare copy over TCP.

use crate::support::meshctl;
use serde_json::Value;

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
    for (work, second) in [("get", "gateway"), ("put", "gateway")] {
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
        assert_eq!(names[..2], ["nodes", "bare TCP"]);
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
async fn blocks_of_this_host_are_read_where_they_lie_and_put_through_its_memory() {
    for work in ["get", "put"] {
        let more = [
            "--local",
            "--work",
            work,
            "--against",
            "nodes",
            "-o",
            "json",
        ];
        let report = meshctl(with(&more)).await.ok().json();
        let results = report["results"].as_array().unwrap();
        let names: Vec<_> = results.iter().map(|it| it["name"].as_str()).collect();
        assert_eq!(names, [Some("mapped"), Some("nodes")]);
        assert!(number(&results[1]["ours_is"]) > 0.0);
        let went = |at: usize, way: &str| number(&results[at]["ways"][way]);
        // One that is late may go another way.
        assert!(went(0, "mapped") > went(0, "node"), "{report}");
        assert!(went(1, "node") > went(1, "mapped"), "{report}");
    }
}

#[tokio::test]
async fn under_tls_gets_and_puts_are_compared_with_a_bare_copy_under_tls() {
    for work in ["get", "put"] {
        let more = ["--tls", "--work", work, "--against", "tls", "-o", "json"];
        let report = meshctl(with(&more)).await.ok().json();
        let names = report["results"].as_array().unwrap().iter();
        let names: Vec<_> = names.map(|it| it["name"].as_str().unwrap()).collect();
        assert_eq!(names, ["nodes", "bare TLS"]);
        assert!(number(&report["results"][1]["ours_is"]) > 0.0);
    }
}

#[tokio::test]
async fn processor_time_is_told_for_one_thread_and_for_two() {
    // Linux counts hundredths of a second.
    let longer = |more: &'static str| {
        let mut args = with(&["--scale-up", more, "-o", "json"]);
        if let Some(seconds) = args.iter_mut().find(|arg| **arg == "0.1") {
            *seconds = "0.5";
        }
        meshctl(args)
    };
    let report = longer("--puts=0").await.ok().json();
    let took = report["took"].as_array().unwrap();
    let per_gb = |at: usize| number(&took[at]["cpu_s_per_gb"]);
    assert_eq!(
        (&took[0]["workers"], &took[1]["workers"]),
        (&1.into(), &2.into())
    );
    assert!(per_gb(0) > 0.0 && per_gb(1) > 0.0, "{report}");
    assert!(number(&report["ratio"]) > 0.0, "{report}");
    let ran = longer("--cpu-ratio-max=0.01").await;
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.err.contains("two threads take"), "{ran:?}");
}

#[tokio::test]
async fn a_node_is_filled_and_what_it_takes_is_told() {
    let more = ["--fill", "48MiB", "--ack", "memory", "-o", "json"];
    let report = meshctl(with(&more)).await.ok().json();
    let (held, resident) = (
        number(&report["held_bytes"]),
        number(&report["resident_bytes"]),
    );
    let budget = 48.0 * 1024.0 * 1024.0;
    assert!(held <= budget && held > 0.9 * budget, "{report}");
    assert!(resident >= held, "every byte of it is there: {report}");
    assert!((number(&report["ratio"]) - resident / held).abs() < 1e-9);
    let ran = meshctl(with(&["--fill=48MiB", "--resident-ratio-max=0.5"])).await;
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.err.contains("resident"), "{ran:?}");
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
        ("etcd://127.0.0.1:1", "etcd at 127.0.0.1:1 does not answer"),
    ] {
        let ran = meshctl(with(&["--against", peer])).await;
        assert_eq!(ran.code, 1, "{ran:?}");
        assert!(ran.err.contains(says), "{ran:?}");
    }
    for cannot in [
        ["--work=lookup", "--against=tcp"],
        ["--through-gateway", "--against=gateway"],
        ["--local", "--through-gateway"],
        ["--local", "--gateway=127.0.0.1:1"],
        ["--node=127.0.0.1:1", "--puts=0"],
        ["--against=tls", "--puts=0"],
        ["--tls", "--gateway=127.0.0.1:1"],
        ["--scale-up", "--work=lookup"],
    ] {
        let ran = meshctl(with(&cannot)).await;
        assert_eq!(ran.code, 2, "{ran:?}");
    }
    let ran = meshctl(["bench", "--against=etcd://127.0.0.1:1", "--bytes=2MiB"]).await;
    assert_eq!(ran.code, 2, "{ran:?}");
    assert!(
        ran.err.contains("values of 1571840 bytes at most"),
        "{ran:?}"
    );
}
