//! Acknowledged blocks outlive the nodes that hold them: real processes, SIGKILL.
//! `cargo run -p chaos-tests --bin rolling-kill` does it at full size.

use chaos_tests::{Plan, rolling_kill};

const PLAN: Plan = Plan {
    blocks: 2_000,
    block_bytes: 8_192,
};

#[tokio::test(flavor = "multi_thread")]
async fn every_acknowledged_block_outlives_a_rolling_kill() {
    let folder = tempfile::tempdir().unwrap();
    let outcome = rolling_kill::run(PLAN, folder.path()).await;
    let report = outcome.unwrap_or_else(|error| {
        // Kept, so that the logs can be read.
        panic!("{error:#}\nlogs are in {}", folder.keep().display())
    });
    println!("{:#}", report.json());
    assert_eq!(report.kills.len(), 3);
    assert_eq!(report.regions_verified, 3);
}
