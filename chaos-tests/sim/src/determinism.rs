//! Makes a run start from the same state of the process, whatever ran before it.

/// tokio's task ids count up in the whole process, and decide in which order a runtime drops
/// its tasks when a host crashes: it shards them by the id's lowest bits. Spends ids until
/// the next one is a multiple of 64.
pub(crate) fn align_task_ids() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime without IO can be built");
    loop {
        let id = runtime.block_on(async { spend_one() });
        if id % 64 == 63 {
            return;
        }
    }
}

#[allow(clippy::disallowed_methods, reason = "the task does nothing")]
fn spend_one() -> u64 {
    let id = tokio::spawn(async {}).id().to_string();
    id.parse().expect("a task's id is a number")
}
