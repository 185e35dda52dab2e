//! The books over copies of an earlier start, which are offered to the directory at this one.
//! Pure.

use kvmesh_directory::Hlc;
use tokio::time::Instant;

use super::{CopyState, Ledger};
use crate::store::tier::CopyKey;

impl Ledger {
    /// Gives a copy a new number, to be offered by it; it is provisional then, and pinned as
    /// often as before. Its clock; none: there is no such copy.
    pub fn renumber(&mut self, old: CopyKey, new: CopyKey, now: Instant) -> Option<Hlc> {
        let mut held = self.unlist(old)?;
        if let Some(pins) = self.pins.remove(&old) {
            self.pins.insert(new, pins);
        }
        held.state = CopyState::Provisional { since: now };
        held.offered = true;
        self.list(new, held);
        Some(held.put_hlc)
    }

    /// Starts the time of an unclaimed copy anew. False: there is no such copy any more.
    pub fn renew(&mut self, key: CopyKey, now: Instant) -> bool {
        self.change(key, |held| {
            if held.state != CopyState::Claimed {
                held.state = CopyState::Provisional { since: now };
            }
        })
    }
}
