//! Acknowledged blocks outlive the nodes that hold them: real processes, SIGKILL.
//! `cargo run -p chaos-tests --bin rolling-kill` does it at full size.

use chaos_tests::{Plan, rolling_kill};

use crate::{TURN, in_a_folder};

const PLAN: Plan = Plan {
    blocks: 2_000,
    block_bytes: 8_192,
};

#[tokio::test(flavor = "multi_thread")]
async fn every_acknowledged_block_outlives_a_rolling_kill() {
    let _alone = TURN.lock().await;
    let report = in_a_folder(async |folder| rolling_kill::run(PLAN, folder).await).await;
    println!("{:#}", report.json());
    assert_eq!(report.kills.len(), 3);
    assert_eq!(report.regions_verified, 3);
}
