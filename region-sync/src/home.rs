//! The own region: what it has, and how effects of others are committed there.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};
use kvmesh_client::follow::SharedRegionView;
use kvmesh_directory::{DirectoryState, FeedPosition, LogIncarnation};
use tokio::time::{Instant, sleep};
use tracing::{debug, warn};

use crate::{
    backlog::Batch,
    effects::{plan, plan_again},
    meters::Meters,
    rpc::home::{HomeError, Nodes},
};

const RETRY_MIN: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(5);
/// How long the own view may take to show what was just committed.
const VIEW_WAIT: Duration = Duration::from_millis(500);

/// The own region. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Home {
    view: SharedRegionView,
    nodes: Nodes,
}

impl Home {
    pub(crate) fn new(view: SharedRegionView, nodes: Nodes) -> Self {
        Self { view, nodes }
    }

    /// Which log the own region has; none before it is known.
    pub(crate) fn log(&self) -> Option<LogIncarnation> {
        self.view
            .position()
            .map(|position| position.log_incarnation)
    }

    /// Reads the own directory, as the view shows it.
    pub(crate) fn with<T>(&self, read: impl FnOnce(&DirectoryState) -> T) -> T {
        self.view.with(read)
    }

    /// Waits until the view shows a position, and no longer than `until`.
    pub(crate) async fn reaches(&self, position: &FeedPosition, until: Instant) -> bool {
        self.view.wait_for(position, until).await
    }

    /// Tries until the effects are committed, or were already; says in which log. May be
    /// dropped at any await: what was committed by then is not proposed again.
    /// `again`: also what was committed by its position.
    pub(crate) async fn commit(
        &self,
        batch: &Batch,
        again: bool,
        meters: &Meters,
    ) -> LogIncarnation {
        let mut waits = backoff();
        let mut failures = 0_u32;
        loop {
            match self.attempt(batch, again, meters).await {
                Ok(log) => return log,
                Err(error) => {
                    failures += 1;
                    meters.commit_failed();
                    if failures.is_power_of_two() && failures > 2 {
                        warn!(peer = meters.peer(), %error, failures, "effects of another region cannot be committed");
                    } else {
                        debug!(peer = meters.peer(), %error, "effects of another region not committed yet");
                    }
                }
            }
            sleep(waits.next().unwrap_or(RETRY_MAX)).await;
        }
    }

    async fn attempt(
        &self,
        batch: &Batch,
        again: bool,
        meters: &Meters,
    ) -> Result<LogIncarnation, HomeError> {
        // A copy, so that planning does not hold the feed up.
        let state = self.view.with(Clone::clone);
        let at = state.position().ok_or(HomeError::Unknown)?;
        let mut last: Option<FeedPosition> = None;
        let plan = if again { plan_again } else { plan };
        for command in plan(&batch.effects, &batch.position, &state) {
            meters.carried(&command);
            last = Some(self.nodes.commit(command).await?);
        }
        if let Some(position) = last {
            let deadline = Instant::now() + VIEW_WAIT;
            if !self.view.wait_for(&position, deadline).await {
                debug!(
                    ?position,
                    "the own view does not show yet what was committed"
                );
            }
        }
        Ok(at.log_incarnation)
    }
}

fn backoff() -> impl Iterator<Item = Duration> {
    ExponentialBuilder::new()
        .with_min_delay(RETRY_MIN)
        .with_max_delay(RETRY_MAX)
        .without_max_times()
        .with_jitter()
        .with_jitter_seed(kvmesh_client::random::word())
        .build()
}
