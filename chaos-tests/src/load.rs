//! Reads and puts as engines make them, each with a deadline inside of which whatever goes
//! wrong must be hidden.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Result, anyhow, bail};
use kvmesh_client::client::{GetOptions, GetOutcome, Opened, PutOptions, PutResult};
use kvmesh_directory::{FeedPosition, namespace::AckLevel};
use tokio::{
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;

use crate::blocks::{Blocks, CHAIN_BLOCKS, Ledger};

/// Of every call.
const DEADLINE: Duration = Duration::from_secs(30);
/// Before a read is made again inside of its deadline.
const RETRY_PERIOD: Duration = Duration::from_millis(50);
const PUT_PERIOD: Duration = Duration::from_millis(400);
const READ_PERIOD: Duration = Duration::from_millis(50);
/// Of failures, and of reasons why reads were made again.
const TEXTS_KEPT: usize = 20;
/// Chains that the background puts, at most.
const BACKGROUND_CHAINS_MAX: u64 = 2_000;

/// What was done so far.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    pub(crate) puts: AtomicU64,
    pub(crate) reads: AtomicU64,
    /// Reads that were made again inside of their deadline.
    pub(crate) retries: AtomicU64,
    /// Why, the first ones.
    reasons: Mutex<Vec<String>>,
    failures: Mutex<Vec<String>>,
    failed: AtomicU64,
}

impl Progress {
    /// Failures that no retry inside of the deadline hid.
    pub(crate) fn check(&self) -> Result<()> {
        let failed = self.failed.load(Ordering::Relaxed);
        if failed == 0 {
            return Ok(());
        }
        let failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        bail!("{failed} calls failed, such as:\n{}", failures.join("\n"))
    }

    /// Why reads were made again, the first ones.
    pub(crate) fn reasons(&self) -> Vec<String> {
        let reasons = self.reasons.lock().unwrap_or_else(PoisonError::into_inner);
        reasons.clone()
    }

    fn note<T>(&self, result: Result<T>, done: &AtomicU64) -> Option<T> {
        match result {
            Ok(value) => {
                done.fetch_add(1, Ordering::Relaxed);
                Some(value)
            }
            Err(error) => {
                self.failed.fetch_add(1, Ordering::Relaxed);
                keep(&self.failures, format!("{error:#}"));
                None
            }
        }
    }
}

fn keep(texts: &Mutex<Vec<String>>, text: String) {
    let mut texts = texts.lock().unwrap_or_else(PoisonError::into_inner);
    if texts.len() < TEXTS_KEPT {
        texts.push(text);
    }
}

/// The namespace in every region, and what was done with it.
pub(crate) struct Load {
    pub(crate) blocks: Blocks,
    /// By region; blocks are put into the first.
    pub(crate) opened: Vec<Opened>,
    pub(crate) ledger: Ledger,
    pub(crate) progress: Progress,
    /// Number of the next chain.
    pub(crate) next: AtomicU64,
}

impl Load {
    /// Puts a chain and notes it once every block is acknowledged on two nodes.
    pub(crate) async fn put(&self) {
        let chain = self.next.fetch_add(1, Ordering::Relaxed);
        let put = self.put_chain(chain).await;
        if self.progress.note(put, &self.progress.puts).is_some() {
            self.ledger.note(chain);
        }
    }

    async fn put_chain(&self, chain: u64) -> Result<()> {
        let options = PutOptions {
            ack: Some(AckLevel::Replicated),
            deadline: Some(DEADLINE),
        };
        let blocks = self.blocks.to_put(chain);
        let results = self.opened[0].put(&blocks, options).await;
        let results = results.map_err(|error| anyhow!("chain {chain}: {error:#}"))?;
        for (index, result) in results.iter().enumerate() {
            match result {
                PutResult::Acked(acked) if acked.level >= AckLevel::Replicated => {
                    self.observe(&acked.position);
                }
                other => bail!("block {index} of chain {chain} is not acknowledged: {other:?}"),
            }
        }
        Ok(())
    }

    /// Readers everywhere read what was written here.
    fn observe(&self, position: &FeedPosition) {
        for opened in &self.opened {
            opened.client().observe(position);
        }
    }

    /// Reads a chain in a region, again until it is whole or the deadline passes.
    pub(crate) async fn read(&self, region: usize, chain: u64) {
        let read = self.read_chain(region, chain).await;
        self.progress.note(read, &self.progress.reads);
    }

    async fn read_chain(&self, region: usize, chain: u64) -> Result<()> {
        let end = Instant::now() + DEADLINE;
        let mut retries = interval(RETRY_PERIOD);
        retries.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            retries.tick().await;
            match self.read_once(region, chain, end).await {
                Ok(()) => return Ok(()),
                Err(error) if Instant::now() >= end => {
                    bail!("chain {chain} in region {region}: {error:#}")
                }
                Err(error) => {
                    self.progress.retries.fetch_add(1, Ordering::Relaxed);
                    let reason = format!("chain {chain} in region {region}: {error:#}");
                    keep(&self.progress.reasons, reason);
                }
            }
        }
    }

    async fn read_once(&self, region: usize, chain: u64, end: Instant) -> Result<()> {
        let options = GetOptions {
            deadline: Some(end.saturating_duration_since(Instant::now())),
            count: CHAIN_BLOCKS,
            ..GetOptions::default()
        };
        let names = self.blocks.chain(chain)?;
        let fetched = self.opened[region].get(&names, options).await?;
        if fetched.summary.outcome != GetOutcome::Complete {
            bail!("ended with {:?}", fetched.summary);
        }
        self.blocks.check(chain, &fetched.blocks)
    }
}

/// Reads and puts in the background until it is told to end.
pub(crate) struct Background {
    stop: CancellationToken,
    tasks: JoinSet<()>,
}

impl Background {
    /// Two writers into the first region; two readers there, and one in every other.
    pub(crate) fn start(load: &Arc<Load>) -> Self {
        let stop = CancellationToken::new();
        let mut tasks = JoinSet::new();
        for _ in 0..2 {
            tasks.spawn(write(Arc::clone(load), stop.clone()));
        }
        for region in [0].into_iter().chain(0..load.opened.len()) {
            tasks.spawn(read(Arc::clone(load), region, stop.clone()));
        }
        Self { stop, tasks }
    }

    /// Ends after the calls that are under way.
    pub(crate) async fn end(mut self) -> Result<()> {
        self.stop.cancel();
        while let Some(task) = self.tasks.join_next().await {
            task?;
        }
        Ok(())
    }
}

async fn write(load: Arc<Load>, stop: CancellationToken) {
    let mut ticks = interval(PUT_PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let last = load.next.load(Ordering::Relaxed) + BACKGROUND_CHAINS_MAX;
    while !stop.is_cancelled() && load.next.load(Ordering::Relaxed) < last {
        ticks.tick().await;
        load.put().await;
    }
}

async fn read(load: Arc<Load>, region: usize, stop: CancellationToken) {
    let mut ticks = interval(READ_PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while !stop.is_cancelled() {
        ticks.tick().await;
        if let Some(chain) = load.ledger.any() {
            load.read(region, chain).await;
        }
    }
}
