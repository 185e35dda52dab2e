//! A measurement, not a check. Run it alone:
//! `cargo test --release -p kvmesh-node rate_test -- --ignored --nocapture`

use std::time::Duration;

use futures::{StreamExt, stream};
use tokio::time::Instant;

use super::{Storage, testing::*};

const SUBMITS: u64 = 20_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn claims_per_second_of_three_nodes_on_disk() {
    let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
    let region = Region::new(3, 3, |id, settings| {
        settings.storage = Storage::Directory(dir.path().join(id.to_string()));
    })
    .await;
    region.form().await;
    let leader = region.leader().await;
    let mut base = 0;
    for at in [leader, (leader + 1) % 3] {
        let node = &region.nodes[at];
        for open in [1, 64, 1_024] {
            let submits = if open == 1 { SUBMITS / 40 } else { SUBMITS };
            let running = node.up();
            let index = running.directory.with(|state| state.applied_index());
            let start = Instant::now();
            let mut times: Vec<Duration> = stream::iter(0..submits)
                .map(|block| async move {
                    let sent = Instant::now();
                    let change = vec![claim(node, base + block)];
                    running.consensus.submit(change, soon()).await.unwrap();
                    sent.elapsed()
                })
                .buffer_unordered(open)
                .collect()
                .await;
            base += submits;
            let took = start.elapsed();
            times.sort_unstable();
            let entries = running.directory.with(|state| state.applied_index()) - index;
            eprintln!(
                "{} {open:5} open: {:8.0} claims/s in {entries} entries, p50 {:?}, p99 {:?}",
                if at == leader { "leader  " } else { "follower" },
                submits as f64 / took.as_secs_f64(),
                times[times.len() / 2],
                times[times.len() * 99 / 100],
            );
        }
    }
}
