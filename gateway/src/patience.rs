//! How long a get waits for blocks from afar that it thought would come in time.
//!
//! Time counts only while the get waits for them: a client that takes its blocks slowly says
//! nothing about the link.

use std::sync::Arc;

use kvmesh_directory::cost::Pace;
use tokio::time::{Duration, Instant};

use crate::weigh::Weighed;

/// Longer than any call.
const FOR_EVER: Duration = Duration::from_secs(86_400);

/// Of one get.
pub(crate) struct Patience {
    weighed: Arc<Weighed>,
    pace: Pace,
    /// All bytes from afar, and those that came.
    bytes: f64,
    arrived: f64,
    /// Waited so far, and when the first bytes came.
    waited: Duration,
    first_byte: Option<f64>,
}

impl Patience {
    pub(crate) fn new(weighed: Arc<Weighed>, pace: Pace, bytes: f64) -> Self {
        Self {
            weighed,
            pace,
            bytes,
            arrived: 0.0,
            waited: Duration::ZERO,
            first_byte: None,
        }
    }

    /// Until when it is worth waiting for the block at a planned position, if nothing comes.
    pub(crate) fn until(&self, position: usize) -> Instant {
        let rest = self.weighed.recompute(position, usize::MAX);
        let left = self.bytes - self.arrived;
        let patience = self
            .pace
            .patience(self.first_byte, self.arrived, left, rest);
        let more = (patience - self.waited.as_secs_f64()).clamp(0.0, FOR_EVER.as_secs_f64());
        Instant::now() + Duration::from_secs_f64(more)
    }

    /// It was waited from then on, and something came.
    pub(crate) fn waited(&mut self, since: Instant) {
        self.waited += since.elapsed();
    }

    /// Bytes from afar came; a block's header comes with none.
    pub(crate) fn came(&mut self, bytes: usize) {
        let waited = self.waited.as_secs_f64();
        self.first_byte.get_or_insert(waited);
        self.arrived += bytes as f64;
    }
}
