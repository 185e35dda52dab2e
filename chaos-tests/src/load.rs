//! Reads, puts and lookups as engines make them, each with a deadline inside of which whatever goes
//! wrong must be hidden.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Result, anyhow, bail, ensure};
use kvmesh_client::client::{ChainQuery, GetOptions, GetOutcome, Opened, PutOptions, PutResult};
use kvmesh_directory::{FeedPosition, namespace::AckLevel};
use tokio::{
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;

use crate::blocks::{Blocks, CHAIN_BLOCKS, Ledger};

/// Of every call, when nobody says otherwise.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);
/// Before a read or a lookup is made again inside of its deadline.
const RETRY_PERIOD: Duration = Duration::from_millis(50);
const PUT_PERIOD: Duration = Duration::from_millis(400);
const READ_PERIOD: Duration = Duration::from_millis(50);
const LOOKUP_PERIOD: Duration = Duration::from_millis(20);
/// Of failures, and of reasons why reads were made again.
const TEXTS_KEPT: usize = 20;
/// Chains that the background puts, at most.
const BACKGROUND_CHAINS_MAX: u64 = 2_000;

/// What was done so far.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    pub(crate) puts: AtomicU64,
    pub(crate) reads: AtomicU64,
    pub(crate) lookups: AtomicU64,
    /// Reads and lookups that were made again inside of their deadline.
    pub(crate) retries: AtomicU64,
    /// The longest call since it was last asked for, retries included.
    slowest_us: AtomicU64,
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

    /// Milliseconds of the longest call since this was last asked.
    pub(crate) fn take_slowest_ms(&self) -> u64 {
        self.slowest_us.swap(0, Ordering::Relaxed) / 1_000
    }

    /// Why reads were made again, the first ones.
    pub(crate) fn reasons(&self) -> Vec<String> {
        let reasons = self.reasons.lock().unwrap_or_else(PoisonError::into_inner);
        reasons.clone()
    }

    fn note<T>(&self, begun: Instant, result: Result<T>, done: &AtomicU64) -> Option<T> {
        let took = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.slowest_us.fetch_max(took, Ordering::Relaxed);
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

/// What is asked again until it goes well.
#[derive(Debug, Clone, Copy)]
enum Ask {
    Read,
    LookUp,
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
    /// Of every call.
    pub(crate) deadline: Duration,
}

impl Load {
    /// Puts a chain and notes it once every block is acknowledged on two nodes.
    pub(crate) async fn put(&self) {
        let chain = self.next.fetch_add(1, Ordering::Relaxed);
        let begun = Instant::now();
        let put = self.put_chain(chain).await;
        let noted = self.progress.note(begun, put, &self.progress.puts);
        if noted.is_some() {
            self.ledger.note(chain);
        }
    }

    async fn put_chain(&self, chain: u64) -> Result<()> {
        let options = PutOptions {
            ack: Some(AckLevel::Replicated),
            deadline: Some(self.deadline),
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
        let begun = Instant::now();
        let read = self.again(Ask::Read, region, chain).await;
        self.progress.note(begun, read, &self.progress.reads);
    }

    /// Looks a chain up in a region, again until it is whole or the deadline passes.
    pub(crate) async fn look_up(&self, region: usize, chain: u64) {
        let begun = Instant::now();
        let found = self.again(Ask::LookUp, region, chain).await;
        self.progress.note(begun, found, &self.progress.lookups);
    }

    async fn again(&self, ask: Ask, region: usize, chain: u64) -> Result<()> {
        let what = format!("{ask:?} of chain {chain} in region {region}");
        let end = Instant::now() + self.deadline;
        let mut retries = interval(RETRY_PERIOD);
        retries.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            retries.tick().await;
            let answer = match ask {
                Ask::Read => self.read_once(region, chain, end).await,
                Ask::LookUp => self.look_up_once(region, chain, end).await,
            };
            match answer {
                Ok(()) => return Ok(()),
                Err(error) if Instant::now() >= end => {
                    bail!("{what}: {error:#}")
                }
                Err(error) => {
                    self.progress.retries.fetch_add(1, Ordering::Relaxed);
                    keep(&self.progress.reasons, format!("{what}: {error:#}"));
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

    async fn look_up_once(&self, region: usize, chain: u64, end: Instant) -> Result<()> {
        let query = ChainQuery::from(self.blocks.chain(chain)?);
        let left = end.saturating_duration_since(Instant::now());
        let answer = self.opened[region].lookup(&[query], left).await?;
        let found = answer.matches.first().map_or(0, |it| it.local_blocks);
        ensure!(
            found == CHAIN_BLOCKS,
            "{found} of {CHAIN_BLOCKS} blocks are known"
        );
        Ok(())
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

    /// Looks up through every door, besides.
    pub(crate) fn looking_up(mut self, load: &Arc<Load>) -> Self {
        for region in 0..load.opened.len() {
            let stop = self.stop.clone();
            self.tasks.spawn(look_up(Arc::clone(load), region, stop));
        }
        self
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

async fn look_up(load: Arc<Load>, region: usize, stop: CancellationToken) {
    let mut ticks = interval(LOOKUP_PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while !stop.is_cancelled() {
        ticks.tick().await;
        if let Some(chain) = load.ledger.any() {
            load.look_up(region, chain).await;
        }
    }
}
