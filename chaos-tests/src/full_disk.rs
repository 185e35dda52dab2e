//! Somebody fills the file system of a node's `raft_dir`, and takes whatever becomes free: with
//! `raft_reserve` commits go on, also after a restart, and without it they do not.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use kvmesh_client::{
    Block,
    client::{Opened, PutBlock, PutOptions, PutResult},
};
use kvmesh_directory::{Description, Part};
use rand::{RngCore, SeedableRng, rngs::SmallRng};
use serde_json::json;
use tokio::{task::JoinSet, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::{blocks, disk::Disk, filler::Filler, lone::Lone, poll, scrape};

/// Puts at a time.
const WRITERS: usize = 4;
/// Blocks of one put: they are committed together, in entries as large as they come.
const PUT_BLOCKS: u64 = 128;
const BLOCK_BYTES: usize = 4 << 10;
/// Of one put; it ends without an answer when its node does.
const PUT_BOUND: Duration = Duration::from_secs(10);
/// Until somebody has taken all that is free.
const FILLED_BOUND: Duration = Duration::from_secs(60);
/// For the commits that are wanted, or for the end of a node.
const COMMITS_BOUND: Duration = Duration::from_secs(180);
/// Until the reserve is whole again.
const WHOLE_BOUND: Duration = Duration::from_secs(60);
/// How a node ends that cannot go on.
const SOFTWARE: i32 = 70;
const HELD: &str = "kvmesh_node_raft_reserve_bytes";
const GIVEN: &str = "kvmesh_node_raft_reserve_given_bytes_total";

/// How much is done.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// Of the file system.
    pub disk_bytes: u64,
    /// `raft_reserve`.
    pub reserve_bytes: u64,
    /// Of the reserve, given back before the node is started again, and again afterwards.
    pub given_bytes: u64,
}

/// What it came to.
#[derive(Debug)]
pub struct Report {
    plan: Plan,
    without: u64,
    acked: u64,
    after_restart: u64,
    given: u64,
    seconds: f64,
}

impl Report {
    /// As it is printed.
    #[must_use]
    pub fn json(&self) -> serde_json::Value {
        json!({
            "disk_bytes": self.plan.disk_bytes,
            "raft_reserve": self.plan.reserve_bytes,
            "blocks_committed_on_a_full_disk_without_reserve": self.without,
            "blocks_committed_on_a_full_disk": self.acked,
            "of_these_after_a_restart": self.after_restart,
            "reserve_bytes_given": self.given,
            "seconds": self.seconds,
        })
    }
}

/// Puts that go on until they are stopped.
struct Writing {
    acked: Arc<AtomicU64>,
    unanswered: Arc<AtomicU64>,
    stop: CancellationToken,
    writers: JoinSet<()>,
}

impl Writing {
    fn start(opened: &Opened, next: &Arc<AtomicU64>) -> Self {
        let mut writing = Self {
            acked: Arc::default(),
            unanswered: Arc::default(),
            stop: CancellationToken::new(),
            writers: JoinSet::new(),
        };
        for _ in 0..WRITERS {
            let (opened, next) = (opened.clone(), Arc::clone(next));
            let (acked, unanswered) = (Arc::clone(&writing.acked), Arc::clone(&writing.unanswered));
            let stop = writing.stop.clone();
            writing.writers.spawn(async move {
                while !stop.is_cancelled() {
                    let count = put(&opened, next.fetch_add(1, Ordering::Relaxed)).await;
                    acked.fetch_add(count, Ordering::Relaxed);
                    unanswered.fetch_add(PUT_BLOCKS - count, Ordering::Relaxed);
                }
            });
        }
        writing
    }

    /// Blocks that were acknowledged, and that were not.
    async fn end(mut self) -> Result<(u64, u64)> {
        self.stop.cancel();
        while let Some(ended) = self.writers.join_next().await {
            ended?;
        }
        Ok((
            self.acked.load(Ordering::Relaxed),
            self.unanswered.load(Ordering::Relaxed),
        ))
    }
}

/// How many blocks of a put were acknowledged.
async fn put(opened: &Opened, number: u64) -> u64 {
    let block = |depth: u64| {
        let mut rng = SmallRng::seed_from_u64(number * PUT_BLOCKS + depth);
        let (mut hash, mut bytes) = (vec![0; 32], vec![0; BLOCK_BYTES]);
        rng.fill_bytes(&mut hash);
        rng.fill_bytes(&mut bytes);
        PutBlock {
            hash: hash.into(),
            part: Part::default(),
            block: Block::of(&Bytes::from(bytes), depth as u32),
        }
    };
    let blocks: Vec<PutBlock> = (0..PUT_BLOCKS).map(block).collect();
    let options = PutOptions {
        ack: None,
        deadline: Some(PUT_BOUND),
    };
    let Ok(results) = opened.put(&blocks, options).await else {
        return 0;
    };
    let acked = |result: &&PutResult| matches!(result, PutResult::Acked(_));
    results.iter().filter(acked).count() as u64
}

fn description() -> Description {
    Description {
        model: "full-disk".to_owned(),
        ..blocks::description()
    }
}

/// Runs both in a folder.
///
/// # Errors
/// When a region does not start, or a promise is broken; says which.
pub async fn run(plan: Plan, folder: &Path) -> Result<Report> {
    let begun = Instant::now();
    let without = without(plan, &folder.join("without"))
        .await
        .context("without a reserve")?;
    let mut report = with(plan, &folder.join("with"))
        .await
        .context("with a reserve")?;
    report.without = without;
    report.seconds = begun.elapsed().as_secs_f64();
    Ok(report)
}

/// A region on a file system of its own.
async fn start(plan: Plan, folder: &Path, raft_reserve: u64) -> Result<(Lone, Disk)> {
    std::fs::create_dir_all(folder)?;
    let disk = Disk::new(folder, plan.disk_bytes)?;
    let settings = kvmesh_node::Settings {
        raft_dir: disk.path.join("raft"),
        raft_reserve,
        ..kvmesh_node::Settings::default()
    };
    let lone = Lone::start(folder, settings, &description()).await?;
    Ok((lone, disk))
}

async fn filled(disk: &Disk) -> Result<Filler> {
    let filler = Filler::start(&disk.path)?;
    poll::until("filling the disk", FILLED_BOUND, async || {
        ensure!(filler.full(), "{} bytes are taken", filler.taken());
        Ok(())
    })
    .await?;
    Ok(filler)
}

/// The node ends: else the disk was not full, and what follows would say nothing.
async fn without(plan: Plan, folder: &Path) -> Result<u64> {
    let (mut lone, disk) = start(plan, folder, 0).await?;
    let filler = filled(&disk).await?;
    let writing = Writing::start(&lone.opened, &Arc::default());
    let (code, said) = lone.node.ended(COMMITS_BOUND).await?;
    let (acked, unanswered) = writing.end().await?;
    ensure!(code == SOFTWARE, "the node ended with {code}: {said}");
    ensure!(unanswered > 0, "all of {acked} puts went well");
    filler.end()?;
    Ok(acked)
}

async fn with(plan: Plan, folder: &Path) -> Result<Report> {
    let (mut lone, disk) = start(plan, folder, plan.reserve_bytes).await?;
    let filler = filled(&disk).await?;
    let next = Arc::default();
    let before = go_on(&mut lone, plan, &next).await?;
    lone.node.kill()?;
    // sled writes a new file then, which nothing can be allocated for beforehand.
    filler.set_idle(true);
    lone.restart().await.context("on a full disk")?;
    filler.set_idle(false);
    let after = go_on(&mut lone, plan, &next).await?;
    filler.end()?;
    poll::until("the reserve", WHOLE_BOUND, async || {
        let held = scrape::metric(&lone.metrics, HELD).await?;
        let whole = held.iter().all(|bytes| *bytes == plan.reserve_bytes as f64);
        ensure!(whole && held.len() == 2, "{held:?} bytes are held");
        Ok(())
    })
    .await?;
    lone.node.kill()?;
    Ok(Report {
        plan,
        without: 0,
        acked: before.0 + after.0,
        after_restart: after.0,
        given: before.1 + after.1,
        seconds: 0.0,
    })
}

/// Puts until so much of the reserve is given back, every one acknowledged. Returns how many
/// blocks and bytes.
async fn go_on(lone: &mut Lone, plan: Plan, next: &Arc<AtomicU64>) -> Result<(u64, u64)> {
    let writing = Writing::start(&lone.opened, next);
    let metrics = lone.metrics.clone();
    let given = async || {
        let given = scrape::metric(&metrics, GIVEN).await?;
        Ok::<_, anyhow::Error>(given.first().copied().unwrap_or_default() as u64)
    };
    let used = poll::until("using the reserve", COMMITS_BOUND, async || {
        let given = given().await?;
        let acked = writing.acked.load(Ordering::Relaxed);
        ensure!(given >= plan.given_bytes, "{given} bytes, {acked} commits");
        Ok(())
    });
    let used = used.await;
    let (acked, unanswered) = writing.end().await?;
    lone.node.check()?;
    used?;
    ensure!(acked > 0, "nothing was committed");
    ensure!(
        unanswered == 0,
        "{unanswered} puts were not acknowledged, {acked} were"
    );
    Ok((acked, given().await?))
}
