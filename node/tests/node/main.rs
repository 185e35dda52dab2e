//! Nodes as their callers see them: real nodes in one process, over loopback.

#![allow(clippy::unwrap_used, reason = "a test may end so")]

mod blocks_test;
mod claims_test;
mod compare_test;
mod delete_test;
mod disk_test;
mod feed_test;
#[cfg(feature = "gpu")]
mod gpu_test;
mod input_test;
mod join_test;
mod joined_test;
mod lease_test;
mod local_put_test;
mod local_test;
mod lossy_test;
mod members_test;
mod policy_test;
mod put_test;
mod ranges_test;
mod region_test;
mod repair_test;
mod settings_test;
mod staging_test;
mod ttl_test;
mod writers_test;
