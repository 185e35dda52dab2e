//! Makes a run start from the same state of the process, whatever ran before it, and keeps the
//! machine's clock and randomness out of it.
//!
//! The product asks for neither, but libraries do: HTTP/2 forgets a stream that was reset after
//! a second of the machine's time, which decides in which order calls hear that their
//! connection broke; answers that time out are dated by it; hash maps draw their order.

use std::sync::OnceLock;

use mad_turmoil::{rand, time::SimClocksGuard};
use rand10::{SeedableRng, rngs::StdRng};

/// While it lives, std's clocks on simulated hosts are the simulation's.
pub(crate) struct Sealed {
    _clocks: SimClocksGuard,
}

/// Seals a run of this thread. Nothing of the thread may have drawn a hash map's keys before.
pub(crate) fn seal(seed: u64) -> Sealed {
    static SET: OnceLock<()> = OnceLock::new();
    SET.get_or_init(|| rand::set_rng(StdRng::seed_from_u64(seed)));
    *rand::get_rng() = StdRng::seed_from_u64(seed);
    align_task_ids();
    Sealed {
        _clocks: SimClocksGuard::init(),
    }
}

/// tokio's task ids count up in the whole process, and decide in which order a runtime drops
/// its tasks when a host crashes: it shards them by the id's lowest bits. Spends ids until
/// the next one is a multiple of 64.
fn align_task_ids() {
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
