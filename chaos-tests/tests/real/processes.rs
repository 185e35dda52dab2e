//! What real processes do when their settings change, under mutual TLS, and for many writers.

use chaos_tests::{abroad, hangups, hostile, mutual_tls, one_chain, two_syncs};

use crate::in_a_folder;

#[tokio::test(flavor = "multi_thread")]
async fn a_node_and_a_region_sync_take_up_settings_at_a_hangup_or_nothing() {
    in_a_folder(hangups::run).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mesh_under_mutual_tls_serves_its_own_and_refuses_strangers() {
    in_a_folder(mutual_tls::run).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_whose_region_is_lost_is_served_by_a_gateway_that_names_it_and_comes_back() {
    println!("{:?}", in_a_folder(abroad::run).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_call_from_another_region_shows_a_namespace_that_may_not_be_there() {
    let calls = in_a_folder(hostile::run).await;
    // Four certificates at six processes.
    assert!(calls >= 24 * 36, "{calls}");
}

#[tokio::test(flavor = "multi_thread")]
async fn either_of_two_region_syncs_is_killed_and_no_client_notices() {
    assert_eq!(in_a_folder(two_syncs::run).await, 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn sixteen_writers_of_one_chain_send_each_block_once() {
    let report = in_a_folder(one_chain::run).await;
    println!("{report:?}");
    assert_eq!(report.through_one, report.chain_bytes);
    assert_eq!(report.through_two, report.chain_bytes);
}
