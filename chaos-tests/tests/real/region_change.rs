//! All that may be done to a region's nodes, under load: real processes, of which five vote.
//! `cargo run -p chaos-tests --bin region-change` does it at full size, with three voters too.

use std::time::Duration;

use chaos_tests::region_change::{self, Plan};

use crate::{TURN, in_a_folder};

const PLAN: Plan = Plan {
    blocks: 640,
    block_bytes: 8_192,
    voters: 5,
    all: false,
    // Not optimised, and on machines that may be slow: three times what a client gives.
    call_bound: Duration::from_secs(30),
};

#[tokio::test(flavor = "multi_thread")]
#[ignore = "its calls have deadlines of real time: for a machine that does nothing else"]
async fn a_region_of_five_voters_changes_under_load_and_fails_no_call() {
    let _alone = TURN.lock().await;
    let report = in_a_folder(async |folder| region_change::run(PLAN, folder).await).await;
    println!("{:#}", report.json());
    assert_eq!(report.phases.len(), 10, "every change was made");
    assert!(report.blocks_verified >= PLAN.blocks);
}
