//! What operators order for one peer: to compare now, to read it from the start, or to follow
//! its feed again from a position.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use kvmesh_client::Problem;
use kvmesh_directory::{FeedPosition, LogIncarnation, RegionId};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch},
    time::{Instant, timeout, timeout_at},
};
use tracing::info;

use super::{CompareError, Comparing, Difference};
use crate::{
    peer::{Progress, Restart},
    rpc::compare::AskError,
};

/// Reading a peer again takes no longer; it goes on all the same.
const RESYNC_MAX: Duration = Duration::from_secs(600);
/// An operator who takes no answer for so long gets none.
const ANSWER_MAX: Duration = Duration::from_secs(10);
/// Answers that wait for an operator.
const ANSWERS_MAX: usize = 16;

/// What is to be done.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum How {
    /// Compare, and mend what differs.
    Compare,
    /// Read all of it again.
    FromZero,
    /// Follow its feed again from here; log incarnation 0: of the log that is followed.
    Since(FeedPosition),
}

/// What an operator is told.
#[derive(Debug)]
pub(crate) enum Said {
    /// Blocks read so far, and known before.
    Progress { read: u64, before: u64 },
    /// The last.
    End {
        /// What gateways are shown now.
        position: Option<FeedPosition>,
        blocks: u64,
        /// What a comparison mended.
        mended: Difference,
    },
}

pub(crate) type Answers = mpsc::Receiver<Result<Said, Problem>>;

/// One order; others for the same peer are refused until it is dropped.
pub(crate) struct Order {
    how: How,
    answers: mpsc::Sender<Result<Said, Problem>>,
    _turn: OwnedSemaphorePermit,
}

/// Takes orders for all peers.
#[derive(Default)]
pub(crate) struct Desk(BTreeMap<RegionId, (mpsc::Sender<Order>, Arc<Semaphore>)>);

impl Desk {
    /// Orders for a peer; who serves them takes them from here.
    pub(crate) fn open(&mut self, peer: &RegionId) -> mpsc::Receiver<Order> {
        let (orders, taken) = mpsc::channel(1);
        let turn = Arc::new(Semaphore::new(1));
        self.0.insert(peer.clone(), (orders, turn));
        taken
    }

    /// Gives an order; what comes of it is said by and by.
    pub(crate) fn order(&self, peer: &RegionId, how: How) -> Result<Answers, Problem> {
        let Some((orders, turn)) = self.0.get(peer) else {
            let known: Vec<&str> = self.0.keys().map(RegionId::as_str).collect();
            let why = match known.is_empty() {
                true => "this region-sync follows no other region".to_owned(),
                false => format!("{peer} is not followed; followed are {}", known.join(", ")),
            };
            return Err(Problem::invalid("peer", why));
        };
        let busy = || Problem::Exhausted {
            limit: format!("the bound of one synchronisation of {peer} at a time"),
            retry_after: Duration::from_secs(5),
        };
        let turn = Arc::clone(turn).try_acquire_owned().map_err(|_| busy())?;
        let (answers, said) = mpsc::channel(ANSWERS_MAX);
        let order = Order {
            how,
            answers,
            _turn: turn,
        };
        orders.try_send(order).map_err(|_| busy())?;
        Ok(said)
    }
}

impl Comparing {
    /// Does what was ordered. An operator who leaves changes nothing.
    pub(super) async fn serve(&mut self, order: Order) {
        let ended = match &order.how {
            How::Compare => self.compare_now().await,
            How::FromZero => self.again(None, &order).await,
            How::Since(position) => match self.since(position).await {
                Ok(after) => self.again(Some(after), &order).await,
                Err(problem) => Err(problem),
            },
        };
        let _ = timeout(ANSWER_MAX, order.answers.send(ended)).await;
    }

    async fn compare_now(&mut self) -> Result<Said, Problem> {
        let mended = self
            .compare_patiently()
            .await
            .map_err(|error| self.problem(&error))?;
        self.tell_gateways().await;
        Ok(self.end(mended))
    }

    fn end(&self, mended: Difference) -> Said {
        let (position, blocks) = self.standing();
        Said::End {
            position,
            blocks,
            mended,
        }
    }

    fn problem(&self, error: &CompareError) -> Problem {
        let peer = &self.nodes.region;
        match error {
            CompareError::Ask(AskError::Unknown(_)) => {
                Problem::NotNow(format!("{error}: upgrade them, or use --from-zero"))
            }
            CompareError::NotNow => Problem::unavailable(format!(
                "{error}: look at the state of {peer} in `meshctl region list`"
            )),
            _ => Problem::unavailable(format!("region {peer} was not compared: {error}")),
        }
    }

    /// Whether a peer's feed can be followed again from a position, and by its whole name.
    async fn since(&self, position: &FeedPosition) -> Result<FeedPosition, Problem> {
        let peer = &self.nodes.region;
        let (Some(shown), _) = self.standing() else {
            let what =
                format!("nothing is known of region {peer} yet: look at `meshctl region list`");
            return Err(Problem::unavailable(what));
        };
        let mut after = position.clone();
        if after.log_incarnation == LogIncarnation(0) {
            after.log_incarnation = shown.log_incarnation;
        }
        if after.region != *peer {
            let why = format!("it is a position of region {}, not of {peer}", after.region);
            return Err(Problem::invalid("since", why));
        }
        if after.log_incarnation != shown.log_incarnation {
            return Err(Problem::Gap(format!(
                "region {peer} has another log now, {}: nothing of log {} is left, use --from-zero",
                shown.log_incarnation.0, after.log_incarnation.0
            )));
        }
        if after.index > shown.index {
            let why = format!(
                "{} is not shown yet, {} is: name an earlier one",
                after.index, shown.index
            );
            return Err(Problem::invalid("since", why));
        }
        match self.nodes.reaches_back_to(&after).await {
            Ok(true) => Ok(after),
            Ok(false) => Err(Problem::Gap(format!(
                "the log of region {peer} is not kept back to {} any more: use --from-zero",
                after.index
            ))),
            Err(error) => Err(Problem::unavailable(format!("region {peer}: {error}"))),
        }
    }

    /// Has the peer followed anew, and tells how far that is.
    async fn again(&mut self, after: Option<FeedPosition>, order: &Order) -> Result<Said, Problem> {
        let (_, before) = self.standing();
        let peer = &self.nodes.region;
        let how = if after.is_some() {
            "since"
        } else {
            "from_zero"
        };
        info!(%peer, how, "an operator has a region read again");
        self.meters.resynced(how);
        let (progress, mut told) = watch::channel(Progress::default());
        let restart = Restart { after, progress };
        let gone = || Problem::unavailable("this region-sync is shutting down: ask another one");
        self.restarts.send(restart).await.map_err(|_| gone())?;
        let deadline = Instant::now() + RESYNC_MAX;
        loop {
            let changed = timeout_at(deadline, told.changed()).await;
            let now = *told.borrow_and_update();
            if now.done {
                return Ok(self.end(Difference::default()));
            }
            match changed {
                Ok(Ok(())) => {
                    let read = now.blocks_read;
                    let _ = order.answers.try_send(Ok(Said::Progress { read, before }));
                }
                Ok(Err(_)) => {
                    let what = format!(
                        "region {peer} is read from the start for another reason: look again in a while"
                    );
                    return Err(Problem::unavailable(what));
                }
                Err(_) => {
                    let what = format!(
                        "region {peer} was not read in {RESYNC_MAX:?}; it goes on: look at `kvmesh_region_sync_lag_entries`"
                    );
                    return Err(Problem::unavailable(what));
                }
            }
        }
    }
}
