//! What engines do during a drill: each puts chains of its own and reads chains that more than
//! one region has, one call after the other, and notes how every call ended.

use std::{
    collections::BTreeSet,
    ops::Range,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use kvmesh_client::client::{GetOptions, GetOutcome, Opened, PutOptions, PutResult};
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::material::{BLOCKS, Material};

/// From the start of one call to the start of the next.
const PERIOD: Duration = Duration::from_millis(100);
/// Of so many calls of a client one is a put.
const PUT_EVERY: u64 = 5;
/// Of every call. A call that no gateway answers in it has failed.
pub(super) const DEADLINE: Duration = Duration::from_secs(10);
/// Calls of one client that are remembered.
const CALLS_MAX: usize = 100_000;
/// Failures that are told.
const FAILURES_TOLD: usize = 5;

/// About so many puts do so many clients in this time.
pub(super) fn puts(clients: usize, time: Duration) -> usize {
    let each = time.as_millis() / PERIOD.as_millis() / u128::from(PUT_EVERY);
    usize::try_from(each).map_or(usize::MAX, |each| each.saturating_mul(clients))
}

/// What a call was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Get,
    Put,
}

/// How a call ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum End {
    /// Every block came, or was acknowledged: from or in this region.
    Served(String),
    /// Not all blocks came.
    Missed,
    Wrong,
    Failed(String),
}

/// One call.
#[derive(Debug, Clone)]
pub(super) struct Call {
    pub(super) kind: Kind,
    pub(super) begun: Instant,
    pub(super) ended: Instant,
    pub(super) end: End,
}

impl Call {
    /// It began and ended in this time.
    pub(super) fn is_within(&self, time: &Range<Instant>) -> bool {
        time.start <= self.begun && self.ended <= time.end
    }

    /// It was under way at some moment of this time.
    pub(super) fn touches(&self, time: &Range<Instant>) -> bool {
        time.start <= self.ended && self.begun < time.end
    }
}

/// A chain that was acknowledged whole.
#[derive(Debug, Clone)]
pub(super) struct Acked {
    pub(super) chain: u64,
    /// Where its blocks are: in two regions, when the first was lost in the middle of the put.
    pub(super) regions: BTreeSet<String>,
}

/// What all engines share.
pub(super) struct Ledger {
    pub(super) material: Material,
    /// Chains that more than one region has.
    pub(super) shared: Vec<u64>,
    pub(super) acked: Mutex<Vec<Acked>>,
    pub(super) next: AtomicU64,
}

/// An engine.
pub(super) struct Engine {
    /// Its own region.
    pub(super) region: usize,
    pub(super) opened: Opened,
    pub(super) calls: Mutex<Vec<Call>>,
}

/// All engines, at work until [`Self::end`].
pub(super) struct Load {
    pub(super) engines: Vec<Arc<Engine>>,
    pub(super) ledger: Arc<Ledger>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Load {
    /// Engines by their region.
    pub(super) fn start(engines: Vec<(usize, Opened)>, ledger: Arc<Ledger>) -> Self {
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let engines = engines.into_iter().map(|(region, opened)| {
            let engine = Arc::new(Engine {
                region,
                opened,
                calls: Mutex::default(),
            });
            tasks.spawn(work(Arc::clone(&engine), Arc::clone(&ledger), stop.clone()));
            engine
        });
        Self {
            engines: engines.collect(),
            ledger,
            tasks,
            stop,
        }
    }

    /// Ends after the calls that are under way.
    pub(super) async fn end(&self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// All calls that end from `since` on of the engines that `of` names by their region.
    pub(super) fn calls(&self, since: Instant, of: impl Fn(usize) -> bool) -> Vec<Call> {
        let engines = self.engines.iter().filter(|engine| of(engine.region));
        let calls = engines.flat_map(|engine| {
            let calls = engine.calls();
            let late = calls.iter().filter(|call| call.ended >= since);
            late.cloned().collect::<Vec<_>>()
        });
        calls.collect()
    }

    /// Chains that are acknowledged by now.
    pub(super) fn acked(&self) -> Vec<Acked> {
        self.ledger.acked().clone()
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Engine {
    pub(super) fn calls(&self) -> MutexGuard<'_, Vec<Call>> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// When the first call of a kind ended that `by` served, and that ended after `since`.
    pub(super) fn first_served(
        &self,
        kind: Kind,
        since: Instant,
        by: impl Fn(&str) -> bool,
    ) -> Option<Instant> {
        let calls = self.calls();
        let served = calls.iter().find(|call| {
            let by_whom = matches!(&call.end, End::Served(region) if by(region));
            call.kind == kind && call.ended > since && by_whom
        });
        served.map(|call| call.ended)
    }
}

impl Ledger {
    pub(super) fn acked(&self) -> MutexGuard<'_, Vec<Acked>> {
        self.acked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn work(engine: Arc<Engine>, ledger: Arc<Ledger>, stop: CancellationToken) {
    let mut ticks = interval(PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut turn: u64 = 0;
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = stop.cancelled() => return,
        }
        turn += 1;
        let begun = Instant::now();
        let (kind, end) = match turn % PUT_EVERY {
            0 => (Kind::Put, put(&engine, &ledger).await),
            _ => (Kind::Get, get(&engine, &ledger).await),
        };
        let call = Call {
            kind,
            begun,
            ended: Instant::now(),
            end,
        };
        let mut calls = engine.calls();
        if calls.len() < CALLS_MAX {
            calls.push(call);
        }
    }
}

async fn put(engine: &Engine, ledger: &Ledger) -> End {
    let chain = ledger.next.fetch_add(1, Ordering::Relaxed);
    let options = PutOptions {
        deadline: Some(DEADLINE),
        ..PutOptions::default()
    };
    let blocks = ledger.material.blocks(chain);
    let results = match engine.opened.put(&blocks, options).await {
        Ok(results) => results,
        Err(error) => return End::Failed(format!("put: {error}")),
    };
    let (mut last, mut regions) = (String::new(), BTreeSet::new());
    for result in &results {
        match result {
            PutResult::Acked(acked) => last = acked.position.region.to_string(),
            other => return End::Failed(format!("put: {other:?}")),
        }
        regions.insert(last.clone());
    }
    ledger.acked().push(Acked { chain, regions });
    End::Served(last)
}

async fn get(engine: &Engine, ledger: &Ledger) -> End {
    let at = kvmesh_client::random::in_range(0..ledger.shared.len());
    let number = ledger.shared[at];
    let Ok(chain) = ledger.material.chain(number) else {
        return End::Missed;
    };
    let options = GetOptions {
        deadline: Some(DEADLINE),
        ..GetOptions::default()
    };
    let fetched = match engine.opened.get(&chain, options).await {
        Ok(fetched) => fetched,
        Err(error) => return End::Failed(format!("get: {error}")),
    };
    let material = ledger.material;
    if !fetched
        .blocks
        .iter()
        .all(|block| material.is_exact(number, block))
    {
        return End::Wrong;
    }
    let whole = fetched.summary.outcome == GetOutcome::Complete;
    match fetched.blocks.last() {
        Some(last) if whole && fetched.blocks.len() == BLOCKS as usize => {
            End::Served(last.region.to_string())
        }
        _ => End::Missed,
    }
}

/// What calls were like.
#[derive(Debug, Clone, Default, serde::Serialize)]
pub(super) struct Tally {
    pub(super) calls: usize,
    pub(super) missed: usize,
    pub(super) wrong: usize,
    pub(super) failed: usize,
    /// That were served whole.
    pub(super) gets: usize,
    pub(super) puts: usize,
    /// Of the gets that were served, milliseconds.
    pub(super) get_p50_ms: f64,
    pub(super) get_p99_ms: f64,
    pub(super) put_p50_ms: f64,
    pub(super) put_p99_ms: f64,
    /// The longest call, however it ended.
    pub(super) longest_ms: f64,
    /// Why calls failed, the first ones.
    pub(super) failures: Vec<String>,
}

impl Tally {
    pub(super) fn of(calls: &[Call]) -> Self {
        let mut tally = Self {
            calls: calls.len(),
            ..Self::default()
        };
        let (mut gets, mut puts) = (Vec::new(), Vec::new());
        for call in calls {
            let ms = (call.ended - call.begun).as_secs_f64() * 1e3;
            tally.longest_ms = tally.longest_ms.max(ms);
            match (&call.end, call.kind) {
                (End::Served(_), Kind::Get) => gets.push(ms),
                (End::Served(_), Kind::Put) => puts.push(ms),
                (End::Missed, _) => tally.missed += 1,
                (End::Wrong, _) => tally.wrong += 1,
                (End::Failed(why), _) => {
                    tally.failed += 1;
                    if tally.failures.len() < FAILURES_TOLD {
                        tally.failures.push(why.clone());
                    }
                }
            }
        }
        (tally.gets, tally.puts) = (gets.len(), puts.len());
        (tally.get_p50_ms, tally.get_p99_ms) = (share(&mut gets, 0.5), share(&mut gets, 0.99));
        (tally.put_p50_ms, tally.put_p99_ms) = (share(&mut puts, 0.5), share(&mut puts, 0.99));
        tally
    }
}

fn share(times: &mut [f64], share: f64) -> f64 {
    times.sort_by(f64::total_cmp);
    let at = (times.len() as f64 * share) as usize;
    let at = at.min(times.len().saturating_sub(1));
    times.get(at).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tally_counts_every_end_and_measures_what_was_served() {
        let begun = Instant::now();
        let call = |kind, ms, end| Call {
            kind,
            begun,
            ended: begun + Duration::from_millis(ms),
            end,
        };
        let served = || End::Served("a".to_owned());
        let mut calls: Vec<Call> = (1..=100).map(|ms| call(Kind::Get, ms, served())).collect();
        calls.push(call(Kind::Put, 7, served()));
        calls.push(call(Kind::Get, 500, End::Missed));
        calls.push(call(Kind::Get, 1, End::Wrong));
        calls.extend((0..9).map(|_| call(Kind::Put, 1, End::Failed("no".to_owned()))));
        let tally = Tally::of(&calls);
        assert_eq!((tally.calls, tally.missed, tally.wrong), (112, 1, 1));
        assert_eq!((tally.failed, tally.failures.len()), (9, FAILURES_TOLD));
        assert_eq!((tally.gets, tally.puts), (100, 1));
        assert_eq!((tally.get_p50_ms, tally.get_p99_ms), (51.0, 100.0));
        assert_eq!((tally.put_p50_ms, tally.longest_ms), (7.0, 500.0));
    }
}
