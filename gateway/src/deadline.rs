//! Until when a call may take.

use std::time::Duration;

use kvmesh_client::channel::call_timeout;
use tokio::time::Instant;
use tonic::metadata::MetadataMap;

/// No call takes longer, whatever it names.
const LONGEST: Duration = Duration::from_secs(3_600);

/// The end of a call.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Deadline {
    pub(crate) at: Instant,
    /// The request named it: it overrides the gateway's own bounds.
    pub(crate) named: bool,
}

impl Deadline {
    /// The smaller of `deadline_ms` (0: `default`) and the call's `grpc-timeout`.
    pub(crate) fn of(metadata: &MetadataMap, deadline_ms: u32, default: Duration) -> Self {
        let own = match deadline_ms {
            0 => default,
            named => Duration::from_millis(named.into()),
        };
        let limit = call_timeout(metadata.as_ref())
            .unwrap_or(LONGEST)
            .min(LONGEST);
        Self {
            at: Instant::now() + own.min(limit),
            named: deadline_ms > 0,
        }
    }

    /// When to stop so that an answer still reaches the caller: a little earlier.
    pub(crate) fn with_room_to_answer(self) -> Self {
        let left = self.at.saturating_duration_since(Instant::now());
        let room = (left / 10).min(Duration::from_millis(20));
        Self {
            at: self.at - room,
            ..self
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_smaller_limit_counts() {
        let default = Duration::from_secs(5);
        // grpc-timeout, deadline_ms, milliseconds left, named
        let cases = [
            ("", 0, 5_000, false),
            ("", 700, 700, true),
            ("2S", 0, 2_000, false),
            ("100m", 700, 100, true),
            ("1H", 60_000, 60_000, true),
            ("5x", 0, 5_000, false),
            ("S", 0, 5_000, false),
        ];
        for (header, deadline_ms, left_ms, named) in cases {
            let mut metadata = MetadataMap::new();
            if !header.is_empty() {
                metadata.insert("grpc-timeout", header.parse().unwrap());
            }
            let deadline = Deadline::of(&metadata, deadline_ms, default);
            let left = deadline.at - Instant::now();
            assert_eq!(
                (left.as_millis(), deadline.named),
                (left_ms, named),
                "{header}"
            );
        }
    }
}
